"""Regions of shared memory: used by one call at a time, and always removed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from slidecascade.runners.sharedmemory import ALIGN_BYTES, STEP_BYTES, Layout, RegionRefusedError, Regions


class Server:
    """Opens the announced regions like a server, and keeps those in `busy`."""

    def __init__(self) -> None:
        self.known: dict[str, SharedMemory] = {}
        self.busy: set[str] = set()
        self.refuses = False

    def register(self, name: str, key: str, nbytes: int) -> None:
        if self.refuses:
            raise RegionRefusedError("not here")
        self.known[name] = SharedMemory(key.lstrip("/"))
        assert self.known[name].size == nbytes

    def unregister(self, name: str) -> bool:
        if name in self.busy:
            return False
        if name in self.known:
            self.known.pop(name).close()
        return True


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def regions(server: Server) -> Iterator[Regions]:
    regions = Regions(register=server.register, unregister=server.unregister)
    yield regions
    server.busy.clear()
    regions.close()
    assert not server.known


def lost(error: BaseException) -> bool:
    return isinstance(error, TimeoutError)


def lend_and_fail(regions: Regions, error: Exception) -> None:
    with regions.lease(100, is_lost=lost):
        raise error


def test_a_region_is_used_again(regions: Regions, server: Server) -> None:
    """Calls one after the other use one region; calls side by side, and larger ones, get their own."""
    images = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    outputs = np.zeros(24, np.uint8)
    for _ in range(3):
        with regions.lease(100, is_lost=lost) as region:
            region.write(images, offset=0)
            region.read_into(outputs, offset=0)
    np.testing.assert_array_equal(outputs, images.ravel())
    assert len(server.known) == 1
    with regions.lease(100, is_lost=lost) as one, regions.lease(100, is_lost=lost) as other:
        assert one.name != other.name
    assert len(server.known) == 2
    with regions.lease(STEP_BYTES + 1, is_lost=lost) as region:
        assert region.nbytes == 2 * STEP_BYTES


def test_a_call_without_an_answer_keeps_its_region(regions: Regions, server: Server) -> None:
    """The server may still write there, so no other call gets it; it is forgotten when the server is done."""
    with pytest.raises(ValueError, match="answered"):
        lend_and_fail(regions, ValueError("answered with an error"))
    (first,) = server.known
    server.busy.add(first)
    with pytest.raises(TimeoutError):
        lend_and_fail(regions, TimeoutError())
    with regions.lease(100, is_lost=lost) as region:
        assert region.name != first
        assert first in server.known
    server.busy.clear()
    regions.close()
    assert not server.known


def test_another_server_knows_no_region(regions: Regions, server: Server) -> None:
    """After `renew` regions are made anew, also those that were lent at that time."""
    with regions.lease(100, is_lost=lost) as first:
        regions.renew()
    with regions.lease(100, is_lost=lost) as second:
        assert second.name != first.name
    assert set(server.known) == {second.name}


def test_a_refused_region_leaves_nothing(regions: Regions, server: Server) -> None:
    """Neither the server's refusal nor more memory than there is leaves a segment behind."""
    before = set(os.listdir("/dev/shm"))  # noqa: S108 - where Linux shows POSIX shared memory
    server.refuses = True
    with pytest.raises(RegionRefusedError, match="not here"):
        lend_and_fail(regions, ValueError())
    with pytest.raises(RegionRefusedError, match=os.strerror(errno.ENOSPC)), regions.lease(1 << 44, is_lost=lost):
        pass
    assert not {name for name in set(os.listdir("/dev/shm")) - before if name.startswith("psm_")}  # noqa: S108


def test_a_missing_extra_is_one_sentence() -> None:
    """Without tritonclient the runner's module says which extra to install."""
    code = "import sys; sys.modules['tritonclient'] = None; import slidecascade.runners.triton"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stderr.splitlines()[-1] == (
        "slidecascade.errors.MissingExtraError: tritonclient is not installed: install the extra 'triton' for "
        "models on a Triton server, by `pip install '.[triton]'` in a checkout of SlideCascade."
    )


def test_arrays_of_any_type_lie_beside_each_other(regions: Regions) -> None:
    """Each begins on an aligned byte, none overlaps another, and what is read is what was written."""
    arrays: dict[str, NDArray[Any]] = {
        "bytes": np.arange(65, dtype=np.uint8),
        "words": np.arange(33, dtype=np.uint16).reshape(3, 11),
        "floats": np.linspace(0, 1, 5, dtype=np.float32),
        "none": np.zeros((0, 4), np.float64),
        "flags": np.array([True, False, True]),
    }
    layout = Layout.of(arrays.items())
    with regions.lease(layout.nbytes, is_lost=lost) as region:
        for name, array in arrays.items():
            region.write(array, offset=layout.offsets[name])
        for name, array in arrays.items():
            found = np.empty_like(array)
            region.read_into(found, offset=layout.offsets[name])
            np.testing.assert_array_equal(found, array)
    assert all(offset % ALIGN_BYTES == 0 for offset in layout.offsets.values())
    ends = [layout.offsets[name] + array.nbytes for name, array in arrays.items()]
    assert all(end <= start for end, start in zip(ends, [*layout.offsets.values()][1:], strict=False))
    assert ends[-1] <= layout.nbytes
