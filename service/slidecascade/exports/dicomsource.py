"""The DICOM slide that annotations refer to."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from slidecascade.errors import InvalidRequestError
from slidecascade.geometry import Box

WHOLE_SLIDE: Final = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""VL Whole Slide Microscopy Image Storage."""
_NEEDED: Final = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "TotalPixelMatrixColumns")


def read_source(path: Path | None, region_l0: Box) -> Dataset:
    """The attributes of a slide's base level, without its pixels.

    Raises:
        InvalidRequestError: no file is given, it is not a level of a DICOM slide, or the region lies outside it.
    """
    if path is None:
        raise InvalidRequestError("DICOM needs the slide: name its base level with --dicom-source.")
    try:
        source = dcmread(path, stop_before_pixels=True)
    except (OSError, InvalidDicomError) as error:
        raise InvalidRequestError(f"{path} cannot be read as DICOM: name a file of a DICOM slide.") from error
    if source.get("SOPClassUID") != WHOLE_SLIDE or any(name not in source for name in _NEEDED):
        raise InvalidRequestError(f"{path} is not a whole slide image: name a file of the slide's base level.")
    columns, rows = source.TotalPixelMatrixColumns, source.TotalPixelMatrixRows
    if region_l0.right > columns or region_l0.bottom > rows:
        raise InvalidRequestError(
            f"The region ends at ({region_l0.right}, {region_l0.bottom}), beyond the {columns} x {rows} px"
            f" of {path}: name a file of the base level of the analysed slide."
        )
    return source
