"""Memory shared with an inference server on the same machine, lent to one call at a time.

A call's images lie at the start of its region, its output behind them. A call that got no answer leaves the
server free to read and write the region at any later time, so that region is never lent again.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
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

LINGER_S = 300.0
"""How long a region that a lost call may still use stays known to the server."""


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

    def write(self, images: NDArray[np.uint8]) -> None:
        """Put `images` at the start."""
        np.ndarray(images.shape, np.uint8, self.memory.buf)[...] = images

    def read_into(self, outputs: NDArray[Any], *, offset: int) -> None:
        """Copy the array at `offset` bytes, of the shape and type of `outputs`, into it."""
        outputs[...] = np.ndarray(outputs.shape, outputs.dtype, self.memory.buf, offset)


class Regions:
    """Regions, made when needed and used again. Thread-safe.

    Args:
        register: tells the server of a region by its name, its key and its bytes.
        unregister: makes the server forget a region by its name; must not raise.
    """

    def __init__(self, *, register: Callable[[str, str, int], None], unregister: Callable[[str], None]) -> None:
        self._register = register
        self._unregister = unregister
        self._lock = threading.Lock()
        self._free: list[Region] = []
        self._lost: list[tuple[float, str]] = []
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
        self._forget_lost()
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
            self._lost.append((time.monotonic(), region.name))

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
        self._forget_lost(linger_s=0)

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
        self._unregister(region.name)
        _unlink(region.memory)

    def _forget_lost(self, *, linger_s: float = LINGER_S) -> None:
        now = time.monotonic()
        with self._lock:
            due = [name for lost_at, name in self._lost if now - lost_at >= linger_s]
            self._lost = [(lost_at, name) for lost_at, name in self._lost if now - lost_at < linger_s]
        for name in due:
            self._unregister(name)


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
