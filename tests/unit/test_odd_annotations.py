"""Odd annotations given to ``slidecascade dataset`` and odd truth given to ``slidecascade evaluate``."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pytest
import tifffile

import toy_dataset
from leica_slide import write_leica
from slidecascade.cli import main
from toy_pipeline import ToyPipeline, blobs

SQUARE: Final = [[20, 20], [60, 20], [60, 60], [20, 60], [20, 20]]
INNER: Final = [[30, 30], [40, 30], [40, 40], [30, 40], [30, 30]]
OUTER: Final = [[0, 0], [90, 0], [90, 90], [0, 90], [0, 0]]
ELSEWHERE: Final = [[70, 70], [80, 70], [80, 80], [70, 70]]
BOW: Final = [[20, 20], [60, 60], [60, 20], [20, 60], [20, 20]]
CIRCLE: Final = [[40 + 20 * np.cos(turn), 40 + 20 * np.sin(turn)] for turn in np.linspace(0, 6.28, 100_000)]


def polygon(*rings: list[Any], class_name: Any = "Red") -> dict[str, Any]:
    geometry = {"type": "Polygon", "coordinates": list(rings)}
    return {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": class_name}}}


def shape(kind: str, coordinates: Any) -> dict[str, Any]:
    return {**polygon(), "geometry": {"type": kind, "coordinates": coordinates}}


def text(*features: Any, **members: Any) -> bytes:
    return json.dumps({"type": "FeatureCollection", "features": list(features), **members}).encode()


def asap(*corners: Any, kind: str = "Polygon") -> bytes:
    inside = "".join(f'<Coordinate Order="x" X="{x}" Y="{y}"/>' for x, y in corners)
    return (
        f'<ASAP_Annotations><Annotations><Annotation Type="{kind}" PartOfGroup="Red"><Coordinates>{inside}'
        "</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    ).encode()


Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_dataset.write_slides(tmp_path_factory.mktemp("odd"), 1)[0]


@pytest.fixture
def dataset(slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Cuts a data set ``tmp_path / "data"`` from an annotation file; exit code and what stderr says."""

    def run(content: bytes, *more: str, ending: str = ".geojson") -> tuple[int, str]:
        (tmp_path / "annotations").mkdir()
        (tmp_path / "annotations" / f"s0{ending}").write_bytes(content)
        call = ["dataset", "--slides", str(slides), "--annotations", str(tmp_path / "annotations")]
        call += ["--out", str(tmp_path / "data"), "--mpp", "0.25", "--slide-mpp", "0.25", "--no-validation"]
        code = main([*call, *(more or ("--size", "24"))])
        return code, capsys.readouterr().err

    return run


OUTLINED: Final[dict[str, tuple[list[Any], int]]] = {
    "a square": ([SQUARE], 1600),
    "the other way round": ([SQUARE[::-1]], 1600),
    "not closed": ([SQUARE[:-1]], 1600),
    "three times around": ([SQUARE * 3], 1600),
    "a bow": ([BOW], 800),
    "a hole": ([SQUARE, INNER], 1500),
    "a hole outside": ([SQUARE, ELSEWHERE], 1600),
    "a hole of two corners": ([SQUARE, INNER[:2]], 1600),
    "the same hole twice": ([SQUARE, INNER, INNER], 1500),
    "heights": ([[[*corner, 5] for corner in SQUARE]], 1600),
    "100,000 corners": ([CIRCLE], 1264),
}


@pytest.mark.parametrize("name", OUTLINED)
def test_polygons_cover_what_they_enclose(dataset: Run, tmp_path: Path, name: str) -> None:
    """Pixels of the label image, however the rings are drawn; it takes no minute and no gigabytes."""
    rings, pixels = OUTLINED[name]
    code, said = dataset(text(polygon(*rings)), "--from", "outlines", "--size", "96")
    assert code == 0, said
    (labels,) = (tmp_path / "data").rglob("*_labels.png")
    found = cv2.imread(str(labels), cv2.IMREAD_UNCHANGED)
    assert found is not None
    assert int(np.count_nonzero(found)) == pixels


FLAT: Final = {
    "collinear corners": [[[1, 1], [5, 5], [9, 9], [1, 1]]],
    "a hole as large": [SQUARE, SQUARE],
    "a larger hole": [SQUARE, OUTER],
}


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("source", ["outlines", "regions"])
def test_polygons_without_area_are_left_out(dataset: Run, tmp_path: Path, name: str, source: str) -> None:
    """They outline nothing, and hold nothing: with no other polygon there is no data set."""
    code, said = dataset(text(polygon(*FLAT[name])), "--from", source, "--size", "24")
    assert code == 2, said
    assert not (tmp_path / "data").exists()


