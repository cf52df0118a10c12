"""Roundness of areas from their runs of pixels, and their division by size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from slidecascade.areas.moments import roundness
from slidecascade.areas.result import AreasResult
from slidecascade.areas.runs import Runs
from slidecascade.outputs.areas.encoders import encode_geojson, summarise
from toy_kinds import ToyKinds, coloured


def of(mask: np.ndarray, *, x: int = 0, y: int = 0) -> float:
    runs = Runs.of_labels(mask.astype(np.int32), x=x, y=y)
    return float(roundness(runs, 1)[0])


def test_a_disc_is_round_and_a_line_is_not() -> None:
    """1 for a disc, 3 / pi for a square, the ratio of the axes for an ellipse in any direction."""
    canvas = np.zeros((200, 200), np.uint8)
    disc = cv2.circle(canvas.copy(), (100, 100), 40, 1, cv2.FILLED)
    assert of(disc) == pytest.approx(1.0, abs=0.01)
    square = canvas.copy()
    square[20:60, 30:70] = 1
    assert of(square) == pytest.approx(3 / np.pi)
    for angle in (0, 30, 90, 135):
        ellipse = cv2.ellipse(canvas.copy(), (100, 100), (60, 20), angle, 0, 360, 1, cv2.FILLED)
        assert of(ellipse) == pytest.approx(1 / 3, abs=0.02)
    line = canvas.copy()
    line[100, 20:180] = 1
    assert of(line) == pytest.approx(12 / (4 * np.pi) / 160, rel=0.01)


def test_roundness_does_not_depend_on_the_place() -> None:
    """Far from the corner of a slide numbers are as exact."""
    mask = cv2.ellipse(np.zeros((60, 60), np.uint8), (30, 30), (20, 10), 20, 0, 360, 1, cv2.FILLED)
    assert of(mask, x=200_000, y=90_000) == pytest.approx(of(mask), abs=1e-9)


def test_labels_without_pixels_have_none() -> None:
    """Not a number, and no warning."""
    runs = Runs.of_labels(np.array([[2, 2], [2, 2]], np.int32))
    found = roundness(runs, 3)
    assert np.isnan(found[[0, 2]]).all()
    assert found[1] == pytest.approx(3 / np.pi)


def test_areas_are_divided_by_size(tmp_path: Path) -> None:
    """The figures of sizes add up to those of their class; each area has a roundness."""
    result = ToyKinds(tmp_path).run("toy-areas", coloured(2, 240, 200, 8), mpp=0.5)
    assert isinstance(result, AreasResult)
    limit_um = float(np.median(result.diameters_um))
    divided = replace(result, sizes=(("small", 0.0), ("large", limit_um)))
    summary = summarise(divided, ())

    assert summary.areas is not None
    for name, figures in summary.areas.items():
        assert list(figures.sizes) == ["small", "large"]
        assert sum(size.count for size in figures.sizes.values()) == figures.count == result.counts[name]
        assert sum(size.area_mm2 for size in figures.sizes.values()) == pytest.approx(figures.area_mm2, abs=3e-6)
    large = sum(figures.sizes["large"].count for figures in summary.areas.values())
    assert large == int((result.diameters_um >= limit_um).sum()) > 0
    assert b"".join(encode_geojson(result)).count(b'"Roundness"') == len(result.areas_px)
    undivided = summarise(result, ()).areas
    assert undivided is not None
    assert all(figures.sizes == {} for figures in undivided.values())
