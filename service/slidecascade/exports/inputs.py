"""What some formats need besides the result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the caller names.

    Attributes:
        fhir_config: YAML with codes and references of FHIR, see `exports.fhirconfig`.
        dicom_source: a DICOM file of the analysed slide's base level.
        dicom_worklist: identifiers of a slide that is not DICOM, see `exports.dicomsource.Worklist`.
        dicom_codes: YAML with codes of classes and figures, see `exports.dicomcodes`.
        heatmap: name of the map to export; None: the first.
    """

    fhir_config: Path | None = None
    dicom_source: Path | None = None
    dicom_worklist: Path | None = None
    dicom_codes: Path | None = None
    heatmap: str | None = None
