"""The bundled network for fat on real tiles, which it was never trained or tuned on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.areas.result import AreasResult
from slidecascade.cancellation import Control
from slidecascade.settings import read_settings
from slidecascade.timing import Silent

DICE = {"delineate_1": 0.707, "delineate_2": 0.873, "delineate_3": 0.766}
"""Of macro droplets; the masks hold large droplets alone."""


@pytest.fixture(scope="module")
def analyser() -> Iterator[Analyser]:
    analyser = Analyser(read_settings(), observer=Silent())
    yield analyser
    analyser.close()


def analysed(analyser: Analyser, path: Path, mpp: float) -> AreasResult:
    request = wire.parse_request({"pipeline": "fat", "mpp": mpp})
    result = analyser.analyse(request, path.read_bytes(), Control()).analysis
    assert isinstance(result, AreasResult)
    return result


@pytest.mark.parametrize("name", DICE)
def test_large_droplets_of_real_tiles_are_covered_as_the_card_says(
    name: str, shared_data: Path, analyser: Analyser
) -> None:
    """Dice at 40x, taken as 0.25 um per pixel."""
    folder = shared_data / "liver" / "delineate"
    found = analysed(analyser, folder / f"{name}.png", 0.25)
    truth = cv2.imread(str(folder / f"{name}_mask.png"), cv2.IMREAD_GRAYSCALE)
    assert truth is not None
    is_macro = found.size_index == [size for size, _ in found.sizes].index("macro")
    macro = found.runs.take(is_macro[found.runs.labels]).painted(found.box)
    enlarged = cv2.resize(macro.astype(np.uint8), truth.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    dice = 2 * (enlarged & (truth > 0)).sum() / (enlarged.sum() + (truth > 0).sum())
    assert dice == pytest.approx(DICE[name], abs=0.02)


def test_veins_and_glass_are_no_fat(shared_data: Path, analyser: Analyser) -> None:
    """Of near normal liver at 20x: two veins with white lumen, and the glass on both sides."""
    found = analysed(analyser, shared_data / "liver" / "gtex_tile03_HE.jpg", 0.5)
    mask = found.mask > 0
    for left, top, right, bottom in ((390, 55, 455, 105), (210, 425, 245, 465), (10, 10, 120, 120)):
        assert mask[top:bottom, left:right].mean() < 0.02
    assert mask[390:440, 440:520].mean() > 0.2  # among large droplets
