"""What some formats need besides the result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the caller names.

    Attributes:
        fhir_config: YAML with codes and references of FHIR, see `fhir.config`.
        dicom_source: a DICOM file of the analysed slide's base level.
        token_file: the bearer token of the server that the result is stored on.
        bearer: that of a DICOMweb server, where there is no such file.
        dicom_worklist: identifiers of a slide that is not DICOM, see `exports.dicomsource.Worklist`.
        dicom_codes: YAML with codes of classes and figures, see `exports.dicomcodes`.
        heatmap: name of the map to export; None: the first.
    """

    fhir_config: Path | None = None
    dicom_source: Path | None = None
    token_file: Path | None = None
    bearer: str | None = None
    dicom_worklist: Path | None = None
    dicom_codes: Path | None = None
    heatmap: str | None = None
