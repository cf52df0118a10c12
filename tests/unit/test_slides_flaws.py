"""Ink, blur and stains that a pipeline is not for: what is left out of the tissue, and said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from real_images import real_images
from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.cells.result import Analysis
from slidecascade.outputs.cells.summary import summarise
from slidecascade.slides.doubts import is_unlike_he
from slidecascade.slides.flaws import Flaws, blurred_blocks, ink_blocks
from slidecascade.slides.tissue import tissue_blocks
from slidecascade_render.liver.tissue import TissueOptions, render
from surveyed import collected, png_of, survey_of, toy_analyser
from toy_pipeline import ToyPipeline

Image = NDArray[np.uint8]
SIDE_PX = 512
PENS = {"green": (30, 140, 80), "blue": (25, 60, 160), "black": (25, 25, 30)}


@pytest.fixture(scope="module")
def tissue() -> Image:
    return render(TissueOptions(seed=11, mpp=0.5), width_px=SIDE_PX, height_px=SIDE_PX).image


@pytest.fixture
def analyser(tmp_path: Path) -> Iterator[Analyser]:
    analyser = toy_analyser(ToyPipeline(tmp_path))
    yield analyser
    analyser.close()


def analysed(analyser: Analyser, image: Image, **fields: object) -> Analysis:
    request = wire.parse_request({"pipeline": "toy", "mpp": 0.5, "tile_px": 128, **fields})
    return analyser.analyse(request, png_of(image), Control()).cells


def inked(image: Image, pen: str) -> Image:
    """A line of 64 pixels across all of the image."""
    drawn = image.copy()
    drawn[128:192] = PENS[pen]
    return drawn


@pytest.mark.parametrize("pen", PENS)
def test_ink_is_no_tissue_and_is_measured(analyser: Analyser, tissue: Image, pen: str) -> None:
    """In mm2 of the region, however it is tiled; cells under it are not counted."""
    clean, drawn = analysed(analyser, tissue), analysed(analyser, inked(tissue, pen))
    expected_mm2 = 64 * SIDE_PX * 0.25e-6

    assert clean.flaws.ink_px == 0
    assert summarise(drawn).ink_mm2 == pytest.approx(expected_mm2, rel=0.01)
    before_mm2, after_mm2 = (summarise(each).tissue_area_mm2 for each in (clean, drawn))
    assert before_mm2 is not None
    assert after_mm2 is not None
    assert before_mm2 - after_mm2 > 0.9 * expected_mm2
    assert [item.code for item in drawn.warnings] == ["ink"]
    y = drawn.instances.centroids[:, 1]
    assert not ((y > 128) & (y < 192)).any()
    assert analysed(analyser, inked(tissue, pen), tile_px=512).flaws == drawn.flaws


def test_tissue_out_of_focus_is_left_out(analyser: Analyser, tissue: Image) -> None:
    blurred = tissue.copy()
    blurred[:256] = cv2.GaussianBlur(tissue, (0, 0), 3)[:256]
    found = analysed(analyser, blurred)
    summary = summarise(found)

    assert [item.code for item in found.warnings] == ["out-of-focus"]
    assert summary.out_of_focus_mm2 is not None
    assert summary.tissue_area_mm2 is not None
    assert 0.1 < summary.out_of_focus_mm2 / (SIDE_PX * 256 * 0.25e-6) <= 1
    assert summary.tissue_area_mm2 + summary.out_of_focus_mm2 == pytest.approx(summary.area_mm2, rel=0.05)
    assert found.flaws.ink_px == 0


def test_jobs_report_what_regions_report(analyser: Analyser, tissue: Image, tmp_path: Path) -> None:
    image = inked(tissue, "green")
    whole = collected(survey_of(analyser, image, tmp_path / "parts")).analysis
    region = analysed(analyser, image)
    assert (whole.flaws, whole.warnings) == (region.flaws, region.warnings)


def test_a_slide_that_is_enlarged_is_not_out_of_focus(analyser: Analyser, tissue: Image) -> None:
    """Between the pixels of a coarse scan there is nothing sharp."""
    coarse = np.asarray(cv2.resize(tissue, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA), np.uint8)
    assert analysed(analyser, coarse, mpp=2.0).flaws == Flaws()


def test_light_on_black_has_neither(analyser: Analyser) -> None:
    image = np.random.default_rng(0).integers(0, 30, (256, 256, 3), dtype=np.uint8)
    assert analysed(analyser, image).flaws == Flaws()


@pytest.mark.slow
def test_real_images_are_rarely_taken_for_ink_or_blur(shared_data: Path) -> None:
    """The rates stand in docs/warnings.md: images that are warned of, and those found when blurred."""
    rows = []
    for name, image in real_images(shared_data):
        height, width = (side // 8 * 8 for side in image.shape[:2])
        if min(height, width) < 64:
            continue
        patch = np.ascontiguousarray(image[:height, :width])
        soft = np.asarray(cv2.GaussianBlur(patch, (0, 0), 3), np.uint8)
        stained = tissue_blocks(patch, dark_field=False)
        if stained.mean() < 0.1:
            continue
        is_he = not any(word in name for word in ("trichrome", "portal"))
        rows.append(
            (
                name,
                is_he,
                ink_blocks(patch).mean() >= 0.01,
                (stained & blurred_blocks(patch)).mean() >= 0.05,
                (stained & blurred_blocks(soft)).mean() >= 0.05,
                is_unlike_he(image),
            )
        )
    ink, blur = ([row[0] for row in rows if row[index]] for index in (2, 3))
    found = sum(row[4] for row in rows)
    alarms = [row[0] for row in rows if row[1] and row[5]]
    trichrome = [row[5] for row in rows if not row[1]]
    print(f"of {len(rows)}: ink {ink}; out of focus {blur}, {found} when blurred")
    print(f"not H&E: {alarms} falsely, {sum(trichrome)} of {len(trichrome)} trichrome")
    assert len(rows) >= 100
    assert len(ink) <= 0.03 * len(rows)
    assert len(blur) <= 0.02 * len(rows)
    assert found >= 0.5 * len(rows)
    assert len(alarms) <= 0.03 * len(rows)
    assert all(trichrome)


@pytest.mark.slow
def test_trichrome_is_doubted_by_pipelines_for_h_and_e(shared_data: Path) -> None:
    """By `nash`, which is for H&E, and not by `nuclei`, which takes any stain; H&E liver is not doubted."""
    from slidecascade.settings import read_settings
    from slidecascade.timing import Silent

    analyser = Analyser(read_settings(), observer=Silent())
    try:
        codes = {}
        for name in ("liver/trichrome/16_224_606_43_42.png", "liver/delineate/delineate_1.png"):
            for pipeline in ("nash", "nuclei"):
                request = wire.parse_request({"pipeline": pipeline, "mpp": 0.5})
                found = analyser.analyse(request, (shared_data / name).read_bytes(), Control()).cells
                codes[name.split("/")[1], pipeline] = "not-this-stain" in [item.code for item in found.warnings]
    finally:
        analyser.close()
    assert [key for key, doubted in codes.items() if doubted] == [("trichrome", "nash")]


def test_light_on_black_is_doubted_by_pipelines_for_h_and_e() -> None:
    """Fluorescence sent to `nash` is answered with the warning; `nuclei` is for it."""
    from slidecascade.settings import read_settings
    from slidecascade.timing import Silent

    picture = np.zeros((192, 192, 3), np.uint8)
    for x, y in ((40, 40), (100, 60), (60, 130), (140, 140)):
        cv2.circle(picture, (x, y), 12, (150, 150, 150), -1, cv2.LINE_AA)
    image = cv2.imencode(".png", picture)[1].tobytes()
    analyser = Analyser(read_settings(), observer=Silent())
    try:
        codes = {
            pipeline: [
                item.code
                for item in analyser.analyse(
                    wire.parse_request({"pipeline": pipeline, "mpp": 0.5}), image, Control()
                ).analysis.warnings
            ]
            for pipeline in ("nash", "tumor-heatmap", "nuclei")
        }
    finally:
        analyser.close()
    assert [name for name, found in codes.items() if "not-this-stain" in found] == ["nash", "tumor-heatmap"]
