"""The truth of a lattice of patches from masks or polygons: which squares hold any positive pixel."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade.errors import UnusableDataError
from slidecascade.geometry import Box, Size
from slidecascade.slides.slide import Slide, can_open
from slidecascade_evaluation.annotation import Points
from slidecascade_evaluation.geojson import parse, stated_origin
from slidecascade_evaluation.rasters import runs_of_polygons

MASK_ENDINGS: Final = ("_mask.tif", "_mask.tiff", "_mask.png", "_Mask.tif")
"""Of the mask of ``NAME.svs``: ``NAME_mask.tif``, as CAMELYON16 and PAIP name them."""

POLYGONS: Final = ".geojson"
"""Ending of polygons in place of a mask: ``NAME.geojson``, as QuPath exports annotations."""

_STRIP_PX: Final = 2**25
"""Most pixels of a mask in memory."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class MaskedSlide:
    """A slide or an image, and its mask, or its polygons."""

    name: str
    path: Path
    mask: Path


def find_masked(folder: Path, masks_dir: Path | None = None) -> tuple[MaskedSlide, ...]:
    """The slides and images of a folder, by name; their masks, or polygons, lie beside them, or in `masks_dir`.

    Raises:
        UnusableDataError: there are none, or one has no mask.
    """
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.endswith(MASK_ENDINGS) or not (can_open(path) or path.suffix.lower() in (".png", ".jpg")):
            continue
        names = [path.stem + ending for ending in (*MASK_ENDINGS, POLYGONS)]
        masks = [mask for name in names if (mask := (masks_dir or folder) / name).is_file()]
        if not masks:
            raise UnusableDataError(
                f"{path.name} has no mask: put {path.stem}{MASK_ENDINGS[0]} beside it, black where there is none, "
                f"or {path.stem}{POLYGONS} with polygons."
            )
        found.append(MaskedSlide(path.name, path, masks[0]))
    if not found:
        raise UnusableDataError(f"{folder} holds no slides with masks: name them NAME.tif and NAME_mask.tif.")
    return tuple(found)


def positive_squares(
    mask: Path,
    size_l0: Size,
    columns_l0: Sequence[float],
    rows_l0: Sequence[float],
    *,
    above: int = 0,
    class_name: str | None = None,
    bounds_l0: Box | None = None,
) -> Bools:
    """``(rows, columns)``: the squares between edges in level-0 pixels that hold a pixel of `mask` above `above`.

    A pixel belongs to the square that its middle lies in; squares may reach beyond the slide.

    Args:
        mask: an image or a slide as large as level 0 of its slide, of three channels the greatest counts; or
            GeoJSON, whose polygons are positive.
        columns_l0, rows_l0: edges of the squares, one more than there are.

        class_name: of the polygons that count; default: all.
        bounds_l0: the scanned part of the slide, from whose corner GeoJSON counts unless it says otherwise.

    Raises:
        UnusableDataError: the mask has another size, or cannot be read.
    """
    x = np.clip(np.rint(np.asarray(columns_l0)), 0, size_l0.width).astype(np.int64)
    y = np.clip(np.rint(np.asarray(rows_l0)), 0, size_l0.height).astype(np.int64)
    if mask.suffix == POLYGONS:
        return _any_polygon(_polygons(mask, class_name, bounds_l0), x, y)
    found = np.zeros((len(y) - 1, len(x) - 1), np.bool_)
    if can_open(mask):
        with closing(Slide.open(mask)) as slide:
            _require_size(mask, slide.size_l0, size_l0)
            at_a_time = max(1, _STRIP_PX // (size_l0.width * max(1, int(np.diff(y).max(initial=1)))))
            for first in range(0, len(y) - 1, at_a_time):
                edges = y[first : first + at_a_time + 1]
                if edges[-1] > edges[0] and x[-1] > x[0]:
                    box = Box(int(x[0]), int(edges[0]), int(x[-1] - x[0]), int(edges[-1] - edges[0]))
                    strip = slide.read_level(0, box).max(axis=2) > above
                    found[first : first + at_a_time] = _any_within(strip, x - x[0], edges - edges[0])
        return found
    image = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise UnusableDataError(f"The mask {mask.name} cannot be read: write it as TIFF or PNG.")
    _require_size(mask, Size(image.shape[1], image.shape[0]), size_l0)
    greatest = image[:, :, :3].max(axis=2) if image.ndim == 3 else image
    return _any_within(greatest > above, x, y)


def _polygons(path: Path, class_name: str | None, bounds_l0: Box | None) -> list[tuple[Points, ...]]:
    """Rings in level-0 pixels of the polygons that count."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnusableDataError(f"{path.name} cannot be read: {error.strerror}.") from error
    found = [
        item for item in parse(data, path.name)[0] if item.is_polygon and class_name in (None, item.class_name)
    ]
    if bounds_l0 is not None and stated_origin(data) != "slide":
        found = [item.shifted(bounds_l0.x, bounds_l0.y) for item in found]
    return [item.rings_l0 for item in found]


def _any_polygon(
    polygons: Sequence[tuple[Points, ...]], x: npt.NDArray[np.int64], y: npt.NDArray[np.int64]
) -> Bools:
    """``(len(y) - 1, len(x) - 1)``: whether a pixel between the edges has its middle in a polygon."""
    row, left, right = runs_of_polygons(polygons)
    left, right = np.maximum(left, x[0]), np.minimum(right, x[-1] - 1)
    kept = (left <= right) & (row >= y[0]) & (row < y[-1])
    place = np.searchsorted(y, row[kept], side="right") - 1
    first, last = (np.searchsorted(x, side[kept], side="right") - 1 for side in (left, right))
    changes = np.zeros((len(y) - 1, len(x)), np.int64)
    np.add.at(changes, (place, first), 1)
    np.add.at(changes, (place, last + 1), -1)
    is_filled = (np.diff(y) > 0)[:, None] & (np.diff(x) > 0)
    return np.asarray((np.cumsum(changes, axis=1)[:, :-1] > 0) & is_filled, np.bool_)


def _require_size(mask: Path, size: Size, expected: Size) -> None:
    if size != expected:
        raise UnusableDataError(
            f"The mask {mask.name} has {size.width} x {size.height} px and its slide {expected.width} x "
            f"{expected.height}: write it at the size of level 0."
        )


def _any_within(strip: Bools, x: npt.NDArray[np.int64], y: npt.NDArray[np.int64]) -> Bools:
    """``(len(y) - 1, len(x) - 1)``: whether any pixel between the edges is true; empty squares are false."""
    sums = np.zeros((strip.shape[0] + 1, strip.shape[1] + 1), np.int64)
    np.cumsum(np.cumsum(strip, axis=0), axis=1, out=sums[1:, 1:])
    corners = sums[np.ix_(y, x)]
    return np.asarray(corners[1:, 1:] - corners[:-1, 1:] - corners[1:, :-1] + corners[:-1, :-1] > 0, np.bool_)
