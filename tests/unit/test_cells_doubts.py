"""Objects of implausible size, and classes pressed against glass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from made_analysis import make_analysis
from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.cells.doubts import MIN_CELLS, Census
from slidecascade.cells.result import Analysis
from slidecascade.geometry import Grid, Size
from slidecascade.kinds.result import TissueMap
from slidecascade.settings import read_settings
from slidecascade.slides.tissue import BLOCK_PX, REACH_BLOCKS
from slidecascade.timing import Silent
from slidecascade_render.liver.tissue import TissueOptions, render
from surveyed import collected, png_of, survey_of, toy_analyser
from toy_pipeline import ToyPipeline, blobs

SIDE_PX, MPP, USUAL_UM = 512, 0.5, 9.0


def on_half(mpp: float = MPP) -> Analysis:
    """An analysis whose right half is glass, as the tissue map says it: with some blocks more of tissue."""
    side = SIDE_PX // BLOCK_PX
    mask = np.zeros((side, side), np.bool_)
    mask[:, : side // 2 + REACH_BLOCKS] = True
    grid = Grid(0, 0, BLOCK_PX, Size(side, side), mpp * BLOCK_PX)
    return replace(make_analysis(cells=0), tissue=TissueMap(mask, grid), mpp=mpp, object_diameter_px=None)


def counted(census: Census, x_um: NDArray[np.float64], *, of: int = 0, diameter_um: float = USUAL_UM) -> None:
    """Count cells of class `of`, so far from the left."""
    y = np.linspace(10, SIDE_PX - 10, len(x_um))
    areas = np.full(len(x_um), np.pi / 4 * (diameter_um / MPP) ** 2)
    census.add(np.column_stack([x_um / MPP, y]), areas, np.full(len(x_um), of))


EDGE_UM = SIDE_PX // 2 * MPP


@pytest.mark.parametrize(
    ("diameter_um", "is_doubted"), [(2.5, True), (3.5, True), (6.5, False), (9.0, False), (40.0, True)]
)
def test_objects_of_implausible_size_are_doubted(diameter_um: float, is_doubted: bool) -> None:
    """Nuclei of 2.5 or 40 um; the sentence says which pixel size would give the usual one."""
    census = Census(on_half(), USUAL_UM)
    counted(census, np.full(MIN_CELLS, 50.0), diameter_um=diameter_um)
    found = [warning for warning in census.warnings() if warning.code == "implausible-object-size"]

    assert len(found) == is_doubted
    if is_doubted:
        fitting = float(found[0].message.split("about ")[1].split()[0])
        assert fitting == pytest.approx(MPP * USUAL_UM / diameter_um, rel=0.05)


def test_few_cells_and_unknown_sizes_are_not_doubted() -> None:
    """Nor are those of a segmenter that states no usual diameter, or those without a physical pixel size."""
    few, unstated = Census(on_half(), USUAL_UM), Census(on_half(), None)
    scaled = Census(replace(on_half(), object_diameter_px=20.0), USUAL_UM)
    for census, cells in ((few, MIN_CELLS - 1), (unstated, 100), (scaled, 100)):
        counted(census, np.full(cells, EDGE_UM - 4), diameter_um=40.0)
        assert list(census.warnings()) == []


def test_a_class_pressed_against_glass_is_doubted() -> None:
    """It lies within 12 um of the edge, where nearly no other cell does."""
    census = Census(on_half(), None)
    counted(census, np.linspace(10, EDGE_UM - 16, 200), of=0)
    counted(census, np.linspace(EDGE_UM - 8, EDGE_UM - 2, 26), of=1)
    counted(census, np.linspace(EDGE_UM - 60, EDGE_UM - 40, 3), of=1)
    (warning,) = census.warnings()

    name = on_half().classes.ends[1].name
    assert warning.code == "glass-edge"
    assert warning.message.startswith(f"26 of 29 cells of the class {name} lie within 12 um of glass")


def test_cells_at_glass_that_are_like_all_others_are_not_doubted() -> None:
    """In a shred of tissue all cells lie there."""
    census = Census(on_half(), None)
    for of in (0, 1):
        counted(census, np.linspace(EDGE_UM - 11, EDGE_UM - 1, 40), of=of)
    assert list(census.warnings()) == []


def test_cells_that_are_taken_out_again_do_not_count() -> None:
    """Parts of a slide count what their neighbours have too."""
    census = Census(on_half(), USUAL_UM)
    places, areas = np.full((50, 2), 50.0), np.full(50, 2000.0)
    counted(census, np.full(40, 50.0))
    census.add(places, areas, np.zeros(50, np.int64))
    assert [warning.code for warning in census.warnings()] == ["implausible-object-size"]
    census.add(places, areas, np.zeros(50, np.int64), times=-1)
    assert list(census.warnings()) == []


def test_a_region_and_its_fields_say_the_same(tmp_path: Path) -> None:
    """In memory and by parts; the same number of cells, the same sentence."""
    analyser = toy_analyser(ToyPipeline(tmp_path / "toy", object_diameter_px=60))
    image = blobs(3, 320, 320, 80)
    try:
        request = wire.parse_request({"pipeline": "toy", "mpp": MPP, "tile_px": 64})
        whole = analyser.analyse(request, png_of(image), Control()).cells
        parts = collected(survey_of(analyser, image, tmp_path / "parts"))
    finally:
        analyser.close()
    assert parts.cells == len(whole.instances) >= MIN_CELLS
    assert [item.code for item in whole.warnings] == ["implausible-object-size"]
    assert parts.analysis.warnings == whole.warnings


@pytest.fixture(scope="module")
def analyser() -> Iterator[Analyser]:
    analyser = Analyser(read_settings(), observer=Silent())
    yield analyser
    analyser.close()


def codes(analyser: Analyser, image: NDArray[np.uint8], mpp: float, pipeline: str = "nuclei") -> set[str]:
    request = wire.parse_request({"pipeline": pipeline, "mpp": mpp})
    return {item.code for item in analyser.analyse(request, png_of(image), Control()).cells.warnings}


def test_the_false_rim_of_real_liver_is_doubted(analyser: Analyser, shared_data: Path) -> None:
    """The edge of near normal liver comes out steatotic; the middle of a fatty tile, rightly so."""
    found = {}
    for name, part in (("gtex_tile03_HE", np.s_[:1000, :500]), ("gtex_tile01_HE", np.s_[:512, :512])):
        image = cv2.imread(str(shared_data / "liver" / f"{name}.jpg"), cv2.IMREAD_COLOR_RGB)
        assert image is not None
        found[name] = "glass-edge" in codes(analyser, np.ascontiguousarray(image[part]), MPP, "nash")
    assert found == {"gtex_tile03_HE": True, "gtex_tile01_HE": False}


def test_rendered_tissue_at_half_its_pixel_size_is_doubted(analyser: Analyser) -> None:
    """And not at the right one."""
    image = render(TissueOptions(seed=3, mpp=MPP), width_px=512, height_px=512).image
    found = ["implausible-object-size" in codes(analyser, image, MPP * factor) for factor in (0.5, 1)]
    assert found == [True, False]


def test_real_tissue_at_half_its_pixel_size_is_doubted(analyser: Analyser, shared_data: Path) -> None:
    """Liver as scanned at 20x, whose size is known."""
    image = cv2.imread(str(shared_data / "liver" / "gtex_tile03_HE.jpg"), cv2.IMREAD_COLOR_RGB)
    assert image is not None
    part = np.ascontiguousarray(image[600:1112, 200:712])
    found = ["implausible-object-size" in codes(analyser, part, MPP * factor) for factor in (0.5, 1)]
    assert found == [True, False]
