"""A slide is identified by its bytes, not by its name, without reading all of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slidecascade.geometry import Box, Size
from slidecascade.slides import content, slide
from slidecascade.slides.content import files_of, id_of_bytes, id_of_files
from slidecascade.slides.slide import Slide
from slidecascade.slides.upload import decode_image, open_image
from slidecascade_render.liver.slides import write_slide
from slidecascade_render.liver.tissue import TissueOptions

SERIES = "1.2.840.99999.7"


def identified(path: Path) -> str:
    opened = Slide.open(path)
    try:
        return opened.content_id
    finally:
        opened.close()


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("content") / "a.tiff"
    write_slide(path, TissueOptions(seed=4, mpp=0.5), 512, 384, levels=2)
    return path


def test_a_slide_keeps_its_id_under_another_name(rendered: Path, tmp_path: Path) -> None:
    """A copy has the id of the original; one changed pixel block, another."""
    copy = Path(shutil.copy(rendered, tmp_path / "other name.tif"))
    assert identified(copy) == identified(rendered)
    assert len(identified(copy)) == 64

    data = bytearray(rendered.read_bytes())
    data[-200] ^= 1
    copy.write_bytes(data)
    assert identified(copy) != identified(rendered)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(0, 400_000), place=st.floats(0, 0.999999))
def test_every_byte_of_a_small_file_counts(tmp_path: Path, size: int, place: float) -> None:
    """Up to twice the edges and all the blocks a file is read as a whole, so any change is seen."""
    limit = 2 * content.EDGE_BYTES + content.BLOCKS * content.BLOCK_BYTES
    data = bytearray(np.random.default_rng(size).integers(0, 256, min(size, limit), np.uint8).tobytes())
    path = tmp_path / "slide"
    path.write_bytes(data)
    before = id_of_files([path])
    if data:
        data[int(place * len(data))] ^= 1
        path.write_bytes(data)
        assert id_of_files([path]) != before
    path.write_bytes(bytes(data) + b"\0")
    assert id_of_files([path]) != before


def test_a_large_file_is_not_read_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file of a gigabyte less than 200 KiB are read, at its head, its tail and evenly between."""
    path = tmp_path / "slide"
    with path.open("wb") as file:
        file.truncate(2**30)
    read: list[tuple[int, int]] = []
    update = content._update

    def counted(digest: Any, file: BinaryIO, start: int, length: int) -> None:
        read.append((start, length))
        update(digest, file, start, length)

    monkeypatch.setattr(content, "_update", counted)

    id_of_files([path])

    assert sum(length for _, length in read) < 200 * 1024
    starts = sorted(start for start, _ in read)
    assert starts[0] == 0
    assert starts[-1] == 2**30 - content.EDGE_BYTES
    assert np.diff(starts).max() < 2**30 / 14


def test_all_files_of_a_slide_take_part_whatever_their_names(tmp_path: Path) -> None:
    """MIRAX: a file and its folder; renamed together they are the same slide, one changed part is another."""
    ids = []
    for name, last in (("first", b"c"), ("second", b"c"), ("third", b"d")):
        folder = tmp_path / name
        folder.mkdir()
        (tmp_path / f"{name}.mrxs").write_bytes(b"head")
        (folder / "Slidedat.ini").write_bytes(b"b")
        (folder / "Data0000.dat").write_bytes(last)
        ids.append(id_of_files(files_of(tmp_path / f"{name}.mrxs"), quickhash="q"))
    assert ids[0] == ids[1] != ids[2]
    assert len(files_of(tmp_path / "first.mrxs")) == 3


def test_a_dicom_slide_is_the_files_of_its_series(tmp_path: Path) -> None:
    """Whichever instance is named, those of the same series in its folder are taken, others are not."""
    value = SERIES.encode() + b"\0"
    element = b"\x20\x00\x0e\x00UI" + len(value).to_bytes(2, "little") + value
    for name, body in (("a.dcm", element + b"level 0"), ("b.dcm", element + b"level 1"), ("c.dcm", b"another")):
        (tmp_path / name).write_bytes(bytes(128) + b"DICM" + body)

    first, second = (files_of(tmp_path / name, series=SERIES) for name in ("a.dcm", "b.dcm"))

    assert {path.name for path in first} == {path.name for path in second} == {"a.dcm", "b.dcm"}
    assert id_of_files(first) == id_of_files(second)


def test_the_files_of_a_vms_slide_are_found(tmp_path: Path) -> None:
    """Its image files stand beside it and begin with its name."""
    for name in ("s.vms", "s(0,1).jpg", "s_map2.jpg", "t.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert {path.name for path in files_of(tmp_path / "s.vms")} == {"s.vms", "s(0,1).jpg", "s_map2.jpg"}
    assert files_of(tmp_path / "t.jpg") == (tmp_path / "t.jpg",)


def test_an_upload_is_identified_by_its_bytes(shared_data: Path) -> None:
    """The digest is of what was sent, not of the pixels."""
    path = next((shared_data / "liver").rglob("*.png"))
    data = path.read_bytes()
    assert open_image(data, max_px=10**8).content_id == id_of_bytes(data)
    assert decode_image(data, max_px=10**8).content_id == id_of_bytes(data)


def test_every_real_slide_has_an_id_of_its_own(shared_data: Path) -> None:
    """Of all vendors, and no two the same."""
    ids = {}
    for path in sorted((shared_data / "slides").iterdir()):
        if path.is_file() and slide.can_open(path):
            ids[path.name] = identified(path)
    assert len(set(ids.values())) == len(ids) > 5


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (("10", "20", "100", "50"), Box(10, 20, 100, 50)),
        (("10", "20", "1000", "50"), None),
        (("10", "20", "0", "50"), None),
        (("10", "20", "wide", "50"), None),
    ],
)
def test_bounds_are_those_that_lie_in_the_slide(stated: tuple[str, ...], expected: Box | None) -> None:
    """What a scanner states is used when it can be true; bounds that are missing are none."""
    names = ("x", "y", "width", "height")
    properties = {f"openslide.bounds-{name}": value for name, value in zip(names, stated, strict=True)}
    assert slide._bounds(properties, Size(200, 100)) == expected
    assert slide._bounds({}, Size(200, 100)) is None
