"""Tiles with masks from whole slides and run lengths: ``slidecascade dataset --from masks``.

The run lengths are a table ``id,encoding`` as segmentation challenges publish it
(`slidecascade.areas.runlengths`); an id is the name of a slide without its ending. A mask is never made at level
0: each pixel of a tile looks up the runs in the column of its middle.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade.areas.runlengths import decode
from slidecascade.areas.runs import Runs
from slidecascade.errors import UnusableDataError
from slidecascade.geometry import Box, Grid, Mpp
from slidecascade.slides.view import SlideView
from slidecascade_training.datasets.cropping import is_glass
from slidecascade_training.datasets.specimens import Specimen, slides_of

_COLUMNS: Final = ("id", "encoding")


@dataclass(frozen=True, slots=True)
class MaskTile:
    """RGB ``(S, S, 3)`` and its mask ``(S, S)`` uint8 of 0 and 1, with its corner in level-0 pixels."""

    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    x_l0: float
    y_l0: float

    @property
    def labels(self) -> npt.NDArray[np.uint16]:
        """The areas of the mask, pixels connected by sides, as labels 1 to n ``(S, S)``."""
        return np.asarray(cv2.connectedComponents(self.mask, connectivity=4)[1], np.uint16)


def read_run_lengths(path: Path) -> dict[str, str]:
    """Encodings by id.

    Raises:
        UnusableDataError: it is no such table, or has an id twice.
    """
    limit = csv.field_size_limit(sys.maxsize)  # of one cell: 128 kB, and a slide takes megabytes
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            rows = csv.DictReader(lines)
            if rows.fieldnames is None or not set(_COLUMNS) <= set(rows.fieldnames):
                raise UnusableDataError(
                    f"{path.name} is no table of run lengths: its columns are id and encoding."
                )
            found: dict[str, str] = {}
            for row in rows:
                if row["id"] in found:
                    raise UnusableDataError(f"{path.name} has the id {row['id']!r} twice: keep one row of it.")
                found[row["id"]] = row["encoding"] or ""
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnusableDataError(f"{path.name} cannot be read as a table of run lengths: {error}.") from error
    finally:
        csv.field_size_limit(limit)
    return found


def pair_masks(slides_dir: Path, path: Path) -> tuple[tuple[Specimen, str], ...]:
    """Every slide with its encoding.

    Raises:
        UnusableDataError: an id has no slide, or several.
    """
    encodings = read_run_lengths(path)
    slides: dict[str, list[Path]] = {}
    for slide in slides_of(slides_dir):
        slides.setdefault(slide.stem, []).append(slide)
    missing = sorted(encodings.keys() - slides.keys())
    if missing:
        raise UnusableDataError(
            f"{len(missing)} ids of {path.name} have no slide in {slides_dir}, the first {missing[0]!r}: add the "
            "slides, or remove the rows."
        )
    for name in encodings:
        if len(slides[name]) > 1:
            raise UnusableDataError(
                f"The id {name!r} fits {slides[name][0].name} and {slides[name][1].name}: keep one of them."
            )
    return tuple((Specimen(slides[name][0], path), text) for name, text in encodings.items())


def mask_tiles(
    view: SlideView, encoding: str, *, mpp: Mpp, size_px: int, name: str, blank_share: float = 1.0, seed: int = 0
) -> Iterator[MaskTile]:
    """Tiles of a square grid over the slide that show areas, and for each of them `blank_share` that show none.

    Tiles of glass are left out.

    Raises:
        InvalidRequestError: the run lengths are not those of an image of the slide's size.
        UnusableDataError: the slide `name` is smaller than a tile.
    """
    grid, extent = view.grid(mpp), view.extent_l0
    if min(grid.size.width, grid.size.height) < size_px:
        raise UnusableDataError(
            f"{name} has {grid.size.width} x {grid.size.height} pixels at {mpp:g} um per pixel, smaller than a "
            f"tile of {size_px}: use a smaller --size."
        )
    runs = decode(encoding, width_px=extent.width, height_px=extent.height, name=name)
    boxes = [
        Box(x, y, size_px, size_px)
        for y in range(0, grid.size.height - size_px + 1, size_px)
        for x in range(0, grid.size.width - size_px + 1, size_px)
    ]
    masks = [sampled(runs, grid, box, extent.height) for box in boxes]
    shown = [index for index, mask in enumerate(masks) if mask.any()]
    blank = np.random.default_rng(seed).permutation(
        [index for index in range(len(boxes)) if index not in set(shown)]
    )
    wanted = round(blank_share * len(shown))
    for index in [*shown, *blank.tolist()]:
        image = view.read(grid, boxes[index])
        if not masks[index].any() and (wanted == 0 or is_glass(image)):
            continue
        wanted -= not masks[index].any()
        place = grid.l0_from_grid(np.array([[boxes[index].x, boxes[index].y]], np.float64))[0]
        yield MaskTile(image, masks[index], float(place[0]), float(place[1]))


def sampled(runs: Runs, grid: Grid, box: Box, height_l0: int) -> npt.NDArray[np.uint8]:
    """``(box.height, box.width)``: 1 where the level-0 pixel below a pixel's middle is in a run."""
    middles = [
        np.floor((np.arange(start, start + count) + 0.5) * grid.downsample + origin).astype(np.int64)
        for start, count, origin in (
            (box.x, box.width, grid.origin_x_l0),
            (box.y, box.height, grid.origin_y_l0),
        )
    ]
    near = runs.within(int(middles[0][0]), int(middles[0][-1]) + 1)
    if not len(near):
        return np.zeros((box.height, box.width), np.uint8)
    step = height_l0 + 1
    asked = middles[0][None, :] * step + np.minimum(middles[1], height_l0 - 1)[:, None]
    before = np.searchsorted(near.columns * step + near.tops, asked, side="right") - 1
    ends = (near.columns * step + near.bottoms)[np.maximum(before, 0)]
    return np.asarray((before >= 0) & (asked < ends), np.uint8)
