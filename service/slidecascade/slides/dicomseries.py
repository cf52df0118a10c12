"""The levels of a slide from the metadata of its series, in DICOM's JSON model (PS3.18, F)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from slidecascade.geometry import Size

_WHOLE_SLIDE: Final = "1.2.840.10008.5.1.4.1.1.77.1.6"
_MAX_FRAME_PX: Final = 2**26

_Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Level:
    """An instance of a series that is a level of the slide.

    Attributes:
        size: of its total pixel matrix.
        frame: size of each stored frame.
        places: the number of each stored frame, from 1, by column and row of the lattice of frames; None: all are
            stored, row by row.
    """

    instance: str
    size: Size
    frame: Size
    sides_um: tuple[float, float] | None
    power: float | None
    places: Mapping[tuple[int, int], int] | None

    def number(self, column: int, row: int) -> int | None:
        """Of the frame there; None: it is not stored."""
        if self.places is None:
            return row * math.ceil(self.size.width / self.frame.width) + column + 1
        return self.places.get((column, row))


def levels_of(instances: Sequence[_Json]) -> list[Level]:
    """The levels of a series, the largest first; raises ValueError without any."""
    found = [_level(instance) for instance in instances if _is_level(instance)]
    if not found:
        raise ValueError("No instance is a level.")
    return sorted(found, key=lambda level: -level.size.width)


def _is_level(instance: _Json) -> bool:
    """Volumes only: labels, overviews and thumbnails may show who the patient is."""
    kind = _values(instance, "00080008")
    return value_of(instance, "00080016") == _WHOLE_SLIDE and len(kind) > 2 and kind[2] == "VOLUME"


def _level(instance: _Json) -> Level:
    frame = Size(int(value_of(instance, "00280011")), int(value_of(instance, "00280010")))
    size = Size(int(value_of(instance, "00480006")), int(value_of(instance, "00480007")))
    if (
        frame.area > _MAX_FRAME_PX
        or int(value_of(instance, "00280002")) != 3
        or int(value_of(instance, "00280100")) != 8
    ):
        raise ValueError("Frames are not RGB of 8 bits, or too large.")
    is_full = value_of(instance, "00209311", "TILED_FULL") != "TILED_SPARSE"
    return Level(
        instance=str(value_of(instance, "00080018")),
        size=size,
        frame=frame,
        sides_um=_sides_um(instance),
        power=_power(instance),
        places=None if is_full else _stored_places(instance, frame),
    )


def _stored_places(instance: _Json, frame: Size) -> dict[tuple[int, int], int]:
    places: dict[tuple[int, int], int] = {}
    for number, groups in enumerate(_values(instance, "52009230"), start=1):
        position = value_of(groups, "0048021A")
        column, row = int(value_of(position, "0048021E")) - 1, int(value_of(position, "0048021F")) - 1
        if column % frame.width or row % frame.height:
            raise ValueError("Frames overlap.")
        places.setdefault((column // frame.width, row // frame.height), number)
    return places


def _sides_um(instance: _Json) -> tuple[float, float] | None:
    """Width and height of a pixel in micrometres."""
    shared = value_of(instance, "52009229", {})
    spacing = _values(value_of(shared, "00289110", {}), "00280030")
    return (float(spacing[1]) * 1000, float(spacing[0]) * 1000) if len(spacing) == 2 else None


def _power(instance: _Json) -> float | None:
    power = value_of(value_of(instance, "00480105", {}), "00480112", None)
    return float(power) if power else None


def _values(item: _Json, tag: str) -> Sequence[Any]:
    """The values of an attribute in DICOM's JSON model, none where it is absent or empty."""
    values: Sequence[Any] = item.get(tag, {}).get("Value", ())
    return values


_REQUIRED: Final = object()


def value_of(item: _Json, tag: str, default: Any = _REQUIRED) -> Any:
    """The first value of an attribute; raises KeyError without one or a default."""
    values = _values(item, tag)
    if values:
        return values[0]
    if default is _REQUIRED:
        raise KeyError(tag)
    return default
