"""Codes of classes and figures in DICOM objects: those an institution configures, else private ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydicom import Dataset

from slidecascade.errors import InvalidRequestError

SCHEME: Final = "99SLIDECASCADE"
"""Private codes: classes and figures of pipelines have no standard ones."""


class DicomCode(BaseModel):
    """A code of a terminology."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: str = Field(min_length=1, max_length=16)
    scheme: str = Field(min_length=1, max_length=16)
    meaning: str = Field(min_length=1, max_length=64)


_FILE: Final = TypeAdapter(dict[str, DicomCode])


class Codes:
    """The code of each class and figure.

    Args:
        classes: of the result, in order.
        configured: by key: ``class.NAME``, ``measurement.NAME``, ``heatmap.NAME``, or a figure.
    """

    def __init__(self, classes: Sequence[str], configured: Mapping[str, DicomCode]) -> None:
        self._classes = list(classes)
        self._configured = configured

    def of(self, key: str, value: str, meaning: str) -> Dataset:
        """The configured code of `key`, else the private one."""
        found = self._configured.get(key)
        if found is None:
            return code(value, SCHEME, meaning)
        return code(found.value, found.scheme, found.meaning)

    def of_class(self, name: str) -> Dataset:
        """The code of a class, or of a group of classes such as the parent of some."""
        if name not in self._classes:
            self._classes.append(name)
        return self.of(f"class.{name}", f"class-{self._classes.index(name) + 1}", name)


def read_codes(path: Path | None, classes: Sequence[str]) -> Codes:
    """The codes of a file, all private for None.

    Raises:
        InvalidRequestError: the file cannot be read or has a field of another name or type.
    """
    if path is None:
        return Codes(classes, {})
    try:
        return Codes(classes, _FILE.validate_python(yaml.safe_load(path.read_bytes()) or {}))
    except (OSError, yaml.YAMLError) as error:
        raise InvalidRequestError(f"{path} cannot be read as YAML: check the path and its syntax.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidRequestError(f"{path}: {place}: {first['msg']}; see docs/export.md.") from error


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence."""
    made = Dataset()
    made.CodeValue, made.CodingSchemeDesignator, made.CodeMeaning = value, scheme, meaning[:64]
    return made


def scheme_identification() -> Dataset:
    """States that the scheme is private."""
    made = Dataset()
    made.CodingSchemeDesignator = SCHEME
    made.CodingSchemeName = "Private codes of SlideCascade, numbered within one result"
    return made
