"""ONNX nodes that are added around a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(slots=True)
class Nodes:
    """Nodes with one output each, which is their name, and their constants."""

    made: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.made.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: Any) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def ints(self, name: str, values: Sequence[int]) -> str:
        """A constant of 64-bit whole numbers, as shapes and indices are."""
        return self.constant(name, np.asarray(values, np.int64))
