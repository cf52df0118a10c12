"""Evaluates a pipeline of patches on slides with masks: each slide as a whole, each square a point."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.analysis.flow import Progress, say_nothing
from slidecascade.analysis.plan import RegionTask
from slidecascade.cancellation import Control
from slidecascade.errors import InvalidRequestError
from slidecascade.geometry import Box, Size
from slidecascade.patches.result import PatchesResult
from slidecascade.slides.slide import can_open
from slidecascade_evaluation.curves import FALSE_POSITIVES, Bools, Curve, Froc
from slidecascade_evaluation.lattice import MaskedSlide, find_masked, positive_squares

_OVERVIEW_PX: Final = 900


@dataclass(frozen=True, slots=True)
class SlideTrial:
    """A slide's map and truth, ``(rows, columns)`` each; NaN off tissue."""

    name: str
    probabilities: npt.NDArray[np.float32]
    truth: Bools
    overview: npt.NDArray[np.uint8]

    @property
    def is_seen(self) -> Bools:
        return ~np.isnan(self.probabilities)

    def curve(self, *, tissue_only: bool) -> Curve:
        """Over the squares that hold tissue; or over all, where the others count as probability 0."""
        if tissue_only:
            return Curve.of(self.truth[self.is_seen], self.probabilities[self.is_seen])
        return Curve.of(self.truth.ravel(), np.nan_to_num(self.probabilities).ravel())


@dataclass(frozen=True, slots=True)
class PatchesTrial:
    """The slides of an evaluation and their common curves."""

    pipeline: str
    class_name: str
    slides: tuple[SlideTrial, ...]
    tissue: Curve
    everywhere: Curve
    froc: Froc


def run_patches(
    analyser: Analyser,
    pipeline: str,
    data: Path,
    *,
    mpp: float | None,
    above: int = 0,
    polygons: str | None = None,
    progress: Progress = say_nothing,
) -> PatchesTrial:
    """Run `pipeline` on every slide of the folder `data` and compare its first outlined class with the masks.

    Args:
        above: grey level above which a mask is positive.
        polygons: class of the polygons that count where there are polygons in place of a mask; default: all.

    Raises:
        UnusableDataError: slides without masks, masks of another size.
        InvalidRequestError: no slide has tissue. Others: see `Analyser.analyse`.
    """
    slides, class_name = [], ""
    found = find_masked(data)
    for done, item in enumerate(found, start=1):
        result, trial = _slide(analyser, pipeline, item, mpp=mpp, above=above, polygons=polygons)
        class_name = result.classes.ends[0].name
        slides.append(trial)
        progress(done, len(found))
    if not any(slide.is_seen.any() for slide in slides):
        raise InvalidRequestError(f"No slide of {data} holds tissue: check --mpp and the slides.")
    seen = [slide.is_seen for slide in slides]
    tissue = Curve.of(
        np.concatenate([slide.truth[mask] for slide, mask in zip(slides, seen, strict=True)]),
        np.concatenate([slide.probabilities[mask] for slide, mask in zip(slides, seen, strict=True)]),
    )
    everywhere = Curve.of(
        np.concatenate([slide.truth.ravel() for slide in slides]),
        np.concatenate([np.nan_to_num(slide.probabilities).ravel() for slide in slides]),
    )
    froc = Froc.of([slide.truth for slide in slides], [slide.probabilities for slide in slides])
    return PatchesTrial(pipeline, class_name, tuple(slides), tissue, everywhere, froc)


def _slide(
    analyser: Analyser,
    pipeline: str,
    item: MaskedSlide,
    *,
    mpp: float | None,
    above: int,
    polygons: str | None,
) -> tuple[PatchesResult, SlideTrial]:
    fields: dict[str, Any] = {"pipeline": pipeline, "mpp": mpp}
    is_slide = can_open(item.path)
    request = wire.parse_request(fields | ({"slide": item.name} if is_slide else {}))
    task = analyser.prepare(request, None if is_slide else item.path.read_bytes(), Control(), is_bounded=False)
    report = analyser.run(task, Control())
    result = report.analysis
    if not isinstance(result, PatchesResult):
        raise InvalidRequestError(f"{pipeline!r} is of the kind {result.kind}, and masks are for patches.")
    side_l0 = result.stride_px * result.grid.downsample
    rows, columns = result.probabilities.shape[:2]
    truth = positive_squares(
        item.mask,
        Size(task.region_l0.width, task.region_l0.height),
        [(result.first[0] + step) * side_l0 for step in range(columns + 1)],
        [(result.first[1] + step) * side_l0 for step in range(rows + 1)],
        above=above,
        class_name=polygons,
        bounds_l0=_bounds_l0(task),
    )
    probabilities = result.probabilities[:, :, result.shown[0]]
    return result, SlideTrial(item.name, probabilities, truth, report.overview(_OVERVIEW_PX)[0])


def _bounds_l0(task: RegionTask) -> Box | None:
    with task.open_source() as source:
        return source.bounds_l0


def document(trial: PatchesTrial) -> dict[str, Any]:
    """The evaluation as JSON; figures that do not exist are null."""
    return {
        "pipeline": trial.pipeline,
        "class": trial.class_name,
        "tissue_points": _figures(trial.tissue),
        "all_points": _figures(trial.everywhere),
        "lesions": trial.froc.lesions,
        "sensitivity_at_false_positives_per_slide": {
            f"{number:g}": _number(trial.froc.at(number)) for number in FALSE_POSITIVES
        },
        "froc_score": _number(trial.froc.score),
        "slides": [
            {
                "name": slide.name,
                "tissue_points": _figures(slide.curve(tissue_only=True)),
                "all_points": _figures(slide.curve(tissue_only=False)),
            }
            for slide in trial.slides
        ],
        "research_use_only": wire.RESEARCH_USE_ONLY,
    }


def _figures(curve: Curve) -> dict[str, float | int | None]:
    return {
        "points": curve.positives + curve.negatives,
        "positives": curve.positives,
        "roc_auc": _number(curve.roc_auc),
        "average_precision": _number(curve.average_precision),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def table(trial: PatchesTrial) -> str:
    """The evaluation as text."""
    lines = [f"{trial.pipeline}: {trial.class_name} on {len(trial.slides)} slides with masks", ""]
    lines.append(f"{'':34}{'points':>9}{'positive':>10}{'ROC AUC':>9}{'AP':>8}")
    rows = {"tissue": trial.tissue, "all points (off tissue as 0)": trial.everywhere}
    rows |= {slide.name[:32]: slide.curve(tissue_only=True) for slide in trial.slides}
    for name, curve in rows.items():
        figures = _figures(curve)
        lines.append(
            f"{name:34}{figures['points']:>9}{figures['positives']:>10}"
            f"{_shown(figures['roc_auc']):>9}{_shown(figures['average_precision']):>8}"
        )
    at = ", ".join(f"{trial.froc.at(number):.3f} at {number:g}" for number in FALSE_POSITIVES)
    found = f"found at false positives per slide: {at}" if trial.froc.lesions else "no square is positive"
    lines += ["", f"{trial.froc.lesions} lesions; {found}"]
    return "\n".join((*lines, wire.RESEARCH_USE_ONLY)) + "\n"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def plots(trial: PatchesTrial) -> Mapping[str, bytes]:
    """PNG files by name; raises MissingExtraError without matplotlib."""
    from slidecascade_evaluation import patchplots

    return patchplots.draw(trial)
