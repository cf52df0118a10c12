"""Codes, references and servers of an institution for FHIR, from a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slidecascade.errors import InvalidRequestError

LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Coding(_Section):
    """A code of a terminology."""

    system: str
    code: str
    display: str | None = None


class FhirServer(_Section):
    """A server of FHIR R4: the address that resources are below, and what it takes to be let in."""

    url: str = Field(description="such as https://fhir.hospital.example/r4", pattern=r"^https?://[^/?#]+[^?#]*$")
    token_file: Path | None = Field(default=None, description="file with the bearer token, read at each request")
    ca: Path | None = Field(default=None, description="certificates of the server's CA, else those of the system")
    allow_plaintext: bool = False
    timeout_s: Positive = 30.0

    @model_validator(mode="after")
    def _is_private(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme != "https" and parts.hostname not in LOOPBACK and not self.allow_plaintext:
            raise ValueError("beyond loopback https is required, unless `allow_plaintext: true` is set")
        return self


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
    servers: dict[str, FhirServer] = Field(default_factory=dict, description="by the name that --to gives")


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
