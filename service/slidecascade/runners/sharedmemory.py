"""Memory regions shared with an inference server on the same machine, each used by one call at a time.

A call's inputs lie at the start of its region, followed by its outputs. After a call without a response the server
may still read and write the region, so it is never reused; unregistering it is retried until the server accepts.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEGMENTS_DIR = Path("/dev/shm")  # noqa: S108 - Linux's mount of POSIX shared memory, not a temporary folder
STEP_BYTES = 1 << 20
"""Regions are multiples of this, so that a slightly larger tile fits into an existing region."""

ALIGN_BYTES = 64
"""Alignment of arrays within a region."""

CLOSE_S = 1.0
"""How long closing waits for the server to release regions."""


class RegionRefusedError(Exception):
    """No shared memory is available, or the server rejects it; the caller falls back to messages."""


@dataclass(frozen=True, slots=True)
class Region:
    """A segment registered with the server as `name`. `generation` counts server restarts."""

    name: str
    memory: SharedMemory
    generation: int

    @property
    def nbytes(self) -> int:
        return self.memory.size

    def write(self, array: NDArray[Any], *, offset: int) -> None:
        """Copy `array` to `offset` bytes."""
        np.ndarray(array.shape, array.dtype, self.memory.buf, offset)[...] = array

    def read_into(self, array: NDArray[Any], *, offset: int) -> None:
        """Copy the data at `offset` bytes into `array`."""
        array[...] = np.ndarray(array.shape, array.dtype, self.memory.buf, offset)


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of one call's arrays in its region: byte `offsets` by name, and `nbytes` in total."""

    offsets: Mapping[str, int]
    nbytes: int

    @classmethod
    def of(cls, arrays: Iterable[tuple[str, NDArray[Any]]]) -> Layout:
        """Consecutive arrays, each aligned to `ALIGN_BYTES`."""
        offsets: dict[str, int] = {}
        end = 0
        for name, array in arrays:
            offsets[name] = end
            end += -(-array.nbytes // ALIGN_BYTES) * ALIGN_BYTES
        return cls(offsets, end)


class Regions:
    """A pool of regions, created on demand and reused. Thread-safe.

    Args:
        register: registers a region with the server by name, key and size in bytes.
        unregister: unregisters a region by name; false when the server still uses it.
    """

    def __init__(self, *, register: Callable[[str, str, int], None], unregister: Callable[[str], bool]) -> None:
        self._register = register
        self._unregister = unregister
        self._lock = threading.Lock()
        self._free: list[Region] = []
        self._released: list[str] = []
        self._generation = 0

    @contextmanager
    def lease(self, nbytes: int, *, is_lost: Callable[[BaseException], bool]) -> Iterator[Region]:
        """A region of at least `nbytes` for one call.

        Args:
            is_lost: whether the server may still use the region after an error.

        Raises:
            RegionRefusedError: when no shared memory is available, or `register` raises it.
        """
        region = self._take(nbytes)
        try:
            yield region
        except BaseException as error:
            if is_lost(error):
                self._abandon(region)
            else:
                self._return(region)
            raise
        self._return(region)

    def _take(self, nbytes: int) -> Region:
        with self._lock:
            region = self._free.pop() if self._free else None
            generation = self._generation
        if region is not None and region.nbytes >= nbytes:
            return region
        if region is not None:
            self._discard(region)
        self._unregister_released()
        return self._make(-(-nbytes // STEP_BYTES) * STEP_BYTES, generation)

    def _return(self, region: Region) -> None:
        with self._lock:
            if region.generation == self._generation:
                self._free.append(region)
                return
        self._discard(region)

    def _abandon(self, region: Region) -> None:
        _unlink(region.memory)
        with self._lock:
            self._released.append(region.name)

    def renew(self) -> None:
        """Discard all regions: a restarted server does not know them."""
        with self._lock:
            free, self._free = self._free, []
            self._generation += 1
        for region in free:
            self._discard(region)

    def close(self) -> None:
        """Release every region. Calls in flight release theirs when they end."""
        self.renew()
        ends_at = time.monotonic() + CLOSE_S
        while not self._unregister_released() and time.monotonic() < ends_at:
            time.sleep(0.05)

    def _make(self, nbytes: int, generation: int) -> Region:
        memory = _allocate(nbytes)
        name = f"slidecascade-{os.getpid()}-{secrets.token_hex(8)}"
        try:
            self._register(name, f"/{memory.name.lstrip('/')}", memory.size)
        except BaseException:
            _unlink(memory)
            raise
        return Region(name, memory, generation)

    def _discard(self, region: Region) -> None:
        _unlink(region.memory)
        # The server may still hold a region just after its response.
        if not self._unregister(region.name):
            with self._lock:
                self._released.append(region.name)

    def _unregister_released(self) -> bool:
        """Unregister released regions; whether the server holds none of them any more."""
        with self._lock:
            released, self._released = self._released, []
        still_used = [name for name in released if not self._unregister(name)]
        with self._lock:
            self._released += still_used
        return not still_used


def _allocate(nbytes: int) -> SharedMemory:
    if not SEGMENTS_DIR.is_dir():
        raise RegionRefusedError(f"{SEGMENTS_DIR} does not exist")
    try:
        memory = SharedMemory(create=True, size=nbytes)
    except OSError as error:
        raise RegionRefusedError(str(error)) from error
    try:
        # Pages are allocated on first write; without free pages that write would kill the process (SIGBUS).
        with (SEGMENTS_DIR / memory.name.lstrip("/")).open("r+b") as segment:
            os.posix_fallocate(segment.fileno(), 0, nbytes)
    except OSError as error:
        _unlink(memory)
        raise RegionRefusedError(str(error)) from error
    return memory


def _unlink(memory: SharedMemory) -> None:
    memory.close()
    memory.unlink()
