"""What all tests share."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slidecascade.privacy import forbid_telemetry

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

forbid_telemetry()  # before any test's module imports ONNX Runtime


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real slides, tiles and labels; not part of the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real slides (../shared/data) are not on this machine")
    return SHARED_DATA


@pytest.fixture(scope="module", autouse=True)
def _memory_goes_back() -> Iterator[None]:
    """What a module's networks took goes back to the system: two workers and their servers share its memory.

    What earlier modules left, frameworks above all, is millions of objects: the collector need not walk them again
    each time a test of this module asks for a collection.
    """
    gc.freeze()
    yield
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
