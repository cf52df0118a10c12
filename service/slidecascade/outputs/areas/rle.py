"""Masks as run lengths: ``id,encoding``, column-major, counted from 1, as segmentation challenges have them.

The pixels are those of the region at level 0, from its top left corner down and then to the right. Strips of
columns are encoded one after the other, so that no more than a strip is in memory at that resolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from slidecascade.areas.result import AreasResult
from slidecascade.areas.runlengths import begins_of, encode, merged
from slidecascade.areas.runs import Runs
from slidecascade.geometry import Box, Grid

STRIP_PX: Final = 256
"""Columns of the mask encoded at a time."""


def rle_csv(result: AreasResult) -> Iterator[bytes]:
    """A line for each class, whose name is its id; the encoding of a class that is not there is empty."""
    yield b"id,encoding\n"
    x, y = edges_l0(result.grid, result.box, result.region_l0)
    for index, end in enumerate(result.classes.ends):
        yield id_of(end.name)
        yield from encode(_strips(result, index, x, y))
        yield b"\n"


def id_of(name: str) -> bytes:
    """A class's name and the comma after it."""
    return f'"{name}",'.encode() if "," in name else f"{name},".encode()


def _strips(
    result: AreasResult, index: int, x: NDArray[np.int64], y: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    box, runs = result.box, result.of_class(index)
    for left in range(box.x, box.right, STRIP_PX):
        strip = runs.within(left, left + STRIP_PX).moved(-box.x, -box.y)
        yield enlarged(strip, x, y, result.region_l0.height)


def enlarged(
    runs: Runs, x: NDArray[np.int64], y: NDArray[np.int64], height: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where `runs` begin and how long they are in an enlarged image of `height`, from 0, in ascending order.

    Pixel ``(column, row)`` becomes columns ``x[column]..x[column + 1]`` and rows ``y[row]..y[row + 1]``.
    """
    times = np.diff(x)[runs.columns]
    order = np.repeat(np.arange(len(runs)), times)
    nth = np.arange(len(order)) - np.repeat(np.cumsum(times) - times, times)
    columns = x[runs.columns[order]] + nth
    return begins_of(columns, y[runs.tops[order]], y[runs.bottoms[order]], height)


def runs(
    mask: NDArray[np.bool_], x: NDArray[np.int64], y: NDArray[np.int64], height: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the runs of an enlarged mask ``(h, w)`` start, from 1, and their lengths; see `enlarged`."""
    begins, lengths = merged(*enlarged(Runs.of_labels(mask.astype(np.int32)), x, y, height))
    return begins + 1, lengths


def edges_l0(grid: Grid, box: Box, region_l0: Box) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where in the region the pixels of `box` begin, in level-0 pixels: ``(box.width + 1,)`` and
    ``(box.height + 1,)``.
    """
    return (
        _edges(box.x, box.width, grid.downsample, grid.origin_x_l0 - region_l0.x, region_l0.width),
        _edges(box.y, box.height, grid.downsample, grid.origin_y_l0 - region_l0.y, region_l0.height),
    )


def _edges(start: int, count: int, downsample: float, shift_l0: float, length: int) -> NDArray[np.int64]:
    """``(count + 1,)``: between which level-0 pixels of the region the mask's pixels lie.

    A level-0 pixel belongs to the mask's pixel that holds its middle; those at the region's edges whose mask pixel
    is not the region's own take the nearest.
    """
    edges = np.ceil(np.arange(start, start + count + 1) * downsample + shift_l0 - 0.5).astype(np.int64)
    edges = np.asarray(np.clip(edges, 0, length), np.int64)
    if count:
        edges[0], edges[-1] = 0, length
    return edges
