"""Train and package the classifiers of the `nash` pipeline on rendered tissue.

`python -m slidecascade_training.nash --out DIR --seed S --package MODELS_DIR`

The numbers of windows and steps are fixed, so a seed gives the same crops and batches on any machine. An
interrupted run resumes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from slidecascade_render.liver.crops import CELL, HEPATOCYTE, Task
from slidecascade_training import packages
from slidecascade_training.backend import prepare_keras
from slidecascade_training.nash.crops import MOST_WINDOWS, Seeds, as_served, gathered, render_windows
from slidecascade_training.nash.package import package
from slidecascade_training.nash.recipe import (
    NashSettings,
    Result,
    fit_calibration,
    measured,
    predictions,
    recipe_of,
    served_predictions,
    train,
)


def run(task: Task, out: Path, seeds: Seeds, *, steps: int, models_dir: Path | None) -> Result:
    """Train one classifier, calibrate and convert it, measure the converted graph, and optionally package it."""
    cache, recipe = out / "crops", recipe_of(task)
    settings = NashSettings(
        recipe=task.name, seed=seeds.seed, windows=len(seeds.training), steps=steps, batch=recipe.batch
    )
    model, history = train(task, gathered(task, seeds.training, cache), out / task.name, settings)
    held_out = as_served(task, gathered(task, seeds.held_out, cache))
    before = predictions(model, recipe.pixels, held_out)
    calibration_fit = fit_calibration(
        model, recipe.pixels, as_served(task, gathered(task, seeds.calibration, cache))
    )
    exported = packages.export_classifier(model, recipe.pixels, input_px=task.input_px)
    result = measured(
        task,
        served_predictions(exported.graph, held_out),
        before,
        held_out.labels,
        calibration_fit=calibration_fit,
        settings=settings,
        minutes=sum(epoch.seconds for epoch in history.epochs) / 60,
    )
    sys.stdout.write(f"{task.name}: {result}\n")
    if models_dir is not None:
        package(models_dir, task, exported, result, seeds)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and package the two classifiers of the nash pipeline on rendered tissue."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="checkpoints and rendered crops")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--windows", type=int, default=100, help="rendered windows to train on")
    parser.add_argument("--steps", type=int, default=800, help="steps of each network")
    parser.add_argument("--workers", type=int, default=2, help="processes that render")
    parser.add_argument("--only", choices=[CELL.name, HEPATOCYTE.name], default=None)
    parser.add_argument("--package", type=Path, default=None, metavar="MODELS_DIR")
    given = parser.parse_args(arguments)
    if not 1 <= given.windows <= MOST_WINDOWS:
        parser.error(f"--windows must be between 1 and {MOST_WINDOWS}")
    prepare_keras()
    seeds = Seeds.of(given.seed, given.windows)
    render_windows(seeds.all, given.out / "crops", given.workers)
    for task in (CELL, HEPATOCYTE):
        if given.only in (None, task.name):
            run(task, given.out, seeds, steps=given.steps, models_dir=given.package)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
