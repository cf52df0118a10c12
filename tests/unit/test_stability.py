"""The stability benchmark: changes can be undone, and cells are counted as kept, lost, reclassified or new."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.stability.__main__ import Cells, kept
from benchmarks.stability.changes import Change, changes

HEIGHT, WIDTH = 60, 100
CORNERS = np.array([[10.0, 20.0], [40.0, 20.0], [40.0, 30.0], [10.0, 30.0]])
GEOMETRIC = [change for change in changes() if change.name.startswith(("rotated", "mirrored", "resampled"))]


def test_the_first_change_is_none() -> None:
    """A control: the same image has to give the same cells."""
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    assert np.array_equal(changes()[0].apply(image), image)
    assert all(not np.array_equal(change.apply(image), image) for change in changes()[1:])


@pytest.mark.parametrize("change", GEOMETRIC, ids=lambda change: change.name)
def test_outlines_of_a_changed_image_are_brought_back(change: Change) -> None:
    """The bright rectangle of an image, found in the changed one, lies where it was before."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[20:30, 10:40] = 255
    rows, columns = np.nonzero(change.apply(image)[..., 0] > 127)
    left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    found = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)
    back = change.undo(found, HEIGHT, WIDTH)
    assert np.abs(back.min(axis=0) - CORNERS.min(axis=0)).max() <= 0.5
    assert np.abs(back.max(axis=0) - CORNERS.max(axis=0)).max() <= 0.5
    assert change.apply(image).shape[:2] in ((WIDTH, HEIGHT), (HEIGHT * change.scale, WIDTH * change.scale))


def test_brightness_changes_by_a_tenth_and_does_not_wrap() -> None:
    """White stays white."""
    image = np.array([[[100, 200, 250]]], np.uint8)
    brighter, darker = (change for change in changes() if change.name.endswith(("brighter", "darker")))
    assert brighter.apply(image).ravel().tolist() == [110, 220, 255]
    assert darker.apply(image).ravel().tolist() == [90, 180, 225]


def cells(*squares: tuple[int, int, int]) -> Cells:
    """Squares of 10 px at x with a shift in y, and their classes."""
    labels = np.zeros((20, 100), np.int32)
    for number, (x, shift, _) in enumerate(squares, start=1):
        labels[shift : shift + 10, x : x + 10] = number
    return Cells(labels, np.array([index for *_, index in squares], np.int64))


def test_cells_are_kept_lost_reclassified_or_new() -> None:
    """Before, found again, with the same class, new."""
    before = cells((0, 0, 1), (20, 0, 1), (40, 0, 2), (60, 0, 0))
    after = cells((80, 0, 1), (0, 1, 1), (20, 2, 3), (40, 8, 2), (60, 0, 0))
    assert kept(before, after).tolist() == [4, 3, 2, 2]
    assert kept(before, before).tolist() == [4, 4, 4, 0]
    assert kept(before, cells()).tolist() == [4, 0, 0, 0]


def test_a_cell_that_others_cover_changes_no_class() -> None:
    """A label that has no pixels has no row, and the classes of those after it stay theirs."""
    covered = cells((0, 0, 5), (0, 0, 1), (20, 0, 2))
    assert kept(covered, cells((0, 0, 1), (20, 0, 2))).tolist() == [2, 2, 2, 0]


@pytest.mark.slow
def test_a_short_run_keeps_all_cells_of_the_unchanged_image(tmp_path: Path) -> None:
    """The whole command on small rendered tiles: a row for each change, the control without a difference."""
    out = tmp_path / "stability.json"
    command = [sys.executable, "-m", "benchmarks.stability", "--side", "256", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    document = json.loads(out.read_text(encoding="utf-8"))
    assert [row["change"] for row in document["rows"]] == [change.name for change in changes()]
    none, rotated, *_ = document["rows"]
    assert none["cells"] == none["found_again"] == none["same_class"] > 0
    assert none["extra"] == 0
    assert rotated["found_again"] > 0.5 * rotated["cells"]
