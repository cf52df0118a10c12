"""Metrics of a network of areas on tiles with masks, and the worst tiles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from slidecascade.heads.labels import at_least, grey_level
from slidecascade_evaluation.masks import MaskTally, tally_of
from slidecascade_training.datasets.folder import Example
from slidecascade_training.recipes import plots
from slidecascade_training.recipes.samples import TrainingSet, area_map

FOREGROUND: Final = 0.5
_WORST: Final = 6  # tiles that are drawn

Maps = npt.NDArray[np.uint8]


def compared(labels: npt.NDArray[np.int32], maps: Maps) -> MaskTally:
    """The areas of a tile, labels ``(H, W)``, and those at `FOREGROUND` in its served maps ``(H, W, 1)``."""
    return tally_of(labels > 0, at_least(np.ascontiguousarray(maps[..., 0]), grey_level(FOREGROUND)) > 0)


def pooled(tallies: Iterable[MaskTally]) -> dict[str, float]:
    """Dice, IoU, precision, recall and F1 of areas over all tiles, for report and ``model.yaml``."""
    return sum(tallies, MaskTally()).figures


def describe(
    data: TrainingSet, examples: Sequence[Example], found: Sequence[Maps], folder: Path
) -> dict[str, Any]:
    """Draw ``worst.png`` in `folder`; the part of ``report.json`` that is about areas.

    Raises:
        UnwritableOutputError: a full disk.
    """
    tallies = [compared(data.labels(example), maps) for example, maps in zip(examples, found, strict=True)]
    worst = sorted(range(len(examples)), key=lambda index: tallies[index].figures["dice"])[:_WORST]
    plots.draw_tiles(
        folder / "worst.png",
        [
            (
                data.image(examples[index], data.spec.size_px),
                area_map(data.labels(examples[index]))[..., 0],
                found[index][..., 0],
            )
            for index in worst
        ],
    )
    return {
        "figures": pooled(tallies),
        "worst_tiles": [
            {"file": examples[index].file, "dice": round(tallies[index].figures["dice"], 4)} for index in worst
        ],
    }
