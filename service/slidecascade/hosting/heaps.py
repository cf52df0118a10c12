"""How many heaps the threads of this process allocate from."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_ARENA_MAX = -8
"""Number of the parameter in glibc's malloc.h."""


def share_heaps() -> None:
    """Let all threads allocate from two heaps (glibc) instead of up to eight per core, each keeping what is freed.

    Measured over 24 regions in a row: memory levels off 10 % above the first region instead of 23 %.
    """
    with suppress(OSError, AttributeError):  # another C library: nothing to set
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
