"""Work that a process died over runs alone, so that the next death is blamed on nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from slidecascade.cancellation import Control

_LOOK_S: Final = 0.2
"""Interval at which waiting work checks for cancellation."""


class Quarantine:
    """Lets pieces of work run together, or a single one alone; usable from many threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._together = 0
        self._alone = False
        self._waiting_alone = 0

    @contextmanager
    def entered(self, control: Control, *, alone: bool) -> Iterator[None]:
        """Run the block with others, or `alone`; those who ask to be alone go first.

        Raises:
            CancelledError: when `control` says so.
        """
        with self._changed:
            self._waiting_alone += alone
            try:
                while self._alone or (self._together if alone else self._waiting_alone):
                    control.check()
                    self._changed.wait(_LOOK_S)
            finally:
                self._waiting_alone -= alone
            self._alone = alone
            self._together += not alone
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._together -= not alone
                self._changed.notify_all()
