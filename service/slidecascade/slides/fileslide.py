"""A slide in files, whoever reads its pixels: this process, or a confined one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slidecascade.errors import SlideCascadeError, UnreadableSlideError
from slidecascade.geometry import Box
from slidecascade.slides import content
from slidecascade.slides.shortage import is_gone, not_ready
from slidecascade.slides.slideinfo import InfoSlide, SlideInfo
from slidecascade.slides.source import Rgb

_UNREADABLE_FILE = "The slide opens but one of its files cannot be read: check the permissions or copy it again."


@dataclass(frozen=True, slots=True)
class Marks:
    """What a slide states that tells which files it has, and which slide it is; never given to anybody.

    Attributes:
        quickhash: OpenSlide's, where the format has one.
        series, instance: the UIDs of a DICOM slide and of its base level.
    """

    quickhash: str | None = None
    series: str | None = None
    instance: str | None = None


class FileSlide(InfoSlide, ABC):
    """An open slide as a `Source`. Reading from several threads at a time is fine; closing is not.

    Attributes:
        path: the name its file is read by.
    """

    def __init__(self, path: Path, info: SlideInfo, marks: Marks) -> None:
        super().__init__(info)
        self.path = path
        self.marks = marks
        self._content_id: str | None = None

    @property
    def content_id(self) -> str:
        """See `slidecascade.slides.content`; computed on first access.

        Raises:
            UnreadableSlideError: a file of the slide cannot be read.
            NotReadyError: nor can any other file now.
        """
        if self._content_id is None:
            try:
                files = content.files_of(self.path, series=self.marks.series)
                self._content_id = content.id_of_files(files, quickhash=self.marks.quickhash)
            except OSError as error:
                raise _unreadable(error) from error
        return self._content_id

    @property
    def dicom_base(self) -> Path | None:
        """The file of a DICOM slide's base level; None for other slides.

        Raises:
            UnreadableSlideError: a file of the slide cannot be read.
            NotReadyError: nor can any other file now.
        """
        if self.marks.instance is None:
            return None
        try:
            files = content.files_of(self.path, series=self.marks.series)
            return next((path for path in files if content.is_instance(path, self.marks.instance)), None)
        except OSError as error:
            raise _unreadable(error) from error

    @property
    @abstractmethod
    def failed(self) -> bool:
        """Whether no later read can succeed, so that the slide is to be opened anew."""

    @abstractmethod
    def read_level(self, level: int, box: Box) -> Rgb:
        """The pixels of `box`, given in pixels of `level`; transparent ones are laid on white.

        Raises:
            UnreadableSlideError: the file is damaged here, or was damaged where it was read before.
        """

    def read_channels(self, level: int, box: Box, indices: Sequence[int]) -> Rgb:
        """Those colours of `read_level`."""
        return self.read_level(level, box)[..., list(indices)]

    @abstractmethod
    def read_eighth(self) -> Rgb | None:
        """Level 0 at an eighth of its size, sides rounded up; None where all of it must be decoded.

        Raises:
            UnreadableSlideError: the file is damaged.
        """

    @abstractmethod
    def unstored_share(self, level: int, box: Box) -> float:
        """The part of the pixels of `box`, given in pixels of `level`, that are transparent: not stored.

        Raises:
            UnreadableSlideError: as `read_level` does.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the file. No thread may be reading, and none may read afterwards."""


def _unreadable(error: OSError) -> SlideCascadeError:
    return UnreadableSlideError(_UNREADABLE_FILE) if is_gone(error) else not_ready(error)
