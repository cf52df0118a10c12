"""Progress bars."""

from __future__ import annotations

import sys
import time

from slidecascade.analysis.flow import Progress

BAR_WIDTH = 40


def bar(noun: str) -> Progress:
    """Show `done` of `total` `noun` as a bar on a terminal; nothing in a log file."""

    def draw(done: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        filled = BAR_WIDTH * done // total
        sys.stderr.write(f"\r[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {done}/{total} {noun}")
        if done == total:
            sys.stderr.write("\n")
        sys.stderr.flush()

    return draw


class FieldProgress:
    """A bar of the tiles of a slide, with the cells found and the remaining seconds; nothing in a log file.

    Args:
        total: tiles of all fields.
        done, cells: tiles and cells of fields finished before.
    """

    def __init__(self, total: int, *, done: int, cells: int) -> None:
        self._total = total
        self._done = self._done_before = done
        self._cells = cells
        self._started = time.monotonic()

    def draw(self, tiles: int, _total: int) -> None:
        """Report the finished tiles of the current field."""
        if not sys.stderr.isatty():
            return
        done = self._done + tiles
        filled = BAR_WIDTH * done // max(1, self._total)
        new = done - self._done_before
        left_s = (time.monotonic() - self._started) / new * (self._total - done) if new else None
        left = "" if left_s is None else f", {left_s:.0f} s left"
        bar = "#" * filled + "." * (BAR_WIDTH - filled)
        sys.stderr.write(f"\r[{bar}] {done}/{self._total} tiles, {self._cells:,} cells{left}\033[K")
        sys.stderr.flush()

    def finish(self, tiles: int, cells: int) -> None:
        """Report a finished field."""
        self._done += tiles
        self._cells += cells
        self.draw(0, 0)

    def end(self) -> None:
        """All are."""
        if sys.stderr.isatty():
            sys.stderr.write("\n")
