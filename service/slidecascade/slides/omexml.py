"""The pixel size and the channels that an OME-TIFF states in its XML (OME schema 2016-06, ``Pixels``)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from xml.parsers import expat

MAX_BYTES: Final = 2**24
"""Longest description that is read: plates of thousands of images state theirs in a few MB."""

_UM: Final = {
    "pm": 1e-6,
    "Å": 1e-4,
    "nm": 1e-3,
    "µm": 1.0,
    "μm": 1.0,  # the Greek letter, which some writers take for the sign
    "um": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "in": 25_400.0,
    "mil": 25.4,
    "pt": 25_400 / 72,
}
"""Micrometres in the units of length; ``pixel`` and ``reference frame`` are none."""


class _Found(Exception):  # noqa: N818 - ends the parser once the first image is read
    """The attributes of the first ``Pixels``."""


@dataclass(frozen=True, slots=True)
class Channels:
    """What the first image states: the names of its channels (empty where there is none), `count` with all samples
    of each, and how many slices and points in time it has.
    """

    names: tuple[str, ...]
    count: int
    slices: int
    frames: int

    @property
    def pages(self) -> int:
        """The planes of the image, where each is a page."""
        return self.count * self.slices * self.frames


def channels(description: str | None) -> Channels | None:
    """The channels of the first image; None when `description` does not state them."""
    found: list[dict[str, str]] = []
    sizes: dict[str, str] = {}
    is_over = False

    def start(name: str, attributes: dict[str, str]) -> None:
        kind = name.rpartition(" ")[2]
        if kind == "Pixels" and not sizes and not is_over:
            sizes.update(attributes)
        elif kind == "Channel" and sizes and not is_over:
            found.append(attributes)

    def end(name: str) -> None:
        nonlocal is_over
        is_over = is_over or name.rpartition(" ")[2] == "Pixels"

    if description is None or not _parse(description, start, end):
        return None
    try:
        count, slices, frames = (int(sizes[f"Size{axis}"]) for axis in "CZT")
    except (KeyError, ValueError):
        return None
    return Channels(tuple(item.get("Name", "").strip()[:100] for item in found), count, slices, frames)


def _parse(description: str, start: Callable[[str, dict[str, str]], None], end: Callable[[str], None]) -> bool:
    """Whether `description` is OME-XML that can be read."""
    if "<OME" not in description[:4096] or len(description) > MAX_BYTES:
        return False
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    try:
        parser.Parse(description.strip().encode(), True)
    except (expat.ExpatError, LookupError, ValueError):
        return False
    return True


def sides_um(description: str | None) -> tuple[float, float] | None:
    """Width and height of a pixel of the first image in micrometres; None when `description` does not state them.

    Nothing is expanded or fetched: a document with a type declaration, which OME-XML never has, is not read.
    """
    if description is None or "<OME" not in description[:4096] or len(description) > MAX_BYTES:
        return None
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    parser.StartElementHandler = _look
    try:
        parser.Parse(description.strip().encode(), True)
    except _Found as found:
        attributes: dict[str, str] = found.args[0]
        x, y = _length_um(attributes, "PhysicalSizeX"), _length_um(attributes, "PhysicalSizeY")
        return None if x is None or y is None else (x, y)
    except (expat.ExpatError, LookupError, ValueError):
        return None
    return None


def _look(name: str, attributes: dict[str, str]) -> None:
    if name.rpartition(" ")[2] == "Pixels":
        raise _Found(attributes)


def _refuse(*_: object) -> None:
    raise ValueError("OME-XML has no type declaration.")


def _length_um(attributes: dict[str, str], name: str) -> float | None:
    """Default unit: micrometres, as the schema says."""
    factor = _UM.get(attributes.get(f"{name}Unit", "µm").strip())
    try:
        value = float(attributes[name])
    except (KeyError, ValueError):
        return None
    return value * factor if factor is not None and math.isfinite(value) and value > 0 else None
