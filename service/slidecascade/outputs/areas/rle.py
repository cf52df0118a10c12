"""Masks as run lengths: ``id,encoding``, column-major, counted from 1, as segmentation challenges have them.

The pixels are those of the region at level 0, from its top left corner down and then to the right.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from slidecascade.areas.result import AreasResult


def rle_csv(result: AreasResult) -> Iterator[bytes]:
    """A line for each class, whose name is its id; the encoding of a class that is not there is empty."""
    yield b"id,encoding\n"
    region, grid, box = result.region_l0, result.grid, result.box
    x = _edges(box.x, box.width, grid.downsample, grid.origin_x_l0 - region.x, region.width)
    y = _edges(box.y, box.height, grid.downsample, grid.origin_y_l0 - region.y, region.height)
    mask = result.mask
    for index, end in enumerate(result.classes.ends):
        starts, lengths = runs(mask == index + 1, x, y, region.height)
        text = " ".join(map(str, np.stack([starts, lengths], axis=1).ravel().tolist()))
        yield f'"{end.name}",{text}\n'.encode() if "," in end.name else f"{end.name},{text}\n".encode()


def runs(
    mask: NDArray[np.bool_], x: NDArray[np.int64], y: NDArray[np.int64], height: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the runs of an enlarged mask start, from 1, and their lengths.

    Args:
        mask: ``(h, w)``; pixel ``(column, row)`` becomes columns ``x[column]..x[column + 1]`` and rows
            ``y[row]..y[row + 1]``.
        height: of the enlarged mask.
    """
    if not mask.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    padded = np.pad(mask.T.astype(np.int8), ((0, 0), (1, 1)))
    changes = np.diff(padded, axis=1)
    columns, first = np.nonzero(changes > 0)
    _, last = np.nonzero(changes < 0)
    # Each column of the mask stands for several of the region.
    times = np.diff(x)[columns]
    order = np.repeat(np.arange(len(columns)), times)
    nth = np.arange(len(order)) - np.repeat(np.cumsum(times) - times, times)
    tops, ends = y[first[order]], y[last[order]]
    begins = (x[columns[order]] + nth) * height + tops
    lengths = ends - tops
    sequence = np.argsort(begins, kind="stable")
    begins, lengths = begins[sequence][lengths[sequence] > 0], lengths[sequence][lengths[sequence] > 0]
    return _merged(begins, lengths)


def _merged(begins: NDArray[np.int64], lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Runs that follow one another without a gap, over the end of a column too, made one."""
    if not len(begins):
        return begins, lengths
    is_first = np.append(True, begins[1:] != begins[:-1] + lengths[:-1])
    starts = np.flatnonzero(is_first)
    return begins[starts] + 1, np.add.reduceat(lengths, starts)


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
