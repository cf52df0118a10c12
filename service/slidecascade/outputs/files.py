"""The files of an answer, whatever they are packed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Overview = Callable[[int], tuple[NDArray[np.uint8], float]]
"""The region as ``(H, W, 3)`` uint8 RGB with no side above the requested maximum, and its downsample."""


@dataclass(frozen=True, slots=True)
class Files:
    """All files of an answer.

    Attributes:
        small: names and contents of those that fit in memory, each made when it is asked for.
        large_name, large: the one that is written in pieces, last.
        most_bytes: more than `large` can have.
    """

    small: Iterator[tuple[str, bytes]]
    large_name: str
    large: Iterator[bytes]
    most_bytes: int
