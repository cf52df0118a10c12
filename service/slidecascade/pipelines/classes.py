"""The classes a cell can end in, as a tree: a cascade refines a class of one stage into those of the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

Color = tuple[int, int, int]
"""Red, green and blue, 0..255."""

JOINT = ": "
"""Joins the levels of a class's name for people and for QuPath, whose derived classes are written so."""


def full_name(path: Sequence[str]) -> str:
    """The name of a class from its labels, first level first, e.g. ``Hepatocyte: Ballooning``."""
    return JOINT.join(path)


def lineage(name: str) -> tuple[str, ...]:
    """The classes that a class is derived from and itself, first level first, by their names."""
    levels = name.split(JOINT)
    return tuple(full_name(levels[:depth]) for depth in range(1, len(levels) + 1))


@dataclass(frozen=True, slots=True)
class CellClass:
    """A class a cell can end in: its labels from the first level of the cascade down, and its colour."""

    path: tuple[str, ...]
    color: Color

    @property
    def name(self) -> str:
        """All levels in one name, e.g. ``Hepatocyte: Ballooning``."""
        return full_name(self.path)


@dataclass(frozen=True, slots=True)
class ClassGroup:
    """A class of any level with all that are derived from it.

    Attributes:
        name: all levels in one name.
        parent: the name of the class it refines; None on the first level.
        members: indices of `ClassTree.ends`: itself, or the classes derived from it.
    """

    name: str
    parent: str | None
    members: tuple[int, ...]


@dataclass(frozen=True)
class ClassTree:
    """Every class a cell can end in, in the order that results are indexed by."""

    ends: tuple[CellClass, ...]

    @cached_property
    def groups(self) -> dict[str, ClassGroup]:
        """Every class of every level by name, parents before those derived from them."""
        members: dict[tuple[str, ...], list[int]] = {}
        for index, end in enumerate(self.ends):
            for depth in range(1, len(end.path) + 1):
                members.setdefault(end.path[:depth], []).append(index)
        return {
            full_name(path): ClassGroup(full_name(path), full_name(path[:-1]) or None, tuple(found))
            for path, found in members.items()
        }
