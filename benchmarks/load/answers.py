"""Is an answer the right one for its input?"""

from __future__ import annotations

import enum
import hashlib
import json
from dataclasses import dataclass
from itertools import starmap
from typing import Any

_LAST_DIGITS = 2e-4
"""Scores are written with four decimals: what is closer than this differs in the last one only."""


class Verdict(enum.StrEnum):
    IDENTICAL = "identical"
    """Byte for byte."""
    EQUIVALENT = "equivalent"
    """The same cells with the same outlines and classes; scores differ in the last digit written."""
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Reference:
    """The answer to one input: GeoJSON as it came from an analysis that had the machine for itself.

    Nothing in a GeoJSON answer changes from one analysis to the next: there are no times, and the ids follow from
    the outlines. So answers are compared as they are.
    """

    body: bytes
    sha256: str

    @classmethod
    def of(cls, body: bytes) -> Reference:
        return cls(body, hashlib.sha256(body).hexdigest())

    def judge(self, body: bytes) -> Verdict:
        """How far `body` agrees."""
        if hashlib.sha256(body).hexdigest() == self.sha256:
            return Verdict.IDENTICAL
        try:
            mine, other = json.loads(self.body), json.loads(body)
            same = _same_provenance(mine, other) and _same_cells(mine["features"], other["features"])
        except (ValueError, KeyError, TypeError):
            return Verdict.WRONG
        return Verdict.EQUIVALENT if same else Verdict.WRONG


def _same_provenance(mine: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(mine["slidecascade"] == other["slidecascade"])


def _same_cells(mine: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    return len(mine) == len(other) and all(starmap(_same_cell, zip(mine, other, strict=True)))


def _same_cell(mine: dict[str, Any], other: dict[str, Any]) -> bool:
    ours, theirs = (cell["properties"]["measurements"] for cell in (mine, other))
    return (
        mine["id"] == other["id"]
        and mine["geometry"] == other["geometry"]
        and mine["properties"]["classification"] == other["properties"]["classification"]
        and ours.keys() == theirs.keys()
        and all(abs(ours[name] - theirs[name]) < _LAST_DIGITS for name in ours)
    )
