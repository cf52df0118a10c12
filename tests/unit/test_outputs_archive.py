"""All answers at once."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from made_analysis import make_analysis
from qupath import check_feature_collection
from slidecascade import wire
from slidecascade.cells.result import Analysis
from slidecascade.errors import ModelFailedError
from slidecascade.geometry import Box
from slidecascade.outputs import archive
from slidecascade.outputs.cells import encoders, geojson, heatmap, summary
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.encoders import Drawing
from slidecascade.outputs.files import Files
from slidecascade.outputs.heatmap import Heatmap
from slidecascade.pipelines.heatmaps import HeatmapSpec

FIGURES = ["figures/steatosis.png", "figures/immune.png", "figures/overlay.png"]
NAMES = [
    "summary.json",
    "heatmaps/steatosis.png",
    "heatmaps/immune.png",
    "overlay.png",
    *FIGURES,
    "cells.geojson",
]


def image_of(region: Box) -> Any:
    return np.full((region.height, region.width, 3), (236, 190, 214), np.uint8)


def decoded(picture: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_UNCHANGED)


def files_of(analysis: Analysis, colormap: Colormap = Colormap.VIRIDIS) -> Files:
    image = image_of(analysis.region_l0)
    return encoders.files(analysis, lambda max_side_px: (image, 1.0), Drawing(colormap=colormap))


def zipped(colormap: Colormap = Colormap.VIRIDIS) -> bytes:
    return b"".join(archive.encode(files_of(make_analysis(60), colormap)))


def test_the_zip_opens_and_holds_every_answer() -> None:
    """Each file is whole and is what its own encoder gives."""
    analysis = make_analysis(60)
    with zipfile.ZipFile(io.BytesIO(zipped())) as opened:
        assert opened.testzip() is None
        assert opened.namelist() == NAMES
        files = {name: opened.read(name) for name in NAMES}

    assert check_feature_collection(files["cells.geojson"]) == 60
    assert files["cells.geojson"] == b"".join(geojson.encode(analysis))
    assert wire.Summary.model_validate_json(files["summary.json"]) == summary.summarise(analysis)
    shapes = {name: decoded(files[name]).shape for name in NAMES if name.endswith(".png")}
    assert [shape[2] for shape in shapes.values()] == [4, 4, 3, 3, 3, 3]
    assert shapes["overlay.png"][1] == analysis.region_l0.width


def test_the_same_analysis_gives_the_same_bytes() -> None:
    """Neither the time of day nor anything random is in the zip; the colormap is."""
    assert zipped() == zipped()
    assert zipped(Colormap.JET) != zipped()


def test_a_reader_that_cannot_seek_can_unpack_it() -> None:
    """Every entry says where it ends by itself: deflated, and without zip64 while it is small."""
    with zipfile.ZipFile(io.BytesIO(zipped())) as opened:
        for entry in opened.infolist():
            assert entry.compress_type == zipfile.ZIP_DEFLATED
            assert entry.extract_version < zipfile.ZIP64_VERSION
            assert entry.flag_bits & 0x08


def test_a_big_collection_is_zip64() -> None:
    """What may exceed 2 GiB is written in the format that allows it."""
    assert files_of(make_analysis(10)).most_bytes < archive.ZIP64_BYTES
    many = make_analysis(1000)
    vertices = np.broadcast_to(np.zeros((1, 2)), (60_000_000, 2))  # takes no memory
    offsets = np.linspace(0, 60_000_000, 1001).astype(np.int64)
    instances = replace(many.instances, vertices=vertices, offsets=offsets)
    assert geojson.most_bytes(replace(many, instances=instances)) >= archive.ZIP64_BYTES
    large = replace(files_of(make_analysis(10)), most_bytes=archive.ZIP64_BYTES)
    with zipfile.ZipFile(io.BytesIO(b"".join(archive.encode(large)))) as opened:
        assert opened.getinfo("cells.geojson").extract_version == zipfile.ZIP64_VERSION


def test_memory_does_not_grow_with_the_cells() -> None:
    """Five times the cells need no more memory to encode than a few pieces."""
    peaks = []
    for cells in (1_500, 7_500):
        analysis = make_analysis(cells, heatmaps=())
        files = files_of(analysis)
        tracemalloc.start()
        total = sum(len(piece) for piece in archive.encode(files))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    assert total > 7e5
    assert peaks[1] < peaks[0] + 2.5e6


def test_bad_cells_are_refused_before_the_first_byte() -> None:
    """An answer that cannot be completed is not begun."""
    analysis = make_analysis(3)
    analysis.instances.scores[0] = np.nan
    with pytest.raises(ModelFailedError):
        files_of(analysis)


def test_each_heatmap_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its legend in the summary and its picture come from the same map."""
    computed: list[str] = []
    compute = heatmap.compute

    def counted(analysis: Analysis, spec: HeatmapSpec) -> Heatmap:
        computed.append(spec.name)
        return compute(analysis, spec)

    monkeypatch.setattr(summary, "compute", counted)
    monkeypatch.setattr(encoders, "ANSWERS", replace(encoders.ANSWERS, compute=counted))
    zipped()
    assert computed == ["steatosis", "immune"]


def test_closing_the_stream_early_raises_no_error() -> None:
    """A client disconnect closes the stream without an error of the zip."""
    analysis = make_analysis(5000)
    pieces = archive.encode(files_of(analysis))
    for _ in range(6):
        next(pieces)

    pieces.close()  # type: ignore[attr-defined]  # a generator, by contract an iterator


def test_a_folder_gets_the_files_of_the_zip(tmp_path: Path) -> None:
    """The same names and contents; an older file is replaced; nothing unfinished is left."""
    analysis = make_analysis(60)
    folder = tmp_path / "new" / "out"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text("old")

    paths = archive.write_folder(files_of(analysis), folder)

    assert [str(path.relative_to(folder)) for path in paths] == NAMES
    with zipfile.ZipFile(io.BytesIO(zipped())) as opened:
        assert all(path.read_bytes() == opened.read(str(path.relative_to(folder))) for path in paths)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == set(NAMES)
    assert json.loads((folder / "summary.json").read_text())["cells"] == 60


def test_cells_are_written_as_gzip_when_asked(tmp_path: Path) -> None:
    """The gzip file holds the GeoJSON byte for byte, is much smaller, and the same each time."""
    analysis = make_analysis(60)
    written = []
    for name in ("once", "again"):
        paths = archive.write_folder(files_of(analysis), tmp_path / name, gzip=True)
        assert paths[-1].name == "cells.geojson.gz"
        assert not (tmp_path / name / "cells.geojson").exists()
        written.append(paths[-1].read_bytes())
    plain = b"".join(geojson.encode(analysis))
    assert gzip.decompress(written[0]) == plain
    assert written[0] == written[1]
    assert len(written[0]) < len(plain) / 2
