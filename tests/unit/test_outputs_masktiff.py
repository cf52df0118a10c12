"""Masks as pyramidal TIFF files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray

from slidecascade.geometry import Size
from slidecascade.outputs.areas import masktiff


def mask_of(width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 4, (height, width), np.uint8)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (256, 256), (1301, 777), (517, 2050)])
def test_a_mask_is_a_pyramid_of_class_numbers(tmp_path: Path, width: int, height: int) -> None:
    """Level by level: tiled, half as wide and high, the values of the upper left pixels; OpenSlide opens it."""
    mask, asked = mask_of(width, height), []

    def rows(top: int, bottom: int) -> NDArray[np.uint8]:
        asked.append(bottom - top)
        return mask[top:bottom]

    path = tmp_path / "mask.tiff"
    with path.open("wb") as file:
        masktiff.write(file, rows, Size(width, height), mpp=8.0)
    assert max(asked) <= masktiff.TILE_PX
    assert sum(asked) == height
    with tifffile.TiffFile(path) as opened:
        levels = opened.series[0].levels
        assert all(level.pages[0].is_tiled for level in levels)
        for index, level in enumerate(levels):
            np.testing.assert_array_equal(level.asarray(), mask[:: 2**index, :: 2**index])
        assert max(levels[-1].shape) <= masktiff.TOP_PX
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == (width, height)
        assert slide.level_count == len(levels)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(8.0)
        shown = np.array(slide.read_region((0, 0), 0, (width, height)))[:, :, 0]
        np.testing.assert_array_equal(shown, mask)
