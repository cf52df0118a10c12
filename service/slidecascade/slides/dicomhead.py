"""The attributes of a DICOM slide, for objects that are made of it."""

from __future__ import annotations

from pathlib import Path

from slidecascade.slides.dicomwebslide import DicomWebSlide
from slidecascade.slides.fileslide import FileSlide
from slidecascade.slides.source import Source


def dicom_head(source: Source) -> Path | bytes | None:
    """The file of the slide's base level, or its attributes in DICOM's JSON model; None: the slide is not DICOM.

    Raises:
        UnreadableSlideError: a file of the slide cannot be read.
    """
    if isinstance(source, DicomWebSlide):
        return source.base_json
    return source.dicom_base if isinstance(source, FileSlide) else None
