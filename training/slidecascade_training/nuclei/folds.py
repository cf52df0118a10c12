"""Leave-one-source-out folds of the Data Science Bowl 2018 set.

Images of one kind and size are mostly of one microscope. Selection on images of the training microscopes
overestimates accuracy, so each fold holds out a whole source. Images of the set's validation split are in no
fold and not used for selection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from slidecascade.errors import InvalidRequestError
from slidecascade_evaluation.dsb2018 import Entry

FEWEST: Final = 12
"""Minimum images of a source with its own fold; smaller sources of a kind share one."""


@dataclass(frozen=True, slots=True)
class Fold:
    """Training images and held-out images; no source is in both."""

    name: str
    training: tuple[Entry, ...]
    held_out: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Folds:
    """All folds of a set, those with the most images held out first."""

    folds: tuple[Fold, ...]

    @classmethod
    def of(cls, entries: Iterable[Entry], *, fewest: int = FEWEST) -> Folds:
        """The folds of a set's index.

        Raises:
            InvalidRequestError: there are fewer than two sources.
        """
        usable = [entry for entry in entries if entry.split != "validate"]
        name_of = _names(usable, fewest)
        sizes = Counter(map(name_of, usable))
        if len(sizes) < 2:
            raise InvalidRequestError(
                "The data set has images of one source only, and a fold needs a source to hold out and another to "
                "train on: add images of another kind or size."
            )
        return cls(
            tuple(
                Fold(
                    name,
                    training=tuple(entry for entry in usable if name_of(entry) != name),
                    held_out=tuple(entry for entry in usable if name_of(entry) == name),
                )
                for name, _ in sizes.most_common()
            )
        )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(fold.name for fold in self.folds)

    def find(self, name: str) -> Fold:
        """The fold called `name`.

        Raises:
            InvalidRequestError: there is none.
        """
        for fold in self.folds:
            if fold.name == name:
                return fold
        raise InvalidRequestError(f"There is no fold {name!r}; there are {', '.join(self.names)}.")


def _names(entries: Iterable[Entry], fewest: int) -> Callable[[Entry], str]:
    counts = Counter(map(_source, entries))

    def name_of(entry: Entry) -> str:
        source = _source(entry)
        return source if counts[source] >= fewest else f"{entry.kind}-others"

    return name_of


def _source(entry: Entry) -> str:
    return f"{entry.kind}-{entry.width_px}x{entry.height_px}"
