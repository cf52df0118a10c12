"""Plots of an evaluation of patches: ROC, precision and recall, FROC, and each slide's map beside its truth."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from slidecascade.errors import MissingExtraError
from slidecascade_evaluation.curves import FALSE_POSITIVES
from slidecascade_evaluation.patches import PatchesTrial, SlideTrial

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError.of("matplotlib", "train", "for plots (or use --json instead of --out)") from error

_BLUE, _ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito
_SQUARE: Final = (5.2, 5.0)


def draw(trial: PatchesTrial) -> Mapping[str, bytes]:
    """PNG files by name."""
    files = {"roc.png": _roc(trial), "precision_recall.png": _precision(trial), "froc.png": _froc(trial)}
    return files | {f"slide-{slide.name}.png": _beside(slide, trial.class_name) for slide in trial.slides}


def _roc(trial: PatchesTrial) -> bytes:
    figure = Figure(figsize=_SQUARE, layout="constrained")
    axes = figure.subplots()
    curves = (("tissue", trial.tissue, _BLUE), ("all points", trial.everywhere, _ORANGE))
    for name, curve, color in curves:
        x, y = np.append(0, curve.false_positive_rate), np.append(0, curve.sensitivity)
        axes.plot(x, y, color=color, label=f"{name}: AUC {curve.roc_auc:.4f}")
    axes.plot((0, 1), (0, 1), color="0.7", linewidth=1)
    axes.set(xlabel="false positive rate", ylabel="sensitivity", title=trial.pipeline, xlim=(0, 1), ylim=(0, 1.01))
    axes.legend(loc="lower right")
    return _png(figure)


def _precision(trial: PatchesTrial) -> bytes:
    figure = Figure(figsize=_SQUARE, layout="constrained")
    axes = figure.subplots()
    curve = trial.tissue
    axes.step(curve.sensitivity, curve.precision, where="pre", color=_BLUE)
    title = f"{trial.pipeline}: average precision {curve.average_precision:.4f} over tissue"
    axes.set(xlabel="recall", ylabel="precision", title=title, xlim=(0, 1), ylim=(0, 1.01))
    return _png(figure)


def _froc(trial: PatchesTrial) -> bytes:
    figure = Figure(figsize=_SQUARE, layout="constrained")
    axes = figure.subplots()
    axes.plot(trial.froc.false_positives, trial.froc.sensitivity, color=_BLUE)
    axes.plot(FALSE_POSITIVES, [trial.froc.at(number) for number in FALSE_POSITIVES], "o", color=_ORANGE)
    axes.set(xlabel="false positives per slide", ylabel="lesions found", ylim=(0, 1.01), xlim=(0, None))
    axes.set_title(f"{trial.pipeline}: {trial.froc.lesions} lesions")
    return _png(figure)


def _beside(slide: SlideTrial, class_name: str) -> bytes:
    """The slide, its map in jet, and its truth."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.imshow(slide.overview)
    left.set_title(slide.name)
    shown = middle.imshow(slide.probabilities, cmap="jet", vmin=0, vmax=1, interpolation="nearest")
    middle.set_title(f"probability of {class_name}")
    figure.colorbar(shown, ax=middle, shrink=0.8)
    right.imshow(slide.truth, cmap="jet", vmin=0, vmax=1, interpolation="nearest")
    right.set_title("mask: squares that hold any")
    for axes in (left, middle, right):
        axes.set(xticks=[], yticks=[])
    return _png(figure)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
