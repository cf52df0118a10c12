"""Rendered contexts of a run, kept on disk: those trained on, and those of calibration and measurement."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from slidecascade.staging import make_folder, write_file
from slidecascade_render.liver.crops import Crops, Task
from slidecascade_render.lymph.contexts import CONTEXT_PX, KEPT_PX, Contexts, contexts_of, random_node

INPUT_PX: Final = 100
TUMOUR: Final = Task(
    name="lymph-tumour",
    classes=("Normal", "Tumour"),
    colors=((0, 158, 115), (213, 94, 0)),
    crop_px=CONTEXT_PX,
    input_px=INPUT_PX,
    truth={},
)
_SET_ASIDE: Final = 30  # windows for calibration, and as many for measurement
MOST_WINDOWS: Final = 4_000
_PER_CLASS: Final = 9


@dataclass(frozen=True, slots=True)
class Windows:
    """The seed of a run, and its windows for training, calibration and measurement."""

    seed: int
    training: range
    calibration: range
    held_out: range

    @classmethod
    def of(cls, seed: int, windows: int) -> Windows:
        first = seed * 10_000
        calibration, held_out = first + MOST_WINDOWS, first + MOST_WINDOWS + 1_000
        return cls(
            seed,
            range(first, first + windows),
            range(calibration, calibration + _SET_ASIDE),
            range(held_out, held_out + _SET_ASIDE),
        )


def gathered(seeds: Sequence[int], cache: Path, *, fine: bool) -> Crops:
    """All contexts of the windows: `KEPT_PX` wide to train on; where `fine`, as they are served."""
    make_folder(cache)
    parts = []
    for count, seed in enumerate(seeds, start=1):
        parts.append(_rendered(seed, cache, fine=fine))
        if count % 25 == 0:
            sys.stdout.write(f"{count} of {len(seeds)} windows\n")
            sys.stdout.flush()
    return Crops(np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]))


def _rendered(seed: int, cache: Path, *, fine: bool) -> Contexts:
    """The contexts of one random window, from the cache if present."""
    path = cache / f"{'served' if fine else 'training'}-{seed}.npz"
    if not path.exists():
        found = contexts_of(
            random_node(seed, fine=fine),
            seed,
            fine=fine,
            side_px=INPUT_PX if fine else KEPT_PX,
            at_most_per_class=_PER_CLASS,
        )
        packed = io.BytesIO()
        np.savez(packed, images=found.images, labels=found.labels)
        write_file(path, packed.getvalue())
    with np.load(path) as stored:
        return Contexts(stored["images"], stored["labels"])
