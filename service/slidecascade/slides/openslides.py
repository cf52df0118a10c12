"""Where slides are opened and read: in this process, or each in one that may do nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Protocol

from slidecascade.slides.fileslide import FileSlide
from slidecascade.slides.heldfile import HeldFile
from slidecascade.slides.knownfiles import KnownFiles
from slidecascade.slides.slide import Slide, TileCache, can_open

TILE_CACHE_BYTES: Final = 64 * 2**20
"""Decoded tiles kept for all slides that are open in this process together."""


class SlideOpener(Protocol):
    """Opens slides, several at a time."""

    def open(self, file: HeldFile, path: Path) -> FileSlide:
        """The slide at `path`, of which `file` is held: by that if it is all that the slide needs, else by name.

        Raises:
            UnreadableSlideError: not a slide, or damaged.
            NotReadyError: there is no process to open it in.
        """
        ...

    def looking(self, folders: Sequence[Path]) -> AbstractContextManager[Callable[[Path], bool]]:
        """Of a file below `folders`, whether OpenSlide recognises its format; it may be damaged all the same."""
        ...

    def close(self) -> None:
        """Open nothing more."""
        ...


class DirectSlides:
    """Reads slides in this process: those that the operator gives to commands."""

    def __init__(self) -> None:
        self._cache = TileCache(TILE_CACHE_BYTES)
        self._known = KnownFiles()

    def open(self, file: HeldFile, path: Path) -> FileSlide:
        """See `SlideOpener`."""
        held = Slide.open_held(file, path, cache=self._cache, known=self._known)
        return held or Slide.open(path, cache=self._cache, known=self._known)

    @contextmanager
    def looking(self, folders: Sequence[Path]) -> Iterator[Callable[[Path], bool]]:  # noqa: ARG002 - of `SlideOpener`
        """See `SlideOpener`."""
        yield can_open

    def close(self) -> None:
        """See `SlideOpener`."""
