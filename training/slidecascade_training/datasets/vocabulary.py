"""The classes of a data set: selection and renaming of annotation classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from slidecascade.errors import InvalidRequestError, UnusableDataError
from slidecascade_evaluation.annotation import Annotation

PALETTE: Final = (
    (0, 158, 115), (213, 94, 0), (86, 180, 233), (240, 228, 66), (204, 121, 167), (0, 114, 178), (230, 159, 0),
    (153, 153, 153),
)  # fmt: skip
"""Palette of Okabe and Ito (2008), distinguishable with colour blindness."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Selection and renaming of classes.

    Attributes:
        wanted: the classes in order; empty: all classes found, sorted.
        renamed: names in the annotations to names in the data set.
        others_skipped: whether annotations of other classes are skipped instead of rejected.
    """

    wanted: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    others_skipped: bool = False

    def __post_init__(self) -> None:
        for name in (*self.wanted, *self.renamed.values()):
            if not _is_servable(name):
                raise InvalidRequestError(
                    f"A class cannot be called {name!r}: take 1 to 60 characters without a colon or a line break."
                )
        if len(set(self.wanted)) != len(self.wanted):
            raise InvalidRequestError("--classes names a class twice: name each once.")

    def applied(self, annotations: Sequence[Annotation], name: str) -> tuple[Annotation, ...]:
        """The selected annotations of file `name`, with renamed classes.

        Raises:
            UnusableDataError: for a class that is not selected or is invalid as a class name.
        """
        kept = []
        for annotation in annotations:
            if annotation.class_name is None:
                continue
            class_name = self.renamed.get(annotation.class_name, annotation.class_name)
            if self.wanted and class_name not in self.wanted:
                if self.others_skipped:
                    continue
                raise UnusableDataError(
                    f"{name} has the class {class_name!r}, not one of {', '.join(self.wanted)}: add it to "
                    "--classes, give it one of those names with --rename, or leave it out with --skip-others."
                )
            if not _is_servable(class_name):
                raise UnusableDataError(
                    f"{name} has the class {class_name[:80]!r}, which no model can have: give it 1 to 60 "
                    f"characters without a colon or a line break with --rename {class_name[:80]!r}=NAME."
                )
            kept.append(replace(annotation, class_name=class_name))
        return tuple(kept)

    def classes(self, found: set[str]) -> tuple[str, ...]:
        """The classes of the data set, in order.

        Raises:
            UnusableDataError: when no annotation has a class, or a selected class has no annotation.
        """
        if not found:
            raise UnusableDataError("No annotation that counts has a class: classify them and export again.")
        if missing := [name for name in self.wanted if name not in found]:
            raise UnusableDataError(
                f"There is no annotation of the class {missing[0]!r}: annotate some, or remove it from --classes."
            )
        return self.wanted or tuple(sorted(found))


def folder_of(class_name: str, index: int) -> str:
    """A folder name for a class; the number distinguishes classes that differ in special characters only."""
    plain = re.sub(r"[^a-z0-9]+", "-", class_name.lower()).strip("-") or "class"
    return f"{index}-{plain}"


def _is_servable(name: str) -> bool:
    return re.fullmatch(r"[^:\x00-\x1f\x7f]{1,60}", name) is not None
