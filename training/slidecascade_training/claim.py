"""``run.json``, the settings of a run, so that it is resumed only with the settings it was started with."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import TypeAdapter, ValidationError

from slidecascade.errors import InvalidRequestError
from slidecascade.staging import make_folder, write_file

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings")
_FILE = "run.json"


def claim(folder: Path, settings: DataclassInstance, *, beside: Collection[str] = ()) -> None:
    """Create `folder` for a run with these settings, or check that it belongs to one.

    Args:
        beside: names of files that may exist in the folder before the run starts.

    Raises:
        InvalidRequestError: when it contains a run with other settings, or other files.
        UnwritableOutputError: it cannot be made.
    """
    notes = folder / _FILE
    text = json.dumps(asdict(settings), indent=2)
    if notes.is_file():
        _require_same(folder, notes, json.loads(text))
        return
    if folder.exists() and not (folder.is_dir() and all(path.name in beside for path in folder.iterdir())):
        raise InvalidRequestError(f"{folder} exists and contains no run: choose another --out.")
    make_folder(folder)
    write_file(notes, text.encode() + b"\n")


def read_claim(folder: Path, kind: type[Settings]) -> Settings:
    """The settings of the run in `folder`.

    Raises:
        InvalidRequestError: when it contains no run of this kind.
    """
    try:
        return TypeAdapter(kind).validate_json((folder / _FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise InvalidRequestError(f"{folder} contains no run that can be packaged: train it first.") from error


def _require_same(folder: Path, notes: Path, wanted: dict[str, object]) -> None:
    try:
        found = json.loads(notes.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequestError(
            f"{folder} contains a run.json that cannot be read: choose another --out."
        ) from error
    for name, value in wanted.items():
        if found.get(name) != value:
            what = "another data set" if name == "data_sha256" else f"{name} {found.get(name)}, not {value}"
            raise InvalidRequestError(
                f"{folder} contains a run with {what}: repeat its settings to resume it, or choose another --out."
            )
