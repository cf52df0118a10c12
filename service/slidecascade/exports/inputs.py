"""What some formats need besides the result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Inputs:
    """Files that the caller names.

    Attributes:
        fhir_config: YAML with codes and references of FHIR, see `exports.fhirconfig`.
    """

    fhir_config: Path | None = None