CUT: Final[dict[str, bytes]] = {
    "a byte order mark": b"\xef\xbb\xbf" + text(polygon(SQUARE)),
    "a coordinate system": text(polygon(SQUARE), crs={"properties": {"name": "EPSG:4326"}}),
    "a class that is a path": text(polygon(SQUARE, class_name="../../x")),
    "a class of another script": text(polygon(SQUARE, class_name="肝😀")),
    "a class with a comma": text(polygon(SQUARE, class_name="a,b")),
    "a line beside it": text(polygon(SQUARE), shape("LineString", SQUARE)),
    "an unknown shape beside it": text(polygon(SQUARE), shape("Circle", [1, 2])),
    "several polygons of none beside it": text(polygon(SQUARE), shape("MultiPolygon", [])),
    "whole numbers": text(shape("Point", [20, 30])),
}


@pytest.mark.parametrize("name", CUT)
def test_one_crop_is_cut(dataset: Run, tmp_path: Path, name: str) -> None:
    """Inside the data set's own folder, and what was left out is reported."""
    code, said = dataset(CUT[name])
    assert code == 0, said
    assert len(list((tmp_path / "data" / "crops").rglob("*.png"))) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"annotations", "data"}
    assert ("Skipped: 1" in said) == ("beside it" in name)


_GEOJSON = "not GeoJSON as QuPath writes it"
REFUSED: Final[dict[str, tuple[bytes, str]]] = {
    "NaN": (b'{"features": [{"geometry": {"type": "Point", "coordinates": [NaN, 1]}}]}', "not valid JSON"),
    "a number beyond all": (text(shape("Point", [0.5, 0])).replace(b"0.5", b"1e999"), "not valid JSON"),
    "a place on no slide": (text(shape("Point", [1e300, 0])), "a position that is on no slide in object 1"),
    "a corner on no slide": (text(polygon([[0, 0], [1e300, 0], [1e300, 1], [0, 0]])), "on no slide"),
    "another place": (text(polygon([[-122, 37], [-121, 37], [-121, 38]])), "lie outside s0.png"),
    "fractions of the image": (text(polygon([[0.1, 0.1], [0.5, 0.1], [0.5, 0.9]])), "fractions of the image"),
    "text for numbers": (text(polygon(SQUARE), shape("Point", ["20", "30"])), "in object 2"),
    "truth for numbers": (text(shape("Point", [True, False])), "not two numbers"),
    "nothing for numbers": (text(shape("Point", [None, None])), "not two numbers"),
    "one number": (text(shape("Point", [5])), "not two numbers"),
    "no numbers": (text(shape("Point", [])), "not two numbers"),
    "two corners": (text(polygon([[1, 1], [5, 5]])), "fewer than three corners"),
    "no ring": (text(polygon()), "fewer than three corners"),
    "an empty ring": (text(polygon([])), "fewer than three corners"),
    "a polygon as several": (text(shape("MultiPolygon", [SQUARE])), _GEOJSON),
    "no place": (text({**polygon(), "geometry": None}), "no geometry in object 1"),
    "features that are none": (b'{"type": "FeatureCollection", "features": {}}', _GEOJSON),
    "a feature that is text": (text("x"), _GEOJSON),
    "a class that is a number": (text(polygon(SQUARE, class_name=5)), "a class that is not text"),
    "a class that is a list": (text({**polygon(SQUARE), "properties": {"classification": ["a"]}}), "not text"),
    "a class with NUL": (text(polygon(SQUARE, class_name="a\0b")), "which no model can have"),
    "a class of 5,000 letters": (text(polygon(SQUARE, class_name="x" * 5000)), "which no model can have"),
    "no class": (text(polygon(SQUARE, class_name="")), "No annotation that counts has a class"),
    "lower case": (text(shape("polygon", [SQUARE])), "No annotation that counts has a class"),
    "half a surrogate": (text(polygon(SQUARE)).replace(b"Red", b"\\ud800"), "not valid JSON"),
    "UTF-16": (text(polygon(SQUARE)).decode().encode("utf-16"), "not text in UTF-8"),
    "Latin-1": (text(polygon(SQUARE)).replace(b"Red", b"Gr\xfcn"), "not text in UTF-8"),
    "a file for each line": (text(polygon(SQUARE)) + b"\n" + text(polygon(SQUARE)), "line 2"),
    "100,000 open brackets": (b"[" * 100_000, "not valid JSON"),
    "spaces": (b"  \n", "is empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_in_a_sentence(dataset: Run, tmp_path: Path, name: str) -> None:
    """Exit code 2, the file's name, the cause; no partial files remain."""
    content, words = REFUSED[name]
    code, said = dataset(content)
    assert code == 2, said
    assert words in said
    assert len(said.splitlines()[-1]) < 400
    assert "Traceback" not in said
    assert "Warning" not in said
    assert not (tmp_path / "data").exists()


XML: Final[dict[str, tuple[bytes, int, str]]] = {
    "a spline": (asap(*SQUARE, kind="Spline"), 0, "s0.png: 1 crops"),
    "UTF-16": (
        b'<?xml version="1.0" encoding="utf-16"?>'.decode().encode("utf-16")
        + asap(*SQUARE).decode().encode("utf-16-le"),
        0,
        "s0.png: 1 crops",
    ),
    "NaN": (asap(("NaN", 1), (2, 2), (3, 1)), 2, "a corner without a position"),
    "a corner on no slide": (asap(("1e300", 1), (2, 2), (3, 1)), 2, "on no slide"),
    "a corner in letters": (asap(("a", 1)), 2, "a corner without a position"),
    "an unknown shape": (asap((20, 20), kind="Blob"), 2, "No annotation that counts has a class"),
    "a page": (b"<html><body/></html>", 2, "neither of ASAP nor of Aperio"),
    "an unknown encoding": (b'<?xml version="1.0" encoding="klingon"?>' + asap((1, 1)), 2, "not well-formed"),
    "50,000 open tags": (b"<a>" * 50_000, 2, "not well-formed"),
}


@pytest.mark.parametrize("name", XML)
def test_xml_is_read_or_refused_in_a_sentence(dataset: Run, name: str) -> None:
    """As GeoJSON is."""
    content, code, words = XML[name]
    found, said = dataset(content, ending=".xml")
    assert (found, words in said, "Traceback" in said) == (code, True, False), said


def test_an_origin_that_is_none_is_refused(dataset: Run, tmp_path: Path) -> None:
    """A file that says what it counts from is not read in another frame."""
    folder = tmp_path / "scans"
    folder.mkdir()
    write_leica(folder / "s0.scn", blobs(3, 400, 300, 40), corner=(100, 100), size=(1000, 1000))
    content = text(polygon(SQUARE), slidecascade={"origin": "moon"})
    code, said = dataset(content, "--slides", str(folder), "--size", "24")
    assert (code, "--annotation-origin" in said) == (2, True), said


IMAGE: Final = blobs(0, 96, 80, 9)
LABELS: Final = np.pad(np.full((20, 20), 1, np.uint16), ((20, 40), (20, 56)))


def image(pixels: Any) -> bytes:
    return bytes(cv2.imencode(".png", pixels)[1])


def tiff(pixels: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels)
    return file.getvalue()


def huge_header() -> bytes:
    """A PNG that states 2**31 - 1 pixels a side."""
    body = b"IHDR" + struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


TRUTHS: Final[dict[str, tuple[str, bytes]]] = {
    "labels below 0": ("_labels.tiff", tiff(-LABELS.astype(np.int32))),
    "labels beyond 32 bits": ("_labels.tiff", tiff(LABELS.astype(np.float64) * 1e12)),
    "labels of NaN": ("_labels.tiff", tiff(np.where(LABELS > 0, np.nan, 0).astype(np.float32))),
    "a stack": ("_labels.tiff", tiff(np.stack([LABELS, LABELS]))),
    "a picture for labels": ("_labels.png", image(IMAGE)),
    "a size beyond memory": ("_labels.png", huge_header()),
    "turned labels": ("_labels.png", image(LABELS.T)),
    "a JPEG for labels": ("_labels.png", bytes(cv2.imencode(".jpg", LABELS.astype(np.uint8))[1])[:300]),
    "an array that is pickled": ("_labels.npy", b"\x93NUMPY\x01\x00garbage"),
    "corners on no slide": (".geojson", text(polygon([[0, 0], [1e300, 0], [1e300, 9], [0, 0]]))),
    "fractions": (".geojson", text(polygon([[0.1, 0.1], [0.5, 0.1], [0.5, 0.5]]))),
    "no pixel": (".geojson", text(polygon([[5.1, 5.1], [5.2, 5.1], [5.2, 5.2]]))),
    "a table": (".geojson", b"x,y\n1,2\n"),
}


@pytest.mark.parametrize("name", TRUTHS)
def test_truth_that_cannot_be_used_is_refused_in_a_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one line; nothing is measured."""
    toy = ToyPipeline(tmp_path / "toy")
    monkeypatch.setenv("SLIDECASCADE_MODELS_DIR", str(toy.models_dir))
    monkeypatch.setenv("SLIDECASCADE_PIPELINES_DIR", str(toy.pipelines_dir))
    folder = tmp_path / "data"
    folder.mkdir()
    ending, content = TRUTHS[name]
    (folder / "a.png").write_bytes(image(IMAGE))
    (folder / f"a{ending}").write_bytes(content)
    code = main(["evaluate", "--pipeline", "toy", "--data", str(folder)])
    said = capsys.readouterr()
    assert (code, said.out, said.err.count("\n")) == (2, "", 1), said
