"""Published run lengths of whole slides: decoded, outlined and encoded again to the same text."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from slidecascade.areas.runlengths import begins_of, decode, encode
from slidecascade.areas.runs import outlines

HEIGHTS = {"2f6ecfcdf": 31_278, "8242609fa": 31_299}


@pytest.mark.parametrize("name", list(HEIGHTS))
def test_a_published_slide_survives_the_way_to_polygons_and_back(shared_data: Path, name: str) -> None:
    """Its areas have the pixels of its runs, their rings enclose them, and the text is the published one."""
    csv.field_size_limit(sys.maxsize)
    with (shared_data / "kidney/hubmap_rle.csv").open() as file:
        text = next(row["encoding"] for row in csv.DictReader(file) if row["id"] == name)
    height = HEIGHTS[name]
    numbers = np.array(text.split(), np.int64)
    width = int(-(-(numbers[-2] + numbers[-1] - 1) // height))
    runs = decode(text, width_px=width, height_px=height, name=name)
    areas, count = runs.components()
    rings = outlines(areas, count)
    assert 50 < count == len(rings) < 1000
    # Shoelace, holes counting against their area: the pixels that the published lengths add up to.
    x, y = rings.vertices.T
    following = np.arange(len(x)) + 1
    following[rings.ring_offsets[1:] - 1] = rings.ring_offsets[:-1]
    assert np.sum(x * y[following] - x[following] * y) / 2 == numbers[1::2].sum()
    again = b"".join(encode([begins_of(areas.columns, areas.tops, areas.bottoms, height)]))
    assert again.decode() == text
