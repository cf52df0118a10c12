"""Number of examples per class of a data set, in total and by split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from slidecascade_training.datasets.split import TRAIN, VALIDATE, Split

_FEW = 20


@dataclass(frozen=True, slots=True)
class Balance:
    """Examples by class and split, and slides by split; rows follow `classes`."""

    classes: tuple[str, ...]
    train: tuple[int, ...]
    validate: tuple[int, ...]
    slides_train: int
    slides_validate: int

    @classmethod
    def of(cls, classes: Sequence[str], rows: Sequence[tuple[str, str, Split]]) -> Balance:
        """From (class, slide, split) of every example."""

        found = Counter((name, split) for name, _, split in rows)
        slides = {split: {slide for _, slide, of in rows if of == split} for split in (TRAIN, VALIDATE)}
        return cls(
            classes=tuple(classes),
            train=tuple(found[name, TRAIN] for name in classes),
            validate=tuple(found[name, VALIDATE] for name in classes),
            slides_train=len(slides[TRAIN]),
            slides_validate=len(slides[VALIDATE]),
        )

    def as_json(self) -> dict[str, object]:
        return {
            "train": dict(zip(self.classes, self.train, strict=True)),
            "validate": dict(zip(self.classes, self.validate, strict=True)),
            "slides": {TRAIN: self.slides_train, VALIDATE: self.slides_validate},
        }

    def table(self) -> str:
        """For a terminal."""
        width = max(len("class"), *(len(name) for name in self.classes))
        lines = [f"{'class':{width}}  {'train':>8}  {'validate':>8}  {'share':>6}"]
        total = max(1, sum(self.train) + sum(self.validate))
        for name, train, validate in zip(self.classes, self.train, self.validate, strict=True):
            lines.append(f"{name:{width}}  {train:8d}  {validate:8d}  {(train + validate) / total:6.1%}")
        lines.append(f"{'slides':{width}}  {self.slides_train:8d}  {self.slides_validate:8d}")
        return "\n".join(lines) + "\n"

    def warnings(self) -> tuple[str, ...]:
        """Warnings about missing or rare classes, one sentence each."""
        warnings = []
        for name, train, validate in zip(self.classes, self.train, self.validate, strict=True):
            if not train:
                warnings.append(f"The class {name!r} has no examples for training: annotate it on more slides.")
            elif train < _FEW:
                warnings.append(f"The class {name!r} has only {train} examples for training.")
            if self.slides_validate and not validate:
                warnings.append(f"The class {name!r} has no examples for validation: its figures will be missing.")
        return tuple(warnings)
