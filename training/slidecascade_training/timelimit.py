"""The time that one command may train, on machines that are lent for minutes."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """Ends when `clock` (in seconds) reads `ends_s`; infinity: never."""

    ends_s: float = math.inf
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def of(cls, seconds: float | None) -> TimeLimit:
        """From now on; None: without an end."""
        return cls() if seconds is None else cls(time.monotonic() + seconds)

    @property
    def is_over(self) -> bool:
        return self.clock() >= self.ends_s


NO_LIMIT = TimeLimit()


def add_seconds(parser: argparse.ArgumentParser) -> None:
    """The option ``--seconds`` of commands that train."""
    parser.add_argument(
        "--seconds",
        type=_seconds,
        help="stop with a checkpoint after this time, read from the start of the command; repeat it to go on",
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("must be a positive number of seconds")
    return value
