"""Plots of a trial: AP over IoU, distribution of AP at 0.5 over images, and the worst images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade.errors import MissingExtraError
from slidecascade_evaluation.matching import MEAN_AP_THRESHOLDS, Labels
from slidecascade_evaluation.trial import Look, Trial

try:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise MissingExtraError.of("matplotlib", "train", "for plots (or use --json instead of --out)") from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Palette of Okabe and Ito, distinguishable with colour blindness.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_ALL_COLOR = "black"
_TRUTH_RGB, _PREDICTED_RGB = (0, 158, 115), (213, 94, 0)
_BIN_COUNT = 20
_LOOK_SIDE_PX = 900
"""Images are enlarged by an integer factor up to about this side."""


def draw(trial: Trial) -> Mapping[str, bytes]:
    """PNG files by name."""
    return {
        "ap_over_iou.png": ap_over_iou(trial),
        "ap50_by_image.png": ap50_by_image(trial),
        "worst.png": worst(trial),
    }


def ap_over_iou(trial: Trial) -> bytes:
    """A line per kind of image, and one for all."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for (kind, group), color in zip(trial.kinds.items(), cycle(len(trial.kinds)), strict=True):
        label = f"{kind} ({len(group.results)})"
        axes.plot(MEAN_AP_THRESHOLDS, group.mean.ap, marker="o", color=color, label=label)
    whole = f"all ({len(trial.whole.results)})"
    axes.plot(MEAN_AP_THRESHOLDS, trial.whole.mean.ap, marker="o", color=_ALL_COLOR, label=whole, linewidth=2.5)
    axes.set(xlabel="IoU threshold of a match", ylabel="AP = TP / (TP + FN + FP), mean of images")
    axes.set(xlim=(0.48, 0.97), ylim=(0, 1), title=f"{trial.pipeline}: mean AP {trial.whole.mean.map:.3f}")
    axes.set_xticks(MEAN_AP_THRESHOLDS)
    axes.grid(alpha=0.3)
    axes.legend(title="kind (images)")
    return png(figure)


def ap50_by_image(trial: Trial) -> bytes:
    """Histogram of AP at IoU 0.5 over images, stacked by kind."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    groups = trial.kinds or {"all": trial.whole}
    values = [[result.tally.figures.ap50 for result in group.results] for group in groups.values()]
    bins = np.linspace(0, 1, _BIN_COUNT + 1)
    axes.hist(values, bins=bins.tolist(), stacked=True, color=cycle(len(groups)), label=list(groups))
    mean = trial.whole.mean.ap50
    axes.axvline(mean, color=_ALL_COLOR, linestyle="--", label=f"mean {mean:.3f}")
    axes.set(xlabel="AP at IoU 0.5", ylabel="images", xlim=(0, 1), title=f"{trial.pipeline}: AP50 image by image")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return png(figure)


def worst(trial: Trial) -> bytes:
    """The worst images with the outlines of true and predicted cells."""
    return image_grid(trial.worst, trial.pipeline)


def image_grid(looks: Sequence[Look], title: str) -> bytes:
    """At least one image with the outlines of true and predicted cells."""
    columns = min(3, len(looks))
    rows = -(-len(looks) // columns)
    figure = Figure(figsize=(5 * columns, 5.4 * rows + 0.5), layout="constrained")
    places = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axes in places:
        axes.axis("off")
    for axes, look in zip(places, looks, strict=False):
        _show(axes, look)
    figure.suptitle(f"{title}: lowest AP at IoU 0.5; truth in green, predicted in orange")
    return png(figure)


def _show(axes: Axes, look: Look) -> None:
    tally = look.result.tally
    kind = f", {look.result.kind}" if look.result.kind else ""
    axes.imshow(outlined(look.image, look.truth, look.predicted), interpolation="nearest")
    axes.set_title(
        f"{look.result.stem}{kind}\n"
        f"AP50 {tally.figures.ap50:.2f}, {tally.truth} true, {tally.predicted} predicted",
        fontsize=9,
    )


def outlined(image: npt.NDArray[np.uint8], truth: Labels, predicted: Labels) -> npt.NDArray[np.uint8]:
    """The image ``(H, W, 3)`` enlarged, its grey levels stretched to 0 to 255, with both outlines.

    Outlines lie inside the cells, so that those of touching cells do not overlap.
    """
    factor = max(1, _LOOK_SIDE_PX // max(image.shape[:2]))
    stretched = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    large = (image.shape[1] * factor, image.shape[0] * factor)
    canvas: npt.NDArray[np.uint8] = cv2.resize(stretched, large, interpolation=cv2.INTER_NEAREST)
    for labels, color in ((truth, _TRUTH_RGB), (predicted, _PREDICTED_RGB)):
        canvas[_rims(cv2.resize(labels, large, interpolation=cv2.INTER_NEAREST))] = color
    return canvas


def _rims(labels: Labels) -> npt.NDArray[np.bool_]:
    """Pixels of a cell that have another cell or background within two pixels."""
    exact = labels.astype(np.float32)  # morphology needs float32, exact below 2**24
    square = np.ones((5, 5), np.uint8)
    rims: npt.NDArray[np.bool_] = (labels > 0) & (cv2.erode(exact, square) != cv2.dilate(exact, square))
    return rims


def cycle(count: int) -> list[str]:
    """Colors that are distinguishable with colour blindness."""
    return [_COLORS[number % len(_COLORS)] for number in range(count)]


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
