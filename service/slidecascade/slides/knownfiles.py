"""What is found out about a slide's file once and kept for all who open it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from slidecascade.slides.deeptiff import KnownNarrowing
from slidecascade.slides.storedparts import LevelVerdicts


@dataclass(frozen=True, slots=True)
class KnownFile:
    """Verdicts on the stored parts by level, and the narrowing of 16-bit samples."""

    verdicts: dict[int, LevelVerdicts] = field(default_factory=dict)
    narrowing: KnownNarrowing = field(default_factory=KnownNarrowing)


class KnownFiles:
    """The files used last, by their state: one that was written to is another. Safe to use from threads."""

    def __init__(self, files: int = 64) -> None:
        self._capacity = files
        self._lock = threading.Lock()
        self._files: OrderedDict[tuple[int, ...], KnownFile] = OrderedDict()

    def of(self, state: tuple[int, ...]) -> KnownFile:
        """What is known of the file whose `file_state` this is."""
        with self._lock:
            known = self._files.setdefault(state, KnownFile())
            self._files.move_to_end(state)
            while len(self._files) > self._capacity:
                self._files.popitem(last=False)
            return known
