"""The report of a run: ``report/report.json`` and plots."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from slidecascade.staging import make_folder, write_file
from slidecascade_training.checkpoint import History
from slidecascade_training.datasets.folder import Example
from slidecascade_training.datasets.split import TRAIN, VALIDATE, Split
from slidecascade_training.prefetch import prefetched
from slidecascade_training.recipes import areas, cells, plots
from slidecascade_training.recipes.figures import Figures, figures_of, worst_mistakes
from slidecascade_training.recipes.run import SCORES, drawing
from slidecascade_training.recipes.samples import ExampleBatches, TrainingSet, area_map
from slidecascade_training.recipes.settings import RunSettings
from slidecascade_training.recipes.table import Recipe

_MISTAKES: Final = 24
_TILES: Final = 4


@dataclass(frozen=True, slots=True)
class Report:
    """Metrics to print, measured on `measured_on`: the training split if there is no validation split."""

    measured_on: Split
    figures: dict[str, float]


def write_report(
    model: Any, data: TrainingSet, recipe: Recipe, settings: RunSettings, history: History, folder: Path
) -> Report:
    """Measure `model` and write the folder `folder`.

    Raises:
        UnwritableOutputError: a full disk.
    """
    measured_on = VALIDATE if data.validate else TRAIN
    examples = data.validate or data.train
    make_folder(folder)
    predictions = _predict(model, data, recipe, settings, examples)
    plots.draw_curves(folder / "curves.png", history, SCORES[recipe.task])
    if recipe.task == "classify":
        detail = _classifier(predictions, data, examples, folder)
    else:
        detail = _segmenter(predictions, data, examples, folder, recipe)
    report = {
        "settings": asdict(settings),
        "epochs": [asdict(epoch) for epoch in history.epochs],
        "best_epoch": history.best,
        "measured_on": measured_on,
        "examples": len(examples),
        **detail,
    }
    text = json.dumps(without_nan(report), indent=2, ensure_ascii=False)
    write_file(folder / "report.json", text.encode() + b"\n")
    return Report(measured_on, detail["figures"])


def _predict(
    model: Any, data: TrainingSet, recipe: Recipe, settings: RunSettings, examples: tuple[Example, ...]
) -> npt.NDArray[np.float32]:
    """The model's outputs for `examples`, in order."""
    draw = drawing(data, recipe, weighted=False)
    asked = ExampleBatches(examples, draw, settings.batch, None)
    with prefetched(asked, stop=len(asked)) as drawn:
        inputs = (recipe.pixels.of(drawn(index).images) for index in range(len(asked)))
        return np.concatenate([np.asarray(model.predict_on_batch(images)) for images in inputs])


def _classifier(
    probabilities: npt.NDArray[np.float32], data: TrainingSet, examples: tuple[Example, ...], folder: Path
) -> dict[str, Any]:
    truth, names = data.class_numbers(examples), data.spec.class_names
    figures = figures_of(probabilities, truth, names)
    plots.draw_confusion(folder / "confusion.png", figures)
    plots.draw_roc(folder / "roc.png", figures, probabilities, truth)
    plots.draw_calibration(folder / "calibration.png", figures.calibration)
    rows = worst_mistakes(probabilities, truth, _MISTAKES)
    predictions = np.argmax(probabilities, axis=1)
    mistakes = [
        plots.Mistake(
            data.image(examples[row], data.spec.size_px),
            names[truth[row]],
            names[predictions[row]],
            float(probabilities[row, predictions[row]]),
        )
        for row in rows.tolist()
    ]
    plots.draw_mistakes(folder / "mistakes.png", mistakes)
    files = [examples[row].file for row in rows.tolist()]
    return {
        "figures": headline(figures),
        "classes": [asdict(item) for item in figures.classes],
        "confusion": {"classes": names, "rows_truth_columns_answer": figures.confusion.tolist()},
        "worst_mistakes": [
            {"file": file, "truth": item.truth, "answer": item.answer, "probability": round(item.probability, 4)}
            for file, item in zip(files, mistakes, strict=True)
        ],
    }


def headline(figures: Figures) -> dict[str, float]:
    """A classifier's figures in short."""
    return {
        "balanced_accuracy": figures.balanced_accuracy,
        "accuracy": figures.accuracy,
        "roc_auc": figures.auc,
        "calibration_error": figures.calibration.error,
    }


def _segmenter(
    maps: npt.NDArray[np.float32],
    data: TrainingSet,
    examples: tuple[Example, ...],
    folder: Path,
    recipe: Recipe,
) -> dict[str, Any]:
    as_served = [np.rint(255 * item).astype(np.uint8) for item in maps]
    pictures = [
        (data.image(example, data.spec.size_px), area_map(data.labels(example))[..., 0], found[..., 0])
        for example, found in zip(examples[:_TILES], as_served, strict=False)
    ]
    plots.draw_tiles(folder / "tiles.png", pictures)
    if recipe.finds_areas:
        return areas.describe(data, examples, as_served, folder)
    tried = (
        cells.Tried(
            example.file,
            data.image(example, data.spec.size_px),
            data.labels(example),
            cells.decoded(found, data.spec.mpp),
        )
        for example, found in zip(examples, as_served, strict=True)
    )
    return cells.describe(tried, folder, data.spec.name)


def without_nan(value: Any) -> Any:
    """JSON has no NaN, so undefined metrics are null."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
