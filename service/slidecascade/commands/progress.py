"""How far a command has come."""

from __future__ import annotations

import sys

from slidecascade.analysis.flow import Progress

BAR_WIDTH = 40


def bar(noun: str) -> Progress:
    """A bar of so many `noun` done on a terminal; silence in a log file."""

    def draw(done: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        filled = BAR_WIDTH * done // total
        sys.stderr.write(f"\r[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {done}/{total} {noun}")
        if done == total:
            sys.stderr.write("\n")
        sys.stderr.flush()

    return draw
