"""The bundled fluorescence networks on a slide and on images that they were never trained or tuned on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.cells.result import Analysis
from slidecascade.settings import read_settings
from slidecascade.timing import Silent
from slidecascade_evaluation import dsb2018
from slidecascade_evaluation.rasters import labels_from_outlines
from slidecascade_evaluation.scores import measure

IMAGES = 12
AP50 = {"unet": 0.844, "stardist": 0.859, "flows": 0.791}
"""Pooled, on these images."""

NUCLEI = {"unet": 167, "stardist": 164, "flows": 175}


@pytest.fixture(scope="module")
def analyser() -> Iterator[Analyser]:
    analyser = Analyser(read_settings(), observer=Silent())
    yield analyser
    analyser.close()


def analysed(analyser: Analyser, image: bytes | None, **fields: object) -> Analysis:
    result = analyser.analyse(wire.parse_request(fields), image, Control()).analysis
    assert isinstance(result, Analysis)
    return result


@pytest.mark.parametrize("head", AP50)
def test_nuclei_of_unseen_images_are_found(head: str, shared_data: Path, analyser: Analyser) -> None:
    """Images of the validation split, as PNG, through the whole service."""
    every = dsb2018.read_images(shared_data / "nuclei" / "dsb2018", "validate")
    pairs = []
    for item in [item for item in every if item.kind == dsb2018.FLUORESCENCE][:IMAGES]:
        data = cv2.imencode(".png", item.image[..., ::-1])[1].tobytes()
        cells = analysed(analyser, data, pipeline=f"fluorescence-{head}", mpp=0.5).instances
        height, width = item.labels.shape
        found = labels_from_outlines(cells.vertices, cells.offsets, height_px=height, width_px=width)
        pairs.append((item.labels, found))
    assert measure(pairs).ap50_pooled == pytest.approx(AP50[head], abs=0.02)


@pytest.mark.parametrize("head", NUCLEI)
def test_nuclei_of_a_slide_are_found_in_its_blue_channel(head: str, shared_data: Path) -> None:
    """A fluorescence slide whose signal lies in one colour, as many nuclei as were seen in its overlay."""
    slide = shared_data / "slides" / "fluo-dapi.ndpi"
    settings = read_settings().model_copy(update={"slide_roots": (slide.parent,)})
    own = Analyser(settings, observer=Silent())
    try:
        region = {"x": 1000, "y": 1000, "width": 1024, "height": 1024}
        found = analysed(own, None, pipeline=f"fluorescence-{head}", slide=slide.name, region=region)
    finally:
        own.close()
    assert len(found.instances) == pytest.approx(NUCLEI[head], abs=5)
