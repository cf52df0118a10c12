"""Slides on DICOMweb servers: metadata of a series, and frames that are fetched when they are read.

Levels, their order and their downsamples are those that OpenSlide makes of the same files, and frames are decoded
as it does, so that pixels are the same wherever a level's downsample is a whole number.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from slidecascade.errors import UndecodableImageError, UnknownSlideError, UnreadableSlideError
from slidecascade.geometry import Box, Size
from slidecascade.slides.dicomseries import Level, levels_of, value_of
from slidecascade.slides.dicomweb import AS_STORED, JSON, DicomWeb, parts, token_of
from slidecascade.slides.frame import FrameDecoder, decode_frame, pixels_of
from slidecascade.slides.slideinfo import InfoSlide, SlideInfo, mpp_of, undistorted
from slidecascade.slides.source import Rgb

PREFIX: Final = "dicomweb:"
_ID: Final = re.compile(r"dicomweb:([A-Za-z0-9._-]+)/([0-9.]{1,64})/([0-9.]{1,64})")
_FRAMES_PER_REQUEST: Final = 16
_METADATA_S: Final = 300.0
"""How long a series is taken to have the instances it had."""


class FrameCache:
    """Decoded frames, the ones used last; bounded in bytes, and safe to use from threads."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._lock = threading.Lock()
        self._frames: OrderedDict[tuple[str, int], Rgb] = OrderedDict()
        self._bytes = 0

    @property
    def held_bytes(self) -> int:
        return self._bytes

    def get(self, instance: str, number: int) -> Rgb | None:
        with self._lock:
            frame = self._frames.get((instance, number))
            if frame is not None:
                self._frames.move_to_end((instance, number))
            return frame

    def put(self, instance: str, number: int, frame: Rgb) -> None:
        with self._lock:
            if (instance, number) not in self._frames:
                self._frames[instance, number] = frame
                self._bytes += frame.nbytes
            while self._bytes > self._capacity_bytes:
                self._bytes -= self._frames.popitem(last=False)[1].nbytes


class DicomWebSlide(InfoSlide):
    """A series as a `Source`; several threads may read at a time."""

    def __init__(
        self,
        server: DicomWeb,
        address: str,
        levels: Sequence[Level],
        cache: FrameCache,
        base_json: bytes,
        decode: FrameDecoder,
    ) -> None:
        self._server = server
        self._decode = decode
        self._address = address
        self._cache = cache
        self.base_json = base_json
        """The attributes of the base level in DICOM's JSON model."""
        sizes = [(level.size.width, level.size.height) for level in levels]
        self._levels = [levels[index] for index in undistorted(sizes)]
        base = self._levels[0]
        super().__init__(
            SlideInfo(
                size_l0=base.size,
                mpp=mpp_of(base.sides_um),
                sides_um=base.sides_um,
                objective_power=base.power,
                vendor="dicom",
                level_sizes=tuple(level.size for level in self._levels),
                level_downsamples=tuple(_downsample(base.size, level.size) for level in self._levels),
            )
        )

    @property
    def content_id(self) -> str:
        """A digest of the instances' UIDs and sizes: what DICOM has under a UID does not change."""
        found = sorted(f"{level.instance} {level.size.width} {level.size.height}" for level in self._levels)
        return hashlib.sha256("\n".join(["dicomweb", *found]).encode(), usedforsecurity=False).hexdigest()

    @property
    def failed(self) -> bool:
        """False: a read that fails leaves the slide as it is."""
        return False

    def read_level(self, level: int, box: Box) -> Rgb:
        """The pixels of `box`, given in pixels of `level`; what is not stored is white.

        Raises:
            UnreadableSlideError: a frame is missing on the server, or cannot be decoded.
            NotReadyError: the server is away.
        """
        found = self._levels[level]
        pixels = np.full((box.height, box.width, 3), 255, np.uint8)
        for number, place in self._touched(found, box):
            frame = self._frame(found, number)
            part = place.clipped(box)
            target = part.shifted(-box.x, -box.y)
            source = part.shifted(-place.x, -place.y)
            pixels[target.y : target.bottom, target.x : target.right] = frame[
                source.y : source.bottom, source.x : source.right
            ]
        return pixels

    def read_channels(self, level: int, box: Box, indices: Sequence[int]) -> Rgb:
        """Those colours of `read_level`."""
        return self.read_level(level, box)[..., list(indices)]

    def unstored_share(self, level: int, box: Box) -> float:
        """The part of the pixels of `box`, given in pixels of `level`, that no frame has."""
        found = self._levels[level]
        if found.places is None:
            return 0.0
        stored = sum(place.clipped(box).area for _, place in _places(found, box))
        return 1 - stored / box.area

    def close(self) -> None:
        """Nothing is open; connections belong to the server."""

    def _touched(self, level: Level, box: Box) -> list[tuple[int, Box]]:
        """Frames of a box, fetched together where they are not in memory."""
        found = list(_places(level, box))
        missing = [number for number, _ in found if self._cache.get(level.instance, number) is None]
        for start in range(0, len(missing), _FRAMES_PER_REQUEST):
            self._fetch(level, missing[start : start + _FRAMES_PER_REQUEST])
        return found

    def _frame(self, level: Level, number: int) -> Rgb:
        """A frame; fetched again if a box has more of them than the cache holds."""
        frame = self._cache.get(level.instance, number)
        return self._fetch(level, [number])[0] if frame is None else frame

    def _fetch(self, level: Level, numbers: list[int]) -> list[Rgb]:
        path = f"{self._address}/instances/{level.instance}/frames/{','.join(map(str, numbers))}"
        response = self._server.get(path, accept=AS_STORED)
        try:
            if response.status_code not in (200, 206):
                raise ValueError(f"status {response.status_code}")
            bodies = parts(response)
            if len(bodies) != len(numbers):
                raise ValueError(f"{len(bodies)} frames instead of {len(numbers)}")
            frames = [pixels_of(body, level.frame, self._decode) for body in bodies]
        except (ValueError, UndecodableImageError) as error:
            raise UnreadableSlideError(
                f"The DICOMweb server {self._server.name} does not return the slide's frames ({error}): check the "
                "series in a viewer, or store it again."
            ) from error
        for number, frame in zip(numbers, frames, strict=True):
            self._cache.put(level.instance, number, frame)
        return frames


