"""Settings of a run: the recipe's defaults with the caller's overrides."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from slidecascade.errors import InvalidRequestError
from slidecascade_training.claim import claim
from slidecascade_training.recipes.table import Recipe, ScheduleName

RANGE_TEST: Final = ("rates.json", "rates.png")
"""Files of the learning-rate range test, which precedes the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """All settings of a run; stored in ``run.json``, so that it is resumed with the same settings."""

    recipe: str
    data_sha256: str
    epochs: int
    batch: int
    rate: float
    schedule: ScheduleName
    patience: int
    seed: int
    class_weights: bool
    loss: str | None = None
    """Of a recipe of areas: the name of its loss."""

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
        loss: str | None = None,
    ) -> RunSettings:
        """The settings of a run, with the recipe's defaults.

        Raises:
            InvalidRequestError: for an invalid number, or a loss for a recipe that does not find areas.
        """
        if loss is not None and not recipe.finds_areas:
            raise InvalidRequestError(f"The recipe {recipe.name} has a loss of its own: leave --loss out.")
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
            loss=loss or recipe.areas_loss,
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
        """Create `folder` for this run, or check that it belongs to it; see
        `slidecascade_training.claim.claim`."""
        claim(folder, self, beside=RANGE_TEST)


def data_sha256_of(data: Path) -> str:
    """Distinguishes data sets by their lists; empty without a list, which is reported when it is read."""
    digest = hashlib.sha256()
    for name in ("dataset.json", "index.csv"):
        path = data / name
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()
