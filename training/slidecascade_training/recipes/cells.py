"""Metrics of a segmenter on tiles, and the worst tiles with outlines."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from slidecascade.geometry import Mpp
from slidecascade.heads import unet
from slidecascade.staging import write_file
from slidecascade_evaluation.matching import Labels
from slidecascade_evaluation.scores import Accuracy, Tally, pooled, tally_of

FOREGROUND: Final = 0.5
SEED: Final = 0.5
MIN_AREA_UM2: Final = 8.0
_WORST: Final = 6  # tiles that are drawn


@dataclass(frozen=True, slots=True)
class Tried:
    """A tile ``(H, W, 3)`` uint8 RGB with its true and found cells as labels ``(H, W)``."""

    file: str
    image: npt.NDArray[np.uint8]
    truth: Labels
    found: Labels


def decoded(maps: npt.NDArray[np.uint8], mpp: Mpp) -> Labels:
    """Cells ``(H, W)`` from the maps ``(H, W, 2)`` of the recipe unet-256, by the served head."""
    return unet.decode(maps, foreground=FOREGROUND, seed=SEED, min_area_px=MIN_AREA_UM2 / mpp**2)


def describe(tiles: Iterable[Tried], folder: Path, title: str) -> dict[str, Any]:
    """Draw ``worst.png`` in `folder`; the part of ``report.json`` that is about cells. Tiles pass one by one.

    Raises:
        UnwritableOutputError: a full disk.
    """
    # Imported here, because it imports the service's libraries, which training does not need.
    from slidecascade_evaluation import plots
    from slidecascade_evaluation.trial import ImageResult, Look

    tallies: list[Tally] = []

    def looks() -> Iterator[Look]:
        for tile in tiles:
            tallies.append(tally_of(tile.truth, tile.found))
            result = ImageResult(tile.file, None, tallies[-1], {})
            yield Look(result, tile.image, tile.truth, tile.found)

    worst = heapq.nsmallest(_WORST, looks(), key=lambda look: look.result.tally.figures.ap50)
    write_file(folder / "worst.png", plots.image_grid(worst, title))
    total = pooled(tallies)
    return {
        "examples": len(tallies),
        "figures": figures_of(tallies),
        "cells": {"truth": total.truth, "found": total.predicted},
        "worst_tiles": [_tile_fields(look.result.stem, look.result.tally) for look in worst],
    }


def figures_of(tallies: Sequence[Tally]) -> dict[str, float]:
    """Metrics of a segmenter for report and ``model.yaml``, from the tallies of at least one tile."""
    found = Accuracy.of(tallies)
    return {
        "ap50": found.ap50, "ap50_pooled": found.ap50_pooled, "mean_ap": found.mean_ap, "dice": found.dice,
    }  # fmt: skip


def _tile_fields(file: str, tally: Tally) -> dict[str, Any]:
    return {
        "file": file,
        "ap50": round(tally.figures.ap50, 4),
        "cells": {"truth": tally.truth, "found": tally.predicted},
    }
