"""Codes and references of an institution for FHIR, from a YAML file."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slidecascade.errors import InvalidRequestError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Coding(_Section):
    """A code of a terminology."""

    system: str
    code: str
    display: str | None = None


class FhirConfig(_Section):
    """Everything is optional: what has no code is described in words."""

    codes: dict[str, Coding] = Field(
        default_factory=dict, description="by key: report, device, count.CLASS, fraction.CLASS, density.CLASS, ..."
    )
    subject: str | None = Field(
        default=None, description="such as Patient/17", pattern=r"^\w+/[A-Za-z0-9.-]{1,64}$"
    )
    specimen: str | None = Field(default=None, pattern=r"^Specimen/[A-Za-z0-9.-]{1,64}$")
    service_request: str | None = Field(default=None, pattern=r"^ServiceRequest/[A-Za-z0-9.-]{1,64}$")
    files_url: str | None = Field(default=None, description="address of the files; {name} is the name of each")


def read_fhir_config(path: Path | None) -> FhirConfig:
    """The configuration in a file, the empty one for None.

    Raises:
        InvalidRequestError: the file cannot be read or has a field of another name or type.
    """
    if path is None:
        return FhirConfig()
    try:
        return FhirConfig.model_validate(yaml.safe_load(path.read_bytes()) or {})
    except (OSError, yaml.YAMLError) as error:
        raise InvalidRequestError(f"{path} cannot be read as YAML: check the path and its syntax.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidRequestError(f"{path}: {place}: {first['msg']}; see docs/export.md.") from error
