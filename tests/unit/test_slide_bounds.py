"""Slides whose scanned part lies somewhere on level 0, and programs that count from its corner."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from leica_slide import write_leica
from made_analysis import make_analysis
from slidecascade.cli import main
from slidecascade.geometry import Box
from slidecascade.outputs.cells import geojson
from slidecascade.outputs.provenance import provenance
from slidecascade.slides.slide import Slide
from slidecascade_render.liver.tissue import TissueOptions, render
from slidecascade_training.datasets.folder import read_index

CORNER, SIZE, SIDE = (2000, 3000), (4096, 5120), 768


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A slide with bounds, and twenty points on its tissue as QuPath exports them."""
    slides, annotations = tmp_path / "slides", tmp_path / "annotations"
    slides.mkdir()
    annotations.mkdir()
    image = render(TissueOptions(seed=2, mpp=0.5), width_px=SIDE, height_px=SIDE).image
    for name in ("a", "b"):
        write_leica(slides / f"{name}.scn", image, corner=CORNER, size=SIZE)
        (annotations / f"{name}.geojson").write_text(json.dumps(points()))
    return slides, annotations


def points(**members: object) -> dict[str, object]:
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [200.0 + 40 * (index % 5), 300.0 + 30 * (index // 5)]},
            "properties": {
                "objectType": "annotation",
                "classification": {"name": "Tumor" if index % 2 else "Stroma"},
            },
        }
        for index in range(20)
    ]
    return {"type": "FeatureCollection", **members, "features": features}


def dataset(folders: tuple[Path, Path], out: Path, *more: str) -> int:
    slides, annotations = folders
    call = ["dataset", "--slides", str(slides), "--annotations", str(annotations), "--out", str(out)]
    return main([*call, "--mpp", "0.5", "--size", "32", "--from", "points", *more])


def test_annotations_of_qupath_count_from_the_scanned_part(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """The crops show what was annotated, and the index holds level-0 pixels."""
    assert dataset(folders, tmp_path / "out") == 0
    _, examples = read_index(tmp_path / "out")
    assert len(examples) == 40
    assert {(item.x_l0, item.y_l0) for item in examples} >= {(2200.0, 3300.0), (2360.0, 3390.0)}


def test_a_data_set_of_glass_is_refused_with_what_to_do(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Read in the wrong frame, every crop is blank: that is no data set."""
    assert dataset(folders, tmp_path / "out", "--annotation-origin", "slide") != 0
    said = capsys.readouterr().err
    assert "40 of 40 crops are nearly all glass" in said
    assert "--annotation-origin" in said
    assert not (tmp_path / "out").exists()


def test_crops_of_glass_are_reported(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A few are left in, and counted for each slide."""
    document = points()
    extra = {"type": "Point", "coordinates": [SIDE + 300.0, SIDE + 300.0]}
    document["features"][0]["geometry"] = extra  # type: ignore[index]  # of the test's own making
    (folders[1] / "a.geojson").write_text(json.dumps(document))
    assert dataset(folders, tmp_path / "out") == 0
    said = capsys.readouterr().err
    assert "a.scn: 20 crops, 1 of them nearly all glass" in said
    assert "b.scn: 20 crops\n" in said


def test_a_file_that_states_its_origin_is_read_so(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """This service's own GeoJSON, whose classes were corrected in an editor."""
    for name in ("a", "b"):
        document = points(slidecascade={"origin": "slide"})
        for feature in document["features"]:  # type: ignore[attr-defined]  # of the test's own making
            x, y = feature["geometry"]["coordinates"]
            feature["geometry"]["coordinates"] = [x + CORNER[0], y + CORNER[1]]
        (folders[1] / f"{name}.geojson").write_text(json.dumps(document))
    assert dataset(folders, tmp_path / "out") == 0
    _, examples = read_index(tmp_path / "out")
    assert (2200.0, 3300.0) in {(item.x_l0, item.y_l0) for item in examples}


def test_outlines_count_from_the_origin_that_is_asked_for(folders: tuple[Path, Path]) -> None:
    """Moved by whole pixels; ids, which are of the place on the slide, stay."""
    from dataclasses import replace

    slide = Slide.open(folders[0] / "a.scn")
    bounds = slide.bounds_l0
    slide.close()
    assert bounds == Box(*CORNER, SIDE, SIDE)
    analysis = make_analysis(12)
    analysis = replace(analysis, facts=replace(analysis.facts, bounds_l0=bounds))
    whole = json.loads(b"".join(geojson.encode(analysis)))
    moved = json.loads(b"".join(geojson.encode(replace(analysis, origin="bounds"))))

    assert whole["slidecascade"]["origin"] == "slide"
    assert moved["slidecascade"]["origin"] == "bounds"
    expected = dict(zip(("x", "y", "width", "height"), (*CORNER, SIDE, SIDE), strict=True))
    assert moved["slidecascade"]["slide"]["bounds"] == expected
    assert len(moved["features"]) == 12
    for first, second in zip(whole["features"], moved["features"], strict=True):
        assert first["id"] == second["id"]
        difference = np.array(first["geometry"]["coordinates"]) - np.array(second["geometry"]["coordinates"])
        np.testing.assert_allclose(difference, np.broadcast_to(CORNER, difference.shape), atol=1e-6)
        assert first["properties"] == second["properties"]


def test_without_bounds_both_origins_are_the_corner_of_level_0() -> None:
    """Most slides state none; QuPath shows all of them."""
    from dataclasses import replace

    analysis = replace(make_analysis(3), origin="bounds")
    assert analysis.origin_l0 == (0, 0)
    assert provenance(analysis).origin == "bounds"