class DicomWebSlides:
    """Slides by id on the servers that the operator allows.

    Args:
        servers: by name.
        handles: series whose metadata is kept.
        cache_bytes: of decoded frames of all slides.
        decode: decodes compressed frames.
    """

    def __init__(
        self,
        servers: Mapping[str, DicomWeb],
        *,
        handles: int,
        cache_bytes: int,
        decode: FrameDecoder = decode_frame,
    ) -> None:
        self._decode = decode
        self._servers = servers
        self._capacity = handles
        self._cache = FrameCache(cache_bytes)
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[float, DicomWebSlide]] = OrderedDict()

    @property
    def held_bytes(self) -> int:
        """Of decoded frames in memory."""
        return self._cache.held_bytes

    @contextmanager
    def open(self, slide_id: str) -> Iterator[DicomWebSlide]:
        """The slide of this id.

        Raises:
            UnknownSlideError: the id is malformed, or there is no such server or series.
            UnreadableSlideError: the series is not a whole slide.
            NotReadyError: the server is away.
        """
        with self._lock:
            known = self._known.get(slide_id)
        if known is None or time.monotonic() - known[0] > _METADATA_S:
            known = (time.monotonic(), self._read(slide_id))
            with self._lock:
                self._known[slide_id] = known
                while len(self._known) > self._capacity:
                    self._known.popitem(last=False)
        yield known[1]

    def close(self) -> None:
        """Close the connections of all servers."""
        for server in self._servers.values():
            server.close()

    def _read(self, slide_id: str) -> DicomWebSlide:
        found = _ID.fullmatch(slide_id)
        server = self._servers.get(found[1]) if found else None
        if found is None or server is None:
            raise UnknownSlideError(
                f"There is no slide {slide_id[:200]!r}: slides of DICOMweb are dicomweb:SERVER/STUDY/SERIES, with "
                "a server that the operator has named in SLIDECASCADE_DICOMWEB_SERVERS."
            )
        address = f"studies/{found[2]}/series/{found[3]}"
        response = server.get(f"{address}/metadata", accept=JSON)
        if response.status_code in (204, 400, 404, 410):
            raise UnknownSlideError(f"The DICOMweb server {server.name} has no series {found[3]}: check its UIDs.")
        if not response.is_success:  # redirects too: they are not followed
            raise UnreadableSlideError(
                f"The DICOMweb server {server.name} answers with status {response.status_code} when asked for a "
                "series: ask the operator to check its address in SLIDECASCADE_DICOMWEB_SERVERS."
            )
        try:
            instances = response.json()
            levels = levels_of(instances)
            base = next(item for item in instances if value_of(item, "00080018") == levels[0].instance)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise UnreadableSlideError(
                f"The DICOMweb server {server.name} does not describe the series as a whole slide: check it "
                "in a viewer."
            ) from error
        return DicomWebSlide(server, address, levels, self._cache, json.dumps(base).encode(), self._decode)


def slides_of(
    urls: Mapping[str, str],
    tokens: Path | None,
    *,
    handles: int,
    cache_bytes: int,
    decode: FrameDecoder = decode_frame,
) -> DicomWebSlides | None:
    """Slides on the servers with these addresses by name; `tokens` has files named so. None: no servers."""
    if not urls:
        return None
    servers = {name: DicomWeb(name, url, _token(tokens, name)) for name, url in urls.items()}
    return DicomWebSlides(servers, handles=handles, cache_bytes=cache_bytes, decode=decode)


def _token(folder: Path | None, name: str) -> Callable[[], str | None]:
    """Reads the token of a server; servers without a file are sent none."""
    path = None if folder is None else folder / name
    return lambda: token_of(path if path is not None and path.exists() else None)


def _places(level: Level, box: Box) -> Iterator[tuple[int, Box]]:
    """Numbers of the stored frames that meet `box`, and where they lie in the level."""
    width, height = level.frame.width, level.frame.height
    for row in range(box.y // height, math.ceil(box.bottom / height)):
        for column in range(box.x // width, math.ceil(box.right / width)):
            if (number := level.number(column, row)) is not None:
                yield number, Box(column * width, row * height, width, height)


def _downsample(base: Size, size: Size) -> float:
    """As OpenSlide has it: the mean of both sides'."""
    return (base.width / size.width + base.height / size.height) / 2
