"""Memory shared with an inference server on the same machine, lent to one call at a time.

A call's inputs lie at the start of its region, its outputs behind them. A call that got no answer leaves the
server free to read and write the region at any later time, so that region is never lent again, and the server is
asked to forget it until it does.
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

SEGMENTS_DIR = Path("/dev/shm")  # noqa: S108 - where Linux shows POSIX shared memory, not a place for files
STEP_BYTES = 1 << 20
"""Regions are whole multiples of this, so that a slightly larger tile fits into the region of the last one."""

ALIGN_BYTES = 64
"""Arrays begin on a multiple of this, whatever their type."""

CLOSE_S = 1.0
"""How long the end waits for the server to be done with regions."""


class RegionRefusedError(Exception):
    """There is no memory to share, or the server does not take it; for the caller to do without."""


@dataclass(frozen=True, slots=True)
class Region:
    """A segment the server knows as `name`. `generation` counts the servers seen so far."""

    name: str
    memory: SharedMemory
    generation: int

    @property
    def nbytes(self) -> int:
        return self.memory.size

    def write(self, array: NDArray[Any], *, offset: int) -> None:
        """Put `array` at `offset` bytes."""
        np.ndarray(array.shape, array.dtype, self.memory.buf, offset)[...] = array

    def read_into(self, array: NDArray[Any], *, offset: int) -> None:
        """Copy what lies at `offset` bytes, of the shape and type of `array`, into it."""
        array[...] = np.ndarray(array.shape, array.dtype, self.memory.buf, offset)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the arrays of one call lie in its region, by name: `offsets` and the `nbytes` of all of it."""

    offsets: Mapping[str, int]
    nbytes: int

    @classmethod
    def of(cls, arrays: Iterable[tuple[str, NDArray[Any]]]) -> Places:
        """One array after the other, each on a multiple of `ALIGN_BYTES`."""
        offsets: dict[str, int] = {}
        end = 0
        for name, array in arrays:
            offsets[name] = end
            end += -(-array.nbytes // ALIGN_BYTES) * ALIGN_BYTES
        return cls(offsets, end)


class Regions:
    """Regions, made when needed and used again. Thread-safe.

    Args:
        register: tells the server of a region by its name, its key and its bytes.
        unregister: makes the server forget a region by its name; false when it still uses it.
    """

    def __init__(self, *, register: Callable[[str, str, int], None], unregister: Callable[[str], bool]) -> None:
        self._register = register
        self._unregister = unregister
        self._lock = threading.Lock()
        self._free: list[Region] = []
        self._unwanted: list[str] = []
        self._generation = 0

    @contextmanager
    def lend(self, nbytes: int, *, is_lost: Callable[[BaseException], bool]) -> Iterator[Region]:
        """A region of at least `nbytes` for one call; `is_lost` tells errors that leave it with the server.

        Raises:
            RegionRefusedError: when this machine has no memory to share, or `register` says so.
        """
        region = self._take(nbytes)
        try:
            yield region
        except BaseException as error:
            if is_lost(error):
                self._abandon(region)
            else:
                self._give_back(region)
            raise
        self._give_back(region)

    def _take(self, nbytes: int) -> Region:
        with self._lock:
            region = self._free.pop() if self._free else None
            generation = self._generation
        if region is not None and region.nbytes >= nbytes:
            return region
        if region is not None:
            self._drop(region)
        self._forget_unwanted()
        return self._make(-(-nbytes // STEP_BYTES) * STEP_BYTES, generation)

    def _give_back(self, region: Region) -> None:
        with self._lock:
            if region.generation == self._generation:
                self._free.append(region)
                return
        self._drop(region)

    def _abandon(self, region: Region) -> None:
        _unlink(region.memory)
        with self._lock:
            self._unwanted.append(region.name)

    def renew(self) -> None:
        """The server was lost, and another does not know the regions of the first."""
        with self._lock:
            free, self._free = self._free, []
            self._generation += 1
        for region in free:
            self._drop(region)

    def close(self) -> None:
        """Let go of every region. Calls in flight let go of theirs when they end."""
        self.renew()
        ends_at = time.monotonic() + CLOSE_S
        while not self._forget_unwanted() and time.monotonic() < ends_at:
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

    def _drop(self, region: Region) -> None:
        _unlink(region.memory)
        # Just after its answer the server may not be done with a region yet.
        if not self._unregister(region.name):
            with self._lock:
                self._unwanted.append(region.name)

    def _forget_unwanted(self) -> bool:
        """Whether the server knows no region that nobody uses."""
        with self._lock:
            unwanted, self._unwanted = self._unwanted, []
        still_used = [name for name in unwanted if not self._unregister(name)]
        with self._lock:
            self._unwanted += still_used
        return not still_used


def _allocate(nbytes: int) -> SharedMemory:
    if not SEGMENTS_DIR.is_dir():
        raise RegionRefusedError(f"{SEGMENTS_DIR} does not exist")
    try:
        memory = SharedMemory(create=True, size=nbytes)
    except OSError as error:
        raise RegionRefusedError(str(error)) from error
    try:
        # Pages are given out on the first write, and where there are none left that write ends the process.
        with (SEGMENTS_DIR / memory.name.lstrip("/")).open("r+b") as segment:
            os.posix_fallocate(segment.fileno(), 0, nbytes)
    except OSError as error:
        _unlink(memory)
        raise RegionRefusedError(str(error)) from error
    return memory


def _unlink(memory: SharedMemory) -> None:
    memory.close()
    memory.unlink()
