"""Slides by id under the folders the operator allowed."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slidecascade.errors import (
    NotReadyError,
    SettingsError,
    SlideCascadeError,
    UnknownSlideError,
    UnreadableSlideError,
)
from slidecascade.slides.decoder import DIRECT, Decoder
from slidecascade.slides.dicomwebslide import PREFIX, DicomWebSlide, DicomWebSlides
from slidecascade.slides.fileslide import FileSlide
from slidecascade.slides.heldfile import HeldFile, file_state
from slidecascade.slides.openslides import DirectSlides, SlideOpener
from slidecascade.slides.shortage import is_gone, not_ready
from slidecascade.slides.slideid import id_of, path_of
from slidecascade.slides.stackimage import StackSlide, is_stack, may_be_stack
from slidecascade.slides.visible import ALL_SLIDES, Visible

_LISTED_ENTRIES_PER_SLIDE = 100
"""How many files and folders a listing looks at for each slide it may name."""


AnySlide = FileSlide | StackSlide | DicomWebSlide


@dataclass(frozen=True, slots=True)
class _Place:
    """The resolved path of a slide's file, and the resolved folder below which it was found."""

    path: Path
    root: Path


@dataclass(slots=True)
class _Handle:
    """An open slide, its file as it was when it was opened, and how many readers it has."""

    slide: FileSlide | StackSlide
    file: HeldFile
    file_state: tuple[int, ...]
    readers: int = 0
    dropped: bool = False

    def close(self) -> None:
        self.slide.close()
        self.file.close()


