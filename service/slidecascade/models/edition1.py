"""Reads ``model.yaml`` files of version 0.1.0, which state an input size and a head instead of tensors.

Every such network takes ``image``, uint8 RGB ``(N, H, W, 3)``, and returns the outputs of its head at stride 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from slidecascade.heads.table import outputs_of
from slidecascade.models.tensors import rgb_image

Side = Annotated[int, Field(ge=1, le=4096)]


class _Size(BaseModel):
    model_config = ConfigDict(extra="forbid")

    height_px: Side | None = None
    width_px: Side | None = None
    multiple_of: Annotated[int, Field(ge=1, le=256)] = 1


class _Class(BaseModel):
    name: str


class _Edition1(BaseModel):
    head: Literal["unet", "semantic", "softmax", "sigmoid"]
    input: _Size
    classes: Annotated[tuple[_Class, ...], Field(min_length=1)]


def with_tensors(fields: Any) -> Any:
    """The fields of a ``model.yaml`` with ``input`` replaced by tensors; any other value is returned unchanged.

    Raises:
        pydantic.ValidationError: when `fields` are of version 0.1.0 and invalid.
    """
    if not isinstance(fields, Mapping) or "input" not in fields or "inputs" in fields:
        return fields
    stated = _Edition1.model_validate(fields)
    outputs = outputs_of(stated.head, [item.name for item in stated.classes])
    image = rgb_image(
        height_px=stated.input.height_px, width_px=stated.input.width_px, multiple_of=stated.input.multiple_of
    )
    rest = {name: value for name, value in fields.items() if name != "input"}
    return rest | {"inputs": (image,), "outputs": outputs}
