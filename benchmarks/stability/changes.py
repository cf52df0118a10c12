"""Changes of an image that leave its cells what they are, and the way back for outlines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Vertices = NDArray[np.float64]

_JPEG_QUALITY: Final = 60
_BLUR_SIGMA_PX: Final = 1.0
_BRIGHTNESS: Final = 0.1
_SCALES: Final = (0.8, 1.25)


@dataclass(frozen=True, slots=True)
class Change:
    """A change of an image ``(H, W, 3)`` uint8 RGB.

    Attributes:
        apply: the changed image.
        undo: outlines ``(V, 2)`` float64, x and y in pixels of the changed image, in pixels of the original, whose
            height and width are given.
        scale: pixels of the changed image per pixel of the original; the pixel size is divided by it.
    """

    name: str
    apply: Callable[[Image], Image]
    undo: Callable[[Vertices, int, int], Vertices] = lambda vertices, _height, _width: vertices
    scale: float = 1.0


def changes() -> tuple[Change, ...]:
    """None at all, which must give the same cells, and the others."""
    return (
        Change("none", lambda image: image),
        Change("rotated by 90 degrees", lambda image: np.ascontiguousarray(np.rot90(image)), _unrotated),
        Change("mirrored", lambda image: np.ascontiguousarray(image[:, ::-1]), _unmirrored),
        Change(f"JPEG at quality {_JPEG_QUALITY}", _compressed),
        Change(f"Gaussian blur, sigma {_BLUR_SIGMA_PX:g} px", _blurred),
        Change(f"{_BRIGHTNESS:.0%} brighter", lambda image: _times(image, 1 + _BRIGHTNESS)),
        Change(f"{_BRIGHTNESS:.0%} darker", lambda image: _times(image, 1 - _BRIGHTNESS)),
        *map(_scaled, _SCALES),
    )


def _unrotated(vertices: Vertices, _height: int, width: int) -> Vertices:
    # A quarter turn counterclockwise takes (x, y) to (y, width - x).
    return np.stack([width - vertices[:, 1], vertices[:, 0]], axis=1)


def _unmirrored(vertices: Vertices, _height: int, width: int) -> Vertices:
    return np.stack([width - vertices[:, 0], vertices[:, 1]], axis=1)


def _compressed(image: Image) -> Image:
    _, coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(np.asarray(decoded, np.uint8)[..., ::-1])


def _blurred(image: Image) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), _BLUR_SIGMA_PX), np.uint8)


def _times(image: Image, factor: float) -> Image:
    changed: Image = np.clip(np.rint(image * np.float32(factor)), 0, 255).astype(np.uint8)
    return changed


def _scaled(scale: float) -> Change:
    """Resampled, with the pixel size that belongs to it."""
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC

    def apply(image: Image) -> Image:
        height, width = (round(side * scale) for side in image.shape[:2])
        return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), np.uint8)

    def undo(vertices: Vertices, height: int, width: int) -> Vertices:
        return vertices * (width / round(width * scale), height / round(height * scale))

    return Change(f"resampled to {scale:g} x", apply, undo, scale)
