"""Rendered windows of a run, and batches of their crops in which every class is equally frequent."""

from __future__ import annotations

import io
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from slidecascade.staging import make_folder, write_file
from slidecascade_render.liver.crops import CELL, HEPATOCYTE, Crops, Task, crops_of, random_tissue, resized
from slidecascade_training.nash.variation import varied
from slidecascade_training.prefetch import Batch

_SET_ASIDE: Final = 20  # windows for calibration, and as many for measurement
MOST_WINDOWS: Final = 4_000
_PER_CLASS: Final = 32  # maximum crops of a window


@dataclass(frozen=True, slots=True)
class Seeds:
    """The seed of a run, and its windows for training, calibration and measurement."""

    seed: int
    training: range
    calibration: range
    held_out: range

    @classmethod
    def of(cls, seed: int, windows: int) -> Seeds:
        first = seed * 10_000
        calibration, held_out = first + MOST_WINDOWS, first + MOST_WINDOWS + 1_000
        return cls(
            seed,
            range(first, first + windows),
            range(calibration, calibration + _SET_ASIDE),
            range(held_out, held_out + _SET_ASIDE),
        )

    @property
    def all(self) -> tuple[int, ...]:
        """All windows; those for measurement come first, so that an interrupted rendering has them."""
        return (*self.held_out, *self.calibration, *self.training)


def render_windows(seeds: Sequence[int], cache: Path, workers: int) -> None:
    """Fill the cache with the crops of both classifiers."""
    make_folder(cache)
    # spawn: forking a multithreaded process can deadlock.
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=fresh) as pool:
        for count, _ in enumerate(pool.map(partial(_render_window, cache), seeds, chunksize=4), start=1):
            if count % 50 == 0:
                sys.stdout.write(f"{count} of {len(seeds)} windows rendered\n")


def _render_window(cache: Path, seed: int) -> None:
    rendered_crops(HEPATOCYTE, seed, cache)


def rendered_crops(task: Task, seed: int, cache: Path) -> Crops:
    """The crops of one random window, from the cache if present; both tasks share the rendering."""
    path = cache / f"{task.name}-{seed}.npz"
    if not path.exists():
        tissue = random_tissue(seed)
        for each in (CELL, HEPATOCYTE):
            crops = crops_of(tissue, each, seed, at_most_per_class=_PER_CLASS)
            packed = io.BytesIO()
            np.savez(packed, images=crops.images, labels=crops.labels)
            write_file(cache / f"{each.name}-{seed}.npz", packed.getvalue())
    with np.load(path) as stored:
        return Crops(stored["images"], stored["labels"])


def gathered(task: Task, seeds: Sequence[int], cache: Path) -> Crops:
    """All crops of the windows, as they were cut."""
    parts = [part for seed in seeds if (part := rendered_crops(task, seed, cache)).labels.size]
    images = np.concatenate([part.images for part in parts])
    return Crops(images, np.concatenate([part.labels for part in parts]))


def as_served(task: Task, crops: Crops) -> Crops:
    """At the network's input size."""
    return Crops(resized(crops.images, task.input_px), crops.labels)


@dataclass(frozen=True, slots=True)
class BalancedDraw:
    """Batches of augmented crops by step, classes equally likely, with one-hot targets."""

    task: Task
    crops: Crops
    size: int
    seed: int
    _members: tuple[npt.NDArray[np.intp], ...] = field(init=False)

    def __post_init__(self) -> None:
        members = tuple(np.flatnonzero(self.crops.labels == index) for index in range(len(self.task.classes)))
        object.__setattr__(self, "_members", members)

    def __call__(self, step: int) -> Batch:
        generator = np.random.default_rng([self.seed, step])
        classes = len(self._members)
        kinds = generator.integers(classes, size=self.size)
        rows = np.array([generator.choice(self._members[kind]) for kind in kinds])
        images = varied(self.crops.images[rows], self.task.input_px, generator)
        return Batch(np.asarray(images, np.float32), np.eye(classes, dtype=np.float32)[kinds])
