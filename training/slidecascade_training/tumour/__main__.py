"""Train and package the classifier of the `tumor-heatmap` pipeline on rendered lymph nodes.

`python -m slidecascade_training.tumour --out DIR --seed S --package MODELS_DIR`

The numbers of windows and steps are fixed, so a seed gives the same contexts and batches on any machine. An
interrupted run resumes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from slidecascade_training import packages
from slidecascade_training.backend import prepare_keras
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
from slidecascade_training.tumour.contexts import INPUT_PX, MOST_WINDOWS, TUMOUR, Windows, gathered
from slidecascade_training.tumour.package import package


def run(out: Path, windows: Windows, *, steps: int, models_dir: Path | None) -> Result:
    """Train the classifier, calibrate and convert it, measure the converted graph, and optionally package it."""
    cache, recipe = out / "contexts", recipe_of(TUMOUR)
    settings = NashSettings(
        recipe=TUMOUR.name, seed=windows.seed, windows=len(windows.training), steps=steps, batch=recipe.batch
    )
    crops = gathered(windows.training, cache, fine=False)
    sys.stdout.write(f"{len(crops.labels)} contexts, {crops.labels.mean():.0%} with tumour\n")
    model, history = train(TUMOUR, crops, out / TUMOUR.name, settings)
    held_out = gathered(windows.held_out, cache, fine=True)
    before = predictions(model, recipe.pixels, held_out)
    calibration_fit = fit_calibration(model, recipe.pixels, gathered(windows.calibration, cache, fine=True))
    exported = packages.export_classifier(model, recipe.pixels, input_px=INPUT_PX)
    result = measured(
        TUMOUR,
        served_predictions(exported.graph, held_out),
        before,
        held_out.labels,
        calibration_fit=calibration_fit,
        settings=settings,
        minutes=sum(epoch.seconds for epoch in history.epochs) / 60,
    )
    sys.stdout.write(f"{TUMOUR.name}: {result}\n")
    if models_dir is not None:
        package(models_dir, exported, result, windows)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and package the classifier of the tumor-heatmap pipeline on rendered lymph nodes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="checkpoints and rendered contexts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--windows", type=int, default=300, help="rendered windows to train on")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--package", type=Path, default=None, metavar="MODELS_DIR")
    given = parser.parse_args(arguments)
    if not 1 <= given.windows <= MOST_WINDOWS:
        parser.error(f"--windows must be between 1 and {MOST_WINDOWS}")
    prepare_keras()
    run(given.out, Windows.of(given.seed, given.windows), steps=given.steps, models_dir=given.package)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
