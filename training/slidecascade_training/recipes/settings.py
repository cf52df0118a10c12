"""How one run is done: the recipe's numbers, with the caller's in their place."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from slidecascade.errors import InvalidRequestError
from slidecascade_training.recipes.table import Recipe, ScheduleName
from slidecascade_training.staging import unwritable, write_whole

RANGE_TEST: Final = ("rates.json", "rates.png")
"""Files of the learning-rate range test, which goes before the run it advises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """All that decides what a run does; kept in ``run.json``, so that a run is resumed as it was begun."""

    recipe: str
    data_sha256: str
    epochs: int
    batch: int
    rate: float
    schedule: ScheduleName
    patience: int
    seed: int
    class_weights: bool

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        data: Path,
        *,
        epochs: int | None = None,
        batch: int | None = None,
        rate: float | None = None,
        schedule: ScheduleName | None = None,
        patience: int = 10,
        seed: int = 0,
        class_weights: bool = True,
    ) -> RunSettings:
        """The recipe's defaults where nothing else is asked for.

        Raises:
            InvalidRequestError: a number that makes no run.
        """
        made = cls(
            recipe=recipe.name,
            data_sha256=data_sha256_of(data),
            epochs=recipe.epochs if epochs is None else epochs,
            batch=recipe.batch if batch is None else batch,
            rate=recipe.rate if rate is None else rate,
            schedule=schedule or recipe.schedule,
            patience=patience,
            seed=seed,
            class_weights=class_weights,
        )
        for option, value, least in (
            ("--epochs", made.epochs, 1),
            ("--batch", made.batch, 1),
            ("--patience", made.patience, 0),
            ("--seed", made.seed, 0),
        ):
            if value < least:
                raise InvalidRequestError(f"{option} must be at least {least}.")
        if not (math.isfinite(made.rate) and made.rate > 0):
            raise InvalidRequestError("--rate must be a positive number, e.g. 0.001.")
        return made

    def claim(self, folder: Path) -> None:
        """Make `folder` this run's, or find that it is.

        Raises:
            InvalidRequestError: it holds a run with other settings, or something else.
            UnwritableOutputError: it cannot be made.
        """
        notes = folder / "run.json"
        if notes.is_file():
            self._require_same(folder, notes)
            return
        if not _is_free(folder):
            raise InvalidRequestError(f"{folder} is there already and holds no run: choose another --out.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
        write_whole(notes, json.dumps(asdict(self), indent=2).encode() + b"\n")

    def _require_same(self, folder: Path, notes: Path) -> None:
        try:
            there = json.loads(notes.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidRequestError(
                f"{folder} holds a run.json that cannot be read: choose another --out."
            ) from error
        for name, value in asdict(self).items():
            if there.get(name) != value:
                what = "another data set" if name == "data_sha256" else f"{name} {there.get(name)}, not {value}"
                raise InvalidRequestError(
                    f"{folder} holds a run with {what}: repeat its settings to resume it, or choose another --out."
                )


def _is_free(folder: Path) -> bool:
    """Whether a run may begin there: nothing is, or what the learning-rate range test drew."""
    if not folder.exists():
        return True
    return folder.is_dir() and all(path.name in RANGE_TEST for path in folder.iterdir())


def data_sha256_of(data: Path) -> str:
    """Tells data sets apart by their lists; "" when there is none, which is told elsewhere."""
    digest = hashlib.sha256()
    for name in ("dataset.json", "index.csv"):
        path = data / name
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()
