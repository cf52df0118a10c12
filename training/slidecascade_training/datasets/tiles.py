"""Tiles with instance labels, for segmenters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from slidecascade.errors import UnusableDataError
from slidecascade.geometry import Box, Grid, Mpp
from slidecascade.slides.view import SlideView
from slidecascade_evaluation.annotation import Annotation, Points
from slidecascade_training.datasets.split import VALIDATE, Split

_HELD_OUT: Final = 5  # see `slidecascade_evaluation.dsb2018`


@dataclass(frozen=True, slots=True)
class LabelledTile:
    """RGB ``(S, S, 3)`` and instance labels ``(S, S)`` uint16, with its corner in level-0 pixels."""

    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint16]
    x_l0: float
    y_l0: float


def labelled_tiles(
    view: SlideView,
    outlines: Sequence[Annotation],
    areas: Sequence[Annotation],
    *,
    mpp: Mpp,
    size_px: int,
    name: str,
) -> Iterator[LabelledTile]:
    """Tiles of a square grid over the slide, with all outlines that touch them.

    With `areas` (polygons within which everything is outlined) the tiles inside one of them; without, those that
    contain the centre of an outline.

    Raises:
        UnusableDataError: the slide `name` is smaller than a tile.
    """
    grid = view.grid(mpp)
    if min(grid.size.width, grid.size.height) < size_px:
        raise UnusableDataError(
            f"{name} has {grid.size.width} x {grid.size.height} pixels at {mpp:g} um per pixel, smaller than a "
            f"tile of {size_px}: use a smaller --size."
        )
    rings = [tuple(grid.grid_from_l0(ring) for ring in item.rings_l0) for item in outlines]
    low = np.array([item[0].min(axis=0) for item in rings]).reshape(-1, 2)
    high = np.array([item[0].max(axis=0) for item in rings]).reshape(-1, 2)
    for x, y in _corners(grid, outlines, areas, size_px):
        touching = np.flatnonzero(((high > (x, y)) & (low < (x + size_px, y + size_px))).all(axis=1))
        labels = _drawn([rings[row] for row in touching.tolist()], x, y, size_px)
        image = view.read(grid, Box(x, y, size_px, size_px))
        place = grid.l0_from_grid(np.array([[x, y]], np.float64))[0]
        yield LabelledTile(image, labels, float(place[0]), float(place[1]))


def stem_of(slide_id: str, x_l0: float, y_l0: float, split: Split) -> str:
    """The name of the tile at (x_l0, y_l0): 16 hexadecimal digits, of which the first four encode the split as
    `slidecascade_evaluation.dsb2018` reads it.

    The recipe of the bundled nuclei model then validates on the slides selected for validation.
    """
    digest = hashlib.sha256(f"{slide_id}:{x_l0}:{y_l0}".encode()).hexdigest()
    first = int(digest[:4], 16) // _HELD_OUT * _HELD_OUT
    if split != VALIDATE:
        first += 1 if first + 1 < 2**16 else -1
    return f"{first:04x}{digest[4:16]}"


def _corners(
    grid: Grid, outlines: Sequence[Annotation], areas: Sequence[Annotation], size_px: int
) -> list[tuple[int, int]]:
    """Corners of tiles inside the slide; the last column and row are moved inwards."""
    if areas:
        columns, rows = (np.arange(0, side, size_px) for side in (grid.size.width, grid.size.height))
        all_tiles = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
        places = _moved_inside(all_tiles, grid, size_px)
        kept = np.zeros(len(places), np.bool_)
        for area in areas:
            frame = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * (size_px - 1) + 0.5
            inside = [area.contains(grid.l0_from_grid(places + corner)) for corner in frame]
            kept |= np.logical_and.reduce(inside)
        places = places[kept]
    else:
        centres = np.concatenate([item.centres_l0 for item in outlines]) if outlines else np.zeros((0, 2))
        tiles = np.floor(grid.grid_from_l0(centres) / size_px).astype(np.int64) * size_px
        places = _moved_inside(tiles, grid, size_px)
    return [(int(x), int(y)) for x, y in np.unique(places, axis=0).tolist()]


def _moved_inside(corners: npt.NDArray[np.int64], grid: Grid, size_px: int) -> npt.NDArray[np.int64]:
    last = np.array([grid.size.width, grid.size.height]) - size_px
    moved: npt.NDArray[np.int64] = np.clip(corners, 0, last)
    return moved


def _drawn(rings: Sequence[tuple[Points, ...]], x: int, y: int, size_px: int) -> npt.NDArray[np.uint16]:
    """Polygons of the grid as labels 1 to n; where two overlap the later one is on top.

    A pixel belongs to a polygon that contains its centre; OpenCV would add half a pixel all around, a fifth of a
    small nucleus.
    """
    labels = np.zeros((size_px, size_px), np.uint16)
    for number, polygon in enumerate(rings, start=1):
        low = np.maximum(np.floor(polygon[0].min(axis=0)).astype(np.int64) - (x, y), 0)
        high = np.minimum(np.ceil(polygon[0].max(axis=0)).astype(np.int64) - (x, y), size_px)
        columns, rows = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]))
        centres = np.stack([columns + (x + 0.5), rows + (y + 0.5)], axis=-1).reshape(-1, 2)
        inside = Annotation.of_polygon(None, polygon).contains(centres).reshape(columns.shape)
        labels[low[1] : high[1], low[0] : high[0]][inside] = number
    return labels
