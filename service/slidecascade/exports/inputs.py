"""What some formats need besides the result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Inputs:
    """Files that the caller names.

    Attributes:
        fhir_config: YAML with codes and references of FHIR, see `fhir.config`.
        dicom_source: a DICOM file of the analysed slide's base level.
        token_file: the bearer token of the server that the result is stored on.
    """

    fhir_config: Path | None = None
    dicom_source: Path | None = None
    token_file: Path | None = None
