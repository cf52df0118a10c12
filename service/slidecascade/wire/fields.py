"""Field types and base models of requests and responses."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

PositiveFinite = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Resolution = Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False, strict=True)]
"""Micrometres per pixel, within the range of microscopes; 0.00025 would be a value in millimetres."""

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]


def whole(value: object) -> object:
    """`value`, with whole floats as int, because JSON has one type of numbers and some programs
    write 512.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


MAX_COORDINATE = 2**31 - 1
"""Larger than any slide; greater numbers are rejected without being repeated in the error."""

MAX_THRESHOLDS = 32
MAX_NAME = 100
TEXT = r"^[^\x00]*$"
"""Text that a database can store."""

WHOLE = BeforeValidator(whole)
Coordinate = Annotated[int, Field(strict=True, ge=-MAX_COORDINATE, le=MAX_COORDINATE), WHOLE]
Extent = Annotated[int, Field(strict=True, ge=1, le=MAX_COORDINATE), WHOLE]
Color = tuple[int, int, int]


class WireModel(BaseModel):
    """Frozen; unknown members are rejected, so that a misspelt field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(BaseModel):
    """A response; later versions may add members, so unknown ones are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


JsonObject = dict[str, Any]
