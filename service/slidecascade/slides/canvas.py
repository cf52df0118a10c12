"""The pixels of an upload, put together piece by piece: the decoded image is never held a second time.

A decoder hands over bands of samples; here each becomes 8-bit RGB on white and goes to its place in the one array
that tiles are cut from. 16-bit samples are brought to 8 bits by a rule that depends on all of them
(`slidecascade.slides.depth`) and still need no array of their own: grey ones wait in two of the three bytes that
their pixel has in the result, and colour is decoded again where the first band was darker than the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.geometry import Size
from slidecascade.slides.alpha import on_white
from slidecascade.slides.depth import Narrowing, colour_narrowing, grey_counts, grey_narrowing
from slidecascade.slides.source import Rgb

BAND_BYTES = 2**20
"""Samples a decoder hands over at a time, where rows, strips and tiles allow so few: they stay in the cache."""

_ROWS_STAY = (1, 2)
"""Values of EXIF's orientation with which the first row stored is the first one shown."""


@dataclass(frozen=True, slots=True)
class Band:
    """Part of an image: rows and columns as it is stored, steps allowed.

    `samples` is ``(h, w, C)``, uint8 or uint16 through the whole image; C is 1 (grey), 2 (grey, alpha), 3 (RGB) or
    4 (RGB, alpha).
    """

    rows: slice
    columns: slice
    samples: NDArray[np.uint8] | NDArray[np.uint16]


class Watch(Protocol):
    """Is notified, by the thread that decodes, of what can be read already."""

    def begun(self, rgb: Rgb) -> None:
        """`rgb` is being filled."""
        ...

    def reached(self, rows: int) -> None:
        """The first `rows` rows of it will not change any more. May raise to end decoding."""
        ...


class Unwatched:
    """The watch of those who wait for all of an image."""

    def begun(self, rgb: Rgb) -> None: ...

    def reached(self, rows: int) -> None: ...


UNWATCHED = Unwatched()


def assemble(
    rgb: Rgb, size: Size, orientation: int, read: Callable[[], Iterator[Band]], watch: Watch = UNWATCHED
) -> None:
    """Fill `rgb` with the image that `read` gives the bands of, turned as EXIF `orientation` says.

    Rows are reported to `watch` where bands come from above, in 8 bits, and no orientation moves them; those of
    other images at the end.

    Args:
        rgb: ``(H, W, 3)`` uint8, contiguous.
        size: as stored.
        read: begins the decoding; called a second time only for colour of 16 bits, see above. The bands of one
            call cover every pixel once.
    """
    stored = _as_stored(rgb, orientation)
    wide = _WideSamples(stored)
    for band in read():
        if band.samples.dtype == np.uint16:
            wide.place(band)
        else:
            stored[band.rows, band.columns] = shown(band.samples.astype(np.uint8, copy=False))
        watch.reached(_final_rows(band, size) if orientation in _ROWS_STAY else 0)
    if wide.narrow_again():
        for band in read():
            wide.place(band)
            watch.reached(0)
    watch.reached(rgb.shape[0])


def _final_rows(band: Band, size: Size) -> int:
    """How many rows from above are complete with `band`; 0: that cannot be said yet.

    Bands come row by row, and from left to right in tiles, but for the passes of interlaced images.
    """
    is_last = band.columns.stop in (None, size.width)
    is_dense = (band.rows.step or 1) == 1 and (band.columns.step or 1) == 1
    return int(band.rows.stop) if is_last and is_dense and band.samples.dtype == np.uint8 else 0


def shown(samples: NDArray[np.uint8]) -> Rgb:
    """``(h, w, C)`` uint8 samples of a `Band` as RGB on white."""
    channels = samples.shape[2]
    if channels == 1:
        return np.asarray(cv2.cvtColor(samples, cv2.COLOR_GRAY2RGB), np.uint8)
    if channels == 2:
        return on_white(samples[..., (0, 0, 0, 1)])
    return on_white(samples) if channels == 4 else samples


class _WideSamples:
    """16-bit bands on their way into `stored`."""

    def __init__(self, stored: Rgb) -> None:
        self._stored = stored
        self._counts = np.zeros(65536)
        self._largest = 0
        self._narrowing: Narrowing | None = None
        self._table = np.zeros(0, np.uint8)

    def place(self, band: Band) -> None:
        place, samples = self._stored[band.rows, band.columns], band.samples.astype(np.uint16, copy=False)
        if samples.shape[2] == 1:
            self._counts += grey_counts(np.ascontiguousarray(samples[..., 0]))
            place[..., :2] = np.ascontiguousarray(samples).view(np.uint8)
            return
        colours = 1 if samples.shape[2] == 2 else 3
        self._largest = max(self._largest, int(samples[..., :colours].max()))
        if self._narrowing is None:
            self._narrow_by_largest()
        if colour_narrowing(self._largest) == self._narrowing:  # else all of it is decoded again
            narrow = np.asarray(cv2.LUT(samples, self._table), np.uint8)
            narrow[..., colours:] = samples[..., colours:] >> 8
            place[...] = shown(narrow)

    def narrow_again(self) -> bool:
        """Finish grey; whether colour must be decoded once more, because its first band had too few bits."""
        if self._counts.any():
            self._spread_grey()
        before = self._narrowing
        self._narrow_by_largest()
        return before is not None and before != self._narrowing

    def _narrow_by_largest(self) -> None:
        self._narrowing = colour_narrowing(self._largest)
        self._table = self._narrowing.table

    def _spread_grey(self) -> None:
        table = grey_narrowing(self._counts).table
        height, width, _ = self._stored.shape
        step = max(1, BAND_BYTES // width)
        for top in range(0, height, step):
            rows = self._stored[top : top + step]
            rows[...] = table[np.ascontiguousarray(rows[..., :2]).view(np.uint16)]


def row_bands(width: int, height: int) -> Iterator[tuple[int, int]]:
    """First and end of the bands of rows of an image that is there already, each of at most about a megabyte."""
    step = max(1, BAND_BYTES // (3 * width))
    for top in range(0, height, step):
        yield top, min(top + step, height)


def turned(rgb: Rgb, orientation: int) -> Rgb:
    """The view of an image, which is given as stored, that shows it as EXIF `orientation` (1 to 8) says."""
    if orientation in (5, 6, 7, 8):
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    return rgb


def _as_stored(rgb: Rgb, orientation: int) -> Rgb:
    """The way back from `turned`, a view as well."""
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    if orientation in (5, 6, 7, 8):
        rgb = rgb.transpose(1, 0, 2)
    return rgb