class SlideStore:
    """Slides under `roots`; an id is a path relative to a root, as `slideid` writes it, the first root first.

    Ids that begin with ``dicomweb:`` are those of `dicomweb`, and not listed. At most `handles` slides that nobody
    reads stay open; a listing names at most `max_listing`. `decoder` decodes stacks of channels,
    `opener` opens all other slides, by default in this process.
    Safe to use from several threads.

    Raises:
        SettingsError: a root is not a folder.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        *,
        handles: int,
        max_listing: int,
        dicomweb: DicomWebSlides | None = None,
        decoder: Decoder = DIRECT,
        opener: SlideOpener | None = None,
    ) -> None:
        for root in roots:
            if not root.is_dir():
                raise SettingsError(
                    f"The slide folder {str(root)!r} does not exist or is not a folder: make it, or name another."
                )
        self._roots = tuple(root.resolve() for root in roots)
        self._capacity = handles
        self._max_listing = max_listing
        self._dicomweb = dicomweb
        self._decoder = decoder
        self._opener = opener or DirectSlides()
        self._lock = threading.Lock()
        self._handles: OrderedDict[Path, _Handle] = OrderedDict()

    def list_ids(self, visible: Visible = ALL_SLIDES) -> tuple[tuple[str, ...], bool]:
        """Sorted ids of the visible files OpenSlide recognises, and whether there may be more than those named."""
        ids: set[str] = set()
        budget = self._max_listing * _LISTED_ENTRIES_PER_SLIDE
        with self._opener.looking(self._roots) as recognises:
            for slide_id in self._ids(visible):
                budget -= 1
                if budget < 0:
                    return tuple(sorted(ids)), True
                if slide_id in ids or not self._is_shown(slide_id, visible, recognises):
                    continue
                if len(ids) == self._max_listing:
                    return tuple(sorted(ids)), True
                ids.add(slide_id)
            return tuple(sorted(ids)), False

    def recognises(self, path: Path) -> bool:
        """Whether OpenSlide recognises the format of a file that the service itself has stored."""
        with self._opener.looking((path.parent,)) as recognises:
            return recognises(path)

    @contextmanager
    def open(self, slide_id: str, *, private: bool = False, visible: Visible = ALL_SLIDES) -> Iterator[AnySlide]:
        """The slide, shared with other readers and not closed while in this context.

        A `private` handle is opened for this block alone: after a failed read OpenSlide fails every later read
        of a handle, whoever it is for.

        Raises:
            UnknownSlideError: no such file, whatever the reason: an id that leaves the root, or a slide that is
                not `visible`, is reported as one that does not exist.
            UnreadableSlideError: the file is no slide, or damaged.
            NotReadyError: the DICOMweb server of the slide is away, or no file can be opened now.
        """
        if self._dicomweb is not None and slide_id.startswith(PREFIX):
            if not visible.has_server(slide_id):
                raise _unknown(slide_id)
            with self._dicomweb.open(slide_id) as remote:
                yield remote
            return
        with self._held(self._locate(slide_id, visible), private=private, gone=_unknown(slide_id)) as slide:
            yield slide

    @contextmanager
    def open_file(self, path: Path, *, private: bool = False) -> Iterator[AnySlide]:
        """The slide in a file that the service itself has stored, wherever it is; as `open`.

        Raises:
            UnreadableSlideError: the file is gone, no slide, or damaged.
            NotReadyError: no file can be opened now.
        """
        gone = UnreadableSlideError("The uploaded slide is not stored any more: send it again as a new job.")
        place = _Place(path, path.parent)
        with self._held(place, private=private, gone=gone) as slide:
            yield slide

    @contextmanager
    def _held(self, place: _Place, *, private: bool, gone: SlideCascadeError) -> Iterator[AnySlide]:
        try:
            handle = self._opened(place) if private else self._acquire(place)
        except OSError as error:  # gone since it was located, or something else is in its place
            raise (gone if is_gone(error) else not_ready(error)) from error
        try:
            yield handle.slide
        finally:
            if private:
                handle.close()
            else:
                self._release(place.path, handle)

    def close(self) -> None:
        """Close every slide; those being read are closed by their last reader."""
        with self._lock:
            for path in tuple(self._handles):
                self._drop(path)
        if self._dicomweb is not None:
            self._dicomweb.close()

    def _ids(self, visible: Visible) -> Iterator[str]:
        """Of all files in the folders that are visible, root by root."""
        for root in self._roots:
            for start in visible.starts(root):
                yield from (id_of(path.relative_to(root).as_posix()) for path in _files_below(start))

    def _is_shown(self, slide_id: str, visible: Visible, recognises: Callable[[Path], bool]) -> bool:
        """Whether the id opens a slide that is visible; that of a file below one root may be another root's."""
        try:
            located = self._locate(slide_id, visible)
        except (UnknownSlideError, NotReadyError):
            return False
        return recognises(located.path) or is_stack(located.path)

    def _locate(self, slide_id: str, visible: Visible) -> _Place:
        """The file of a slide. The first root that has the id decides, also about who sees it."""
        name = path_of(slide_id)
        found = (
            None
            if name is None
            else next(filter(None, (_inside(root, root / name) for root in self._roots)), None)
        )
        if found is None or not visible.has_file(found.path):
            raise _unknown(slide_id)
        return found

    def _acquire(self, place: _Place) -> _Handle:
        path = place.path
        state = file_state(path)
        with self._lock:
            handle = self._current(path, state)
        if handle is None:
            # Outside the lock: opening a slide on a network share takes long.
            opened = self._opened(place)
            with self._lock:
                handle = self._current(path, opened.file_state)
                if handle is None:
                    self._drop(path)
                    self._handles[path] = handle = opened
                    handle.readers += 1
                    self._trim()
                else:  # another thread was faster
                    opened.close()
        return handle

    def _opened(self, place: _Place) -> _Handle:
        """A stack of channels, or else what OpenSlide makes of the file; raises OSError where it is not there."""
        file = HeldFile.below(place.root, place.path)
        try:
            state = file.state
            return _Handle(self._read(file, place), file, state)
        except BaseException:
            file.close()
            raise

    def _read(self, file: HeldFile, place: _Place) -> FileSlide | StackSlide:
        stack = StackSlide.open(file.path, self._decoder.strip) if may_be_stack(place.path) else None
        if stack is not None:
            return stack
        try:
            slide = self._opener.open(file, place.path)
        except UnreadableSlideError:
            _require_unchanged(file, place)
            raise
        if slide.path != file.path:  # OpenSlide finds the other files of the slide by the name of this one
            try:
                _require_unchanged(file, place)
            except FileNotFoundError:
                slide.close()
                raise
        return slide

    def _current(self, path: Path, state: tuple[int, ...]) -> _Handle | None:
        """The handle to use, counted as used; None when the slide is not open, failed or was replaced."""
        handle = self._handles.get(path)
        if handle is None or handle.slide.failed or handle.file_state != state:
            return None
        handle.readers += 1
        self._handles.move_to_end(path)
        return handle

    def _release(self, path: Path, handle: _Handle) -> None:
        with self._lock:
            handle.readers -= 1
            if not handle.dropped and handle.slide.failed:
                self._drop(path)
            elif handle.dropped and handle.readers == 0:
                handle.close()
            self._trim()

    def _drop(self, path: Path) -> None:
        """Forget a handle; its last reader closes it."""
        handle = self._handles.pop(path, None)
        if handle is not None:
            handle.dropped = True
            if handle.readers == 0:
                handle.close()

    def _trim(self) -> None:
        idle = [path for path, handle in self._handles.items() if handle.readers == 0]
        for path in idle[: max(0, len(self._handles) - self._capacity)]:
            self._drop(path)


def _unknown(slide_id: str) -> UnknownSlideError:
    return UnknownSlideError(f"There is no slide {slide_id[:200]!r}: GET /v1/slides lists the ids.")


def _inside(root: Path, path: Path) -> _Place | None:
    """The file `path` leads to, links followed, when it and its companion folder are inside `root`.

    Raises:
        NotReadyError: the disk does not answer.
    """
    try:
        target = path.resolve(strict=True)
        if not target.is_file() or not target.is_relative_to(root):
            return None
        # A MIRAX slide is a file and a folder of the same name, which OpenSlide follows too.
        companion = target.with_suffix("").resolve()
        return _Place(target, root) if companion.is_relative_to(root) else None
    except (RuntimeError, ValueError):  # a loop of links, a name no file can have
        return None
    except OSError as error:
        if is_gone(error):
            return None
        raise not_ready(error) from error


def _require_unchanged(file: HeldFile, place: _Place) -> None:
    """Raises FileNotFoundError where something else is at the place of `file` by now."""
    if _inside(place.root, place.path) != place or file_state(place.path) != file.state:
        raise FileNotFoundError("The slide's file was replaced while it was opened: ask again.")


def _files_below(root: Path) -> Iterator[Path]:
    """Files under `root` in a stable order; linked folders are not entered: what they show has an id already."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            yield Path(folder, name)
