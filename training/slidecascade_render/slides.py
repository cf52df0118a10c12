"""Rendered tissue as pyramidal whole-slide TIFF files that OpenSlide opens, of any size in bounded memory.

Level 0 is drawn band by band; every smaller level is averaged into a file on disk while the one above it is
written. OpenSlide learns the pixel size from the resolution tags of level 0. The caller provides the pixels, as
in `slidecascade_render.liver.slides`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade_render.tiff import TiledTiff

Rgb = npt.NDArray[np.uint8]

_STEP: Final = 4  # from one level to the next, as scanners do
_TOP_PX: Final = 512  # maximum side of the smallest level
_BAND_PX: Final = 1024  # rows in memory


def pyramid(width_px: int, height_px: int, levels: int | None = None) -> list[tuple[int, int]]:
    """(width, height) of each level, a quarter of the one above, rounded up.

    Without `levels`, as many as it takes for the last to fit into 512 px.
    """
    sizes = [(width_px, height_px)]
    while max(sizes[-1]) > _TOP_PX if levels is None else len(sizes) < levels:
        width, height = sizes[-1]
        sizes.append((-(-width // _STEP), -(-height // _STEP)))
    return sizes


class DrawWindow(Protocol):
    """RGB pixels uint8 ``(height_px, width_px, 3)`` of the plane whose upper left one is (x_px, y_px)."""

    def __call__(self, *, x_px: int, y_px: int, width_px: int, height_px: int) -> Rgb: ...


def write_pyramid(
    path: Path,
    draw: DrawWindow,
    width_px: int,
    height_px: int,
    *,
    mpp: float,
    tile_px: int = 256,
    levels: int | None = None,
    quality: int = 90,
) -> None:
    """Write a plane from (0, 0) as a tiled pyramidal BigTIFF of `mpp` um per pixel at level 0.

    Pixel (x, y) of level 0 is pixel (x, y) of `draw`, but for the JPEG compression of its tiles at `quality`.
    `levels` counts level 0. Needs free disk beside `path` for the raw pixels of a band and of the smaller levels.

    Raises:
        ValueError: a size or the number of levels is not positive, or the tile no multiple of 16.
    """
    if min(width_px, height_px, tile_px) <= 0 or tile_px % 16 or (levels is not None and levels < 1):
        raise ValueError("sizes and levels must be positive, and the tile a multiple of 16 px")
    sizes = pyramid(width_px, height_px, levels)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch, TiledTiff(path) as tiff:
        spill = Path(scratch)
        bands = _drawn_bands(draw, sizes[0], tile_px, spill / "band")
        for level, size in enumerate(sizes):
            last = level + 1 == len(sizes)
            below = None if last else _on_disk(spill / f"level-{level + 1}", sizes[level + 1])
            tiles = _tiles(bands, tile_px, quality, below)
            level_mpp = mpp * width_px / size[0]
            tiff.add_level(tiles, size, tile_px=tile_px, mpp=level_mpp, reduced=level > 0)
            if below is not None:
                bands = _stored_bands(below, tile_px)


def _band_px(tile_px: int) -> int:
    """Rows of a band: whole tiles, about 1024 px."""
    return tile_px * max(1, _BAND_PX // tile_px)


def _on_disk(path: Path, size: tuple[int, int]) -> Rgb:
    return np.memmap(path, np.uint8, "w+", shape=(size[1], size[0], 3))


def _drawn_bands(draw: DrawWindow, size: tuple[int, int], tile_px: int, path: Path) -> Iterator[Rgb]:
    """Level 0 from top to bottom. A band is stored on disk, so that memory does not depend on the slide's
    width."""
    width, height = size
    rows = _band_px(tile_px)
    store = _on_disk(path, (width, min(rows, height)))
    for top in range(0, height, rows):
        band = store[: min(rows, height - top)]
        for left in range(0, width, _BAND_PX):
            right = min(left + _BAND_PX, width)
            band[:, left:right] = draw(x_px=left, y_px=top, width_px=right - left, height_px=band.shape[0])
        yield band


def _stored_bands(level: Rgb, tile_px: int) -> Iterator[Rgb]:
    rows = _band_px(tile_px)
    for top in range(0, level.shape[0], rows):
        yield level[top : top + rows]


def _tiles(bands: Iterator[Rgb], tile_px: int, quality: int, below: Rgb | None) -> Iterator[bytes]:
    """JPEG tiles in reading order; on the way, each band is averaged into the level below."""
    top = 0
    for band in bands:
        for y in range(0, band.shape[0], tile_px):
            for x in range(0, band.shape[1], tile_px):
                yield _encoded(band[y : y + tile_px, x : x + tile_px], tile_px, quality)
        if below is not None:
            _average_into(below[top // _STEP :], band)
        top += band.shape[0]


def _encoded(tile: Rgb, tile_px: int, quality: int) -> bytes:
    """A whole tile as JPEG without chroma subsampling; tiles at the edge repeat their last row and column."""
    height, width = tile.shape[:2]
    whole = cv2.copyMakeBorder(tile, 0, tile_px - height, 0, tile_px - width, cv2.BORDER_REPLICATE)
    choices = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    coded: bytes = cv2.imencode(".jpg", whole[..., ::-1], choices)[1].tobytes()
    return coded


def _average_into(below: Rgb, band: Rgb) -> None:
    """Each pixel below is the mean of 4 x 4 pixels, or of those that exist at the right and lower edge."""
    height, width = -(-band.shape[0] // _STEP), -(-band.shape[1] // _STEP)
    for left in range(0, width, _BAND_PX):
        right = min(left + _BAND_PX, width)
        part = np.ascontiguousarray(band[:, left * _STEP : right * _STEP])
        missing = (height * _STEP - part.shape[0], (right - left) * _STEP - part.shape[1])
        whole = cv2.copyMakeBorder(part, 0, missing[0], 0, missing[1], cv2.BORDER_REPLICATE)
        below[:height, left:right] = cv2.resize(whole, (right - left, height), interpolation=cv2.INTER_AREA)
