"""Plots of a run's report; does not open windows. The only module that uses matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from slidecascade.errors import MissingExtraError
from slidecascade.staging import write_file
from slidecascade_training.calibration import Calibration
from slidecascade_training.checkpoint import History
from slidecascade_training.recipes.figures import Figures, Labels, roc_curve

_DPI: Final = 110
_COLUMNS: Final = 6


@dataclass(frozen=True, slots=True)
class Mistake:
    """A misclassified crop."""

    image: npt.NDArray[np.uint8]
    truth: str
    answer: str
    probability: float


def require_matplotlib() -> None:
    """Check for matplotlib before hours of training.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: F401 - only checks the installation
    except ImportError as error:
        raise MissingExtraError.of("matplotlib", "train", "for `slidecascade train`") from error


def draw_curves(path: Path, history: History, score: str) -> None:
    """Loss and score by epoch; `score` is the name of the score."""
    figure, (losses, scores) = _figure(1, 2, width=10, height=4)
    epochs = np.arange(1, len(history.epochs) + 1)
    for axes, name, label in ((losses, "loss", "loss"), (scores, "score", score)):
        axes.plot(epochs, [getattr(epoch, name) for epoch in history.epochs], label="training")
        validated = [getattr(epoch, f"val_{name}") for epoch in history.epochs]
        if validated and validated[0] is not None:
            axes.plot(epochs, validated, label="validation")
        axes.axvline(history.best, color="grey", linestyle=":", label=f"kept: epoch {history.best}")
        axes.set(xlabel="epoch", ylabel=label)
        axes.legend()
    _save(figure, path)


def draw_losses(path: Path, losses: Sequence[tuple[int, float]]) -> None:
    """Loss by step, of a run without epochs."""
    figure, axes = _figure(1, 1, width=7, height=4)
    axes.plot([step for step, _ in losses], [loss for _, loss in losses], marker=".", label="training")
    axes.set(xlabel="step", ylabel="loss", title="mean since the point before")
    axes.legend()
    _save(figure, path)


def draw_confusion(path: Path, figures: Figures) -> None:
    """Rows are the truth; the shade is the share of the row."""
    names = [item.name for item in figures.classes]
    side = 3 + 0.6 * len(names)
    figure, axes = _figure(1, 1, width=side + 1, height=side)
    shares = figures.confusion / np.maximum(figures.confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="answer", ylabel="truth")
    for (row, column), value in np.ndenumerate(figures.confusion):
        axes.text(
            column,
            row,
            str(value),
            ha="center",
            va="center",
            color="white" if shares[row, column] > 0.5 else "black",
        )
    _save(figure, path)


def draw_roc(path: Path, figures: Figures, probabilities: npt.NDArray[np.float32], truth: Labels) -> None:
    """One curve per class, against the rest."""
    figure, axes = _figure(1, 1, width=5.5, height=5)
    for index, item in enumerate(figures.classes):
        if not np.isnan(item.auc):
            false, true = roc_curve(probabilities[:, index], truth == index)
            axes.plot(false, true, label=f"{item.name} ({item.auc:.3f})")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    axes.legend(title="area under the curve")
    _save(figure, path)


def draw_calibration(path: Path, calibration: Calibration) -> None:
    """Fraction of correct predictions by probability."""
    figure, axes = _figure(1, 1, width=5.5, height=5)
    filled = calibration.counts > 0
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    sizes = 20 + 200 * calibration.counts[filled] / calibration.counts.sum()
    axes.scatter(calibration.confidence[filled], calibration.accuracy[filled], s=sizes)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="probability of the answer", ylabel="share that was right")
    axes.set_title(f"expected calibration error {calibration.error:.3f}")
    _save(figure, path)


def draw_mistakes(path: Path, mistakes: Sequence[Mistake]) -> None:
    """The worst mistakes, the most certain first."""
    rows = max(1, -(-len(mistakes) // _COLUMNS))
    figure, grid = _figure(rows, _COLUMNS, width=2 * _COLUMNS, height=2.4 * rows)
    for axes in np.ravel(grid):
        axes.axis("off")
    for axes, mistake in zip(np.ravel(grid), mistakes, strict=False):
        axes.imshow(mistake.image)
        axes.set_title(f"{mistake.truth}\n→ {mistake.answer} {mistake.probability:.2f}", fontsize=8)
    _save(figure, path)


def draw_tiles(path: Path, examples: Sequence[tuple[npt.NDArray[Any], ...]]) -> None:
    """Tiles with true and predicted foreground."""
    figure, grid = _figure(max(1, len(examples)), 3, width=9, height=3 * max(1, len(examples)))
    for row, pictures in zip(np.reshape(grid, (-1, 3)), examples, strict=False):
        for axes, picture, title in zip(row, pictures, ("tile", "asked for", "found"), strict=True):
            axes.axis("off")
            axes.imshow(picture, cmap=None if picture.ndim == 3 else "gray", vmin=0, vmax=255)
            axes.set_title(title, fontsize=8)
    _save(figure, path)


def draw_rates(path: Path, rates: npt.NDArray[np.float64], losses: npt.NDArray[np.float64], advice: float) -> None:
    """The learning-rate range test."""
    figure, axes = _figure(1, 1, width=7, height=4)
    axes.semilogx(rates, losses)
    axes.axvline(advice, color="grey", linestyle=":", label=f"--rate {advice:.1e}")
    axes.set(xlabel="learning rate", ylabel="smoothed loss")
    axes.legend()
    _save(figure, path)


def _figure(rows: int, columns: int, *, width: float, height: float) -> tuple[Any, Any]:
    """A figure without pyplot: nothing global, no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)


def _save(figure: Any, path: Path) -> None:
    coded = io.BytesIO()
    figure.savefig(coded, format="png", dpi=_DPI)
    write_file(path, coded.getvalue())
