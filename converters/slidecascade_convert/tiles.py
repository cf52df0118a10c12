"""The images that original and served graph are compared on: the caller's own, or rendered tissue."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from slidecascade.errors import ConversionError, InvalidRequestError

Images = npt.NDArray[np.uint8]

MAX_FILES: Final = 256
RENDERED_MPP: Final = (0.05, 1.0)
"""Micrometres per pixel that tissue is rendered at; coarser, it takes long and shows no nuclei."""

_ENDINGS: Final = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})


def rendered(count: int, height: int, width: int, *, mpp: float) -> Images:
    """`count` windows of rendered liver tissue, uint8 RGB ``(count, height, width, 3)``.

    The tissue has the nearest pixel size within `RENDERED_MPP`.
    """
    from slidecascade_render.liver.tissue import TissueOptions, render

    columns = min(4, count)
    options = TissueOptions(seed=4, mpp=min(max(mpp, RENDERED_MPP[0]), RENDERED_MPP[1]))
    tissue = render(options, width_px=columns * width, height_px=-(-count // columns) * height)
    rows = tissue.image.reshape(-1, height, columns, width, 3)
    return np.ascontiguousarray(rows.swapaxes(1, 2).reshape(-1, height, width, 3)[:count])


def from_folder(folder: Path, height: int, width: int, *, resize: bool) -> Images:
    """Every image in `folder` (at most `MAX_FILES`), as uint8 RGB ``(N, height, width, 3)``.

    Args:
        resize: resize each image, as crops of cells are; otherwise its middle is cut out, or mirrored on where it
            is too small.

    Raises:
        InvalidRequestError: there is no such folder.
        ConversionError: when it contains no image.
    """
    import cv2

    if not folder.is_dir():
        raise InvalidRequestError("The folder given to --calibrate does not exist.")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS)[:MAX_FILES]
    found = [cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) for path in files]
    images = [image for image in found if image is not None]
    if not images:
        raise ConversionError("The folder given to --calibrate holds no image that can be read.")
    if resize:
        return np.stack([cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in images])
    return np.stack([_middle(image, height, width) for image in images])


def _middle(image: Images, height: int, width: int) -> Images:
    missing_rows, missing_columns = max(0, height - image.shape[0]), max(0, width - image.shape[1])
    padded = np.pad(image, ((0, missing_rows), (0, missing_columns), (0, 0)), mode="symmetric")
    top, left = (padded.shape[0] - height) // 2, (padded.shape[1] - width) // 2
    return padded[top : top + height, left : left + width]


def lively(image: Images, side_px: int, count: int) -> Images:
    """At most `count` squares ``(N, side_px, side_px, 3)`` of `image`, those whose grey levels differ most.

    An image that is smaller than a square is mirrored on.
    """
    height, width = (max(side_px, length) for length in image.shape[:2])
    padded = _middle(image, height, width)
    rows, columns = height // side_px, width // side_px
    top, left = (height - rows * side_px) // 2, (width - columns * side_px) // 2
    inner = padded[top : top + rows * side_px, left : left + columns * side_px]
    squares = inner.reshape(rows, side_px, columns, side_px, 3).swapaxes(1, 2).reshape(-1, side_px, side_px, 3)
    spread = squares.mean(axis=3).std(axis=(1, 2))
    chosen = np.sort(np.argsort(-spread, kind="stable")[:count])
    return np.ascontiguousarray(squares[chosen])


def resized(images: Images, side_px: int) -> Images:
    """Squares ``(N, side_px, side_px, 3)``, bilinear as the service resizes crops."""
    import cv2

    if images.shape[1:3] == (side_px, side_px):
        return images
    return np.stack([cv2.resize(each, (side_px, side_px), interpolation=cv2.INTER_LINEAR) for each in images])
