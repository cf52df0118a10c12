"""Digests of the files of a result, stored beside them when they are written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, RootModel, ValidationError

from slidecascade.staging import write_file

_NAME: Final = ".digests.json"
_READ_BYTES: Final = 2**20


class Digests(BaseModel):
    """Of one file, in hexadecimal; SHA-1 is the hash that FHIR R4 states."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    sha1: str


class _Stored(RootModel[Mapping[str, Digests]]):
    pass


def write_digests(folder: Path, names: Iterable[str]) -> None:
    """Store the digests of the files of these names in `folder`, in place of earlier ones."""
    found = _Stored({name: _digests(folder / name) for name in names})
    write_file(folder / _NAME, found.model_dump_json().encode())


def read_digests(folder: Path) -> Mapping[str, Digests]:
    """The digests by name; none for results of versions that did not store them."""
    try:
        return _Stored.model_validate_json((folder / _NAME).read_bytes()).root
    except (FileNotFoundError, ValidationError):
        return {}


def _digests(path: Path) -> Digests:
    sha256, sha1 = hashlib.sha256(), hashlib.sha1(usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            sha256.update(piece)
            sha1.update(piece)
    return Digests(sha256=sha256.hexdigest(), sha1=sha1.hexdigest())
