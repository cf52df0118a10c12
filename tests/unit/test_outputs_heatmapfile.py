"""The values of heatmaps in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from slidecascade.errors import UnusableDataError
from slidecascade.geometry import Box
from slidecascade.outputs import heatmapfile
from slidecascade.outputs.heatmap import Heatmap

MAP = Heatmap(
    name="fat",
    title="Fat",
    unit="fraction",
    values=np.array([[0.25, np.nan, 1.0], [0.0, 0.5, np.nan]], np.float32),
    minimum=0.0,
    maximum=1.0,
    grid_um=32.0,
    width_um=90.0,
    height_um=60.0,
    before_x_um=4.0,
    before_y_um=8.0,
)


def test_values_and_place_are_read_again(tmp_path: Path) -> None:
    """Bit for bit; the first square begins before the region's corner where the map does."""
    path = tmp_path / "fat.tiff"
    path.write_bytes(heatmapfile.encode(MAP, Box(100, 200, 180, 120), 0.5))
    found = heatmapfile.read(path)
    np.testing.assert_array_equal(found.values, MAP.values)
    assert (found.name, found.title, found.unit, found.minimum, found.maximum) == ("fat", "Fat", "fraction", 0, 1)
    assert (found.corner_l0, found.grid_um) == ((92.0, 184.0), 32.0)


def test_other_programs_read_the_file(tmp_path: Path) -> None:
    """As 32-bit floats with the size of a pixel."""
    path = tmp_path / "fat.tiff"
    path.write_bytes(heatmapfile.encode(MAP, Box(100, 200, 180, 120), 0.5))
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        np.testing.assert_array_equal(page.asarray(), MAP.values)
        numerator, denominator = page.tags["XResolution"].value
    assert numerator / denominator == pytest.approx(10_000 / 32)


@pytest.mark.parametrize("keep", [0, 8, 100, 300])
def test_a_damaged_file_is_reported(tmp_path: Path, keep: int) -> None:
    """By its name."""
    path = tmp_path / "fat.tiff"
    path.write_bytes(heatmapfile.encode(MAP, Box(100, 200, 180, 120), 0.5)[:keep])
    with pytest.raises(UnusableDataError, match=r"fat\.tiff"):
        heatmapfile.read(path)
