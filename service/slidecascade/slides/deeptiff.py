"""Tiled TIFF slides of 16 bits a sample, of which OpenSlide keeps the upper eight.

What a camera of 12 bits wrote would be nearly black. Tiles are decoded here and narrowed by the rule for uploads
(`slidecascade.slides.depth`), so that a file has the same pixels as a slide and as an upload.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.errors import UndecodableImageError, UnreadableSlideError
from slidecascade.geometry import Box
from slidecascade.slides import tiff
from slidecascade.slides.alpha import on_white
from slidecascade.slides.depth import COLOUR_BITS, Narrowing, colour_narrowing, grey_counts, grey_narrowing
from slidecascade.slides.imageheader import check_samples
from slidecascade.slides.source import Rgb
from slidecascade.slides.tiff import ByteSource, Directory

_COPIED_TAGS = (
    *(tiff.BITS, tiff.COMPRESSION, tiff.PHOTOMETRIC, tiff.SAMPLES),
    *(tiff.PLANAR, tiff.PREDICTOR, tiff.EXTRA_SAMPLES, tiff.SAMPLE_FORMAT),
)
"""Tags of a slide's directory that a file of one of its tiles needs too."""


class DeepTiff:
    """The levels of a 16-bit slide. Reading from several threads at a time is fine.

    Raises:
        UnreadableSlideError: the samples are stored in a way that uploads are not read in either.
    """

    def __init__(self, source: ByteSource, levels: Sequence[Directory], narrowing: KnownNarrowing) -> None:
        for directory in levels:
            try:
                check_samples(directory)
            except UndecodableImageError as error:
                raise UnreadableSlideError(error.detail) from error
        self._source = source
        self._order = tiff.byte_order(source)
        self._levels = levels
        self._narrowing = narrowing

    def read(self, level: int, box: Box) -> Rgb:
        """The pixels of `box`, given in pixels of `level`; tiles without bytes are white.

        The first read of a file looks at all of level 0.

        Raises:
            UnreadableSlideError: a tile cannot be decoded.
        """
        narrowing = self._narrowing.once(self._measure)
        pixels = np.full((box.height, box.width, 3), 255, np.uint8)
        directory = self._levels[level]
        for index, place in _stored_tiles(directory, box):
            part, samples = place.clipped(box), self._decoded(directory, index, place)
            cut = samples[part.y - place.y : part.bottom - place.y, part.x - place.x : part.right - place.x]
            target = part.shifted(-box.x, -box.y)
            pixels[target.y : target.bottom, target.x : target.right] = _rgb(cut, narrowing)
        return pixels

    def _measure(self) -> Narrowing:
        """From all samples of level 0 that can be read, less what tiles have beyond the image's edge."""
        directory = self._levels[0]
        whole = Box(0, 0, directory.size.width, directory.size.height)
        counts, largest = np.zeros(65536), 0
        for index, place in _stored_tiles(directory, whole):
            part = place.clipped(whole)
            with suppress(UnreadableSlideError):  # the reads that touch this tile will say so
                inside = self._decoded(directory, index, place)[: part.height, : part.width]
                if inside.ndim == 2:
                    counts += grey_counts(np.ascontiguousarray(inside))
                else:
                    largest = max(largest, int(inside[..., :3].max()))
            if largest >= 1 << COLOUR_BITS[-2]:  # no other tile can change it
                break
        return grey_narrowing(counts) if counts.any() else colour_narrowing(largest)

    def _decoded(self, directory: Directory, index: int, place: Box) -> NDArray[np.uint16]:
        """A tile, decoded as the only strip of a file of its own."""
        tags = {tag: directory.all(tag) for tag in _COPIED_TAGS if tag in directory.tags}
        data = tiff.one_strip(directory.part(self._source, index), directory.part_size, tags, self._order)
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            samples = None
        if samples is None or samples.dtype != np.uint16 or samples.shape[:2] != (place.height, place.width):
            raise UnreadableSlideError(
                f"The slide's 16-bit tile at pixel ({place.x}, {place.y}) of its level cannot be decoded: it "
                "is damaged or compressed in a way that is not read; copy the file again or save it with 8 bits."
            )
        return np.asarray(samples)


def _stored_tiles(directory: Directory, box: Box) -> Iterator[tuple[int, Box]]:
    """Index and place of the tiles that touch `box` and have bytes."""
    width, height = directory.part_size.width, directory.part_size.height
    columns, lengths = -(-directory.size.width // width), directory.part_bytes
    for row in range(box.y // height, -(-box.bottom // height)):
        for column in range(box.x // width, -(-box.right // width)):
            if lengths[row * columns + column]:
                yield row * columns + column, Box(column * width, row * height, width, height)


class KnownNarrowing:
    """The narrowing of a file, measured once for all who open it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: Narrowing | None = None

    def once(self, measure: Callable[[], Narrowing]) -> Narrowing:
        """What `measure` returned first."""
        with self._lock:
            if self._known is None:
                self._known = measure()
            return self._known


def _rgb(samples: NDArray[np.uint16], narrowing: Narrowing) -> Rgb:
    """``(h, w)``, or ``(h, w, C)`` with blue first and perhaps alpha last."""
    if samples.ndim == 2:
        return np.asarray(cv2.cvtColor(narrowing.apply(samples), cv2.COLOR_GRAY2RGB), np.uint8)
    colour = narrowing.apply(np.ascontiguousarray(samples[..., 2::-1]))
    if samples.shape[2] == 3:
        return colour
    return on_white(np.dstack([colour, (samples[..., 3] >> 8).astype(np.uint8)]))
