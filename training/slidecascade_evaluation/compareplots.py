"""Plots of a comparison: AP over IoU, and the ranking with its intervals, a panel for each set of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from slidecascade.errors import MissingExtraError
from slidecascade_evaluation.comparison import CONFIDENCE, MEASURES, Comparison
from slidecascade_evaluation.matching import MEAN_AP_THRESHOLDS

# Before `plots`, which names another remedy.
try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError.of("matplotlib", "train", "for `slidecascade compare`") from error

from slidecascade_evaluation.plots import cycle, image_grid, png

_SHOWN: Final = 3
"""Worst images of each pipeline and set."""


def draw(comparisons: Sequence[Comparison]) -> Mapping[str, bytes]:
    """PNG files by name."""
    return {"ranking.png": _ranking(comparisons), "ap_over_iou.png": _ap_over_iou(comparisons)}


def draw_worst(comparisons: Sequence[Comparison]) -> Mapping[str, bytes]:
    """A PNG by title for each set and pipeline."""
    return {
        f"{item.name}: {entry.pipeline}": image_grid(entry.worst[:_SHOWN], f"{item.name}: {entry.pipeline}")
        for item in comparisons
        for entry in item.entries
    }


def _colors(comparisons: Sequence[Comparison]) -> Mapping[str, str]:
    names = [entry.pipeline for entry in comparisons[0].entries]
    return dict(zip(names, cycle(len(names)), strict=True))


def _ranking(comparisons: Sequence[Comparison]) -> bytes:
    colors = _colors(comparisons)
    height = 1.6 + 0.45 * len(colors)
    figure = Figure(figsize=(6.5 * len(comparisons), height), layout="constrained")
    panels = figure.subplots(1, len(comparisons), squeeze=False)[0]
    for axes, item in zip(panels, comparisons, strict=True):
        ranking = item.ranking()
        for place, ranked in enumerate(ranking):
            spread = [[ranked.value - ranked.low], [ranked.high - ranked.value]]
            color = colors[ranked.entry.pipeline]
            axes.errorbar([ranked.value], [place], xerr=spread, fmt="o", color=color, capsize=4)
        axes.set_yticks(range(len(ranking)), [ranked.entry.pipeline for ranked in ranking])
        axes.invert_yaxis()
        axes.margins(y=0.2)
        axes.set(xlabel=f"{MEASURES[item.measure]}, mean of images, {CONFIDENCE:.0%} interval", title=_title(item))
        axes.grid(alpha=0.3, axis="x")
    return png(figure)


def _ap_over_iou(comparisons: Sequence[Comparison]) -> bytes:
    colors = _colors(comparisons)
    figure = Figure(figsize=(6.5 * len(comparisons), 4.5), layout="constrained")
    panels = figure.subplots(1, len(comparisons), squeeze=False, sharey=True)[0]
    for axes, item in zip(panels, comparisons, strict=True):
        for entry in item.entries:
            axes.plot(
                MEAN_AP_THRESHOLDS, entry.mean.ap, marker="o", color=colors[entry.pipeline], label=entry.pipeline
            )
        axes.set(xlabel="IoU threshold of a match", xlim=(0.48, 0.97), ylim=(0, 1), title=_title(item))
        axes.set_xticks(MEAN_AP_THRESHOLDS)
        axes.grid(alpha=0.3)
        axes.legend()
    panels[0].set_ylabel("AP = TP / (TP + FN + FP), mean of images")
    return png(figure)


def _title(item: Comparison) -> str:
    return f"{item.name}: {item.images} {'synthetic' if item.is_synthetic else 'real'} images"
