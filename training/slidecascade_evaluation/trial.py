"""Runs a pipeline on images with ground truth, each analysed as an upload."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.analysis.flow import Progress, say_nothing
from slidecascade.cancellation import Control
from slidecascade.cells.result import Analysis
from slidecascade.errors import InvalidRequestError, RegionTooLargeError, UndecodableImageError
from slidecascade.kinds.result import UsedModel
from slidecascade.pipelines.classes import lineage
from slidecascade_evaluation.matching import Labels, overlap_of
from slidecascade_evaluation.rasters import labels_from_outlines
from slidecascade_evaluation.scores import ClassTally, Figures, Tally, class_tally, pooled, tally_of
from slidecascade_evaluation.truth import Specimen, Truth

KEPT = 6
"""Number of worst images kept for display."""


@dataclass(frozen=True)
class ImageResult:
    """The result of one image."""

    stem: str
    kind: str | None
    tally: Tally
    classes: Mapping[str, ClassTally]


@dataclass(frozen=True)
class Look:
    """An image ``(H, W, 3)`` uint8 RGB with its true and predicted labels ``(H, W)``."""

    result: ImageResult
    image: npt.NDArray[np.uint8]
    truth: Labels
    predicted: Labels


@dataclass(frozen=True)
class Group:
    """Results of images reported together."""

    results: Sequence[ImageResult]

    @property
    def mean(self) -> Figures:
        return Figures.mean([result.tally.figures for result in self.results])

    @property
    def tally(self) -> Tally:
        return pooled([result.tally for result in self.results])

    @property
    def classes(self) -> dict[str, ClassTally]:
        """Tallies by class, for classes with true cells."""
        found: dict[str, ClassTally] = {}
        for result in self.results:
            for name, tally in result.classes.items():
                found[name] = found.get(name, ClassTally()) + tally
        return {name: tally for name, tally in sorted(found.items()) if tally.truth}


@dataclass(frozen=True)
class Trial:
    """A pipeline's results on a set of images.

    Attributes:
        mpp: assumed micrometres per pixel of the images; `own_mpp`: whether it is the segmenter's own.
        known_classes: classes of the pipeline and their parent classes.
        worst: images with the lowest AP at IoU 0.5, the worst first.
    """

    pipeline: str
    models: tuple[UsedModel, ...]
    thresholds: Mapping[str, float]
    mpp: float
    own_mpp: bool
    known_classes: frozenset[str]
    whole: Group
    worst: tuple[Look, ...]

    @property
    def kinds(self) -> dict[str, Group]:
        """Groups by kind of image, in order of first appearance; empty when the data names no kinds."""
        found: dict[str, list[ImageResult]] = {}
        for result in self.whole.results:
            if result.kind is not None:
                found.setdefault(result.kind, []).append(result)
        return {kind: Group(results) for kind, results in found.items()}


@dataclass(frozen=True, kw_only=True)
class Question:
    """The pipeline and its options, equal for every image.

    Attributes:
        mpp: of the images; None: the segmenter's own, without resampling.
        class_names: by the value in the truth, e.g. ``{"1": "Immune"}``; empty: values are class names.
        channels: the channel of the images for each of the network's; images may then have 16 bits.
    """

    pipeline: str
    mpp: float | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    class_names: Mapping[str, str] = field(default_factory=dict)
    channels: Mapping[str, int | str] = field(default_factory=dict)


def run_trial(
    analyser: Analyser, question: Question, specimens: Sequence[Specimen], *, progress: Progress = say_nothing
) -> Trial:
    """Analyse every image and compare; `progress(done, total)` is called after each.

    Raises:
        InvalidRequestError: when an image or its truth is unusable, or a class is unknown.
        SlideCascadeError: the analysis failed.
    """
    info = analyser.pipeline(question.pipeline)
    known_classes = _with_parents(item.name for item in info.classes)
    _require_known(question.class_names, known_classes)
    if info.segmenter is None or info.kind != "cells":
        raise InvalidRequestError(f"The pipeline {info.name!r} finds no cells: choose one of the kind cells.")
    own = analyser.model(info.segmenter).mpp
    request = wire.parse_request(
        {
            "pipeline": question.pipeline,
            "mpp": own if question.mpp is None else question.mpp,
            "thresholds": dict(question.thresholds),
            "channels": dict(question.channels),
        }
    )
    results: list[ImageResult] = []
    worst: list[tuple[float, int, Look]] = []
    for number, specimen in enumerate(specimens):
        analysis, look = _try(analyser, request, specimen, question.class_names)
        results.append(look.result)
        heapq.heappush(worst, (-look.result.tally.figures.ap50, -number, look))
        if len(worst) > KEPT:
            heapq.heappop(worst)
        progress(number + 1, len(specimens))
    return Trial(
        pipeline=question.pipeline,
        models=analysis.models,
        thresholds=analysis.thresholds,
        mpp=analysis.mpp,
        own_mpp=question.mpp is None,
        known_classes=known_classes,
        whole=Group(results),
        worst=tuple(look for _, _, look in sorted(worst, key=lambda item: item[:2], reverse=True)),
    )


def _try(
    analyser: Analyser, request: wire.RegionRequest, specimen: Specimen, class_names: Mapping[str, str]
) -> tuple[Analysis, Look]:
    data = specimen.read_image(by_channel=bool(request.channels))
    try:
        report = analyser.analyse(request, data, Control())
    except (RegionTooLargeError, UndecodableImageError) as error:
        raise InvalidRequestError(f"{specimen.image.name}: {error.detail}") from error
    analysis = report.cells
    box = analysis.region_l0
    truth = specimen.read_truth(height_px=box.height, width_px=box.width)
    predicted = predicted_labels(analysis)
    result = _compare(specimen, _named(truth, class_names, specimen.stem), analysis, predicted)
    image, _ = report.overview(max(box.width, box.height))
    return analysis, Look(result, image, truth.labels, predicted)


def predicted_labels(analysis: Analysis) -> Labels:
    """The cells of a whole image as labels ``(H, W)``: cell ``i`` is ``i + 1``."""
    cells, box = analysis.instances, analysis.region_l0
    return labels_from_outlines(cells.vertices, cells.offsets, height_px=box.height, width_px=box.width)


def _compare(specimen: Specimen, truth: Truth, analysis: Analysis, predicted: Labels) -> ImageResult:
    overlap = overlap_of(truth.labels, predicted)
    unseen = len(analysis.instances) - len(overlap.predicted_ids)
    tally = tally_of(truth.labels, predicted, overlap=overlap, unseen=unseen)
    if truth.classes is None:
        return ImageResult(specimen.stem, specimen.kind, tally, {})
    names = [truth.classes.get(int(label)) for label in overlap.truth_ids]
    classes = {
        name: class_tally(
            overlap.iou,
            truth=np.array([_covers(name, other) for other in names], np.bool_),
            predicted=analysis.members(name)[overlap.predicted_ids - 1],
            # A hepatocyte of unknown kind does not count for or against its subclasses.
            known=np.array([other is not None and other not in lineage(name)[:-1] for other in names], np.bool_),
        )
        for name in _with_parents(analysis.counts) | _with_parents(name for name in names if name)
    }
    return ImageResult(specimen.stem, specimen.kind, tally, classes)


def _covers(name: str, other: str | None) -> bool:
    """Whether `other` is class `name` or derived from it, as ``Analysis.members`` has it."""
    return other is not None and name in lineage(other)


def _with_parents(names: Iterable[str]) -> frozenset[str]:
    """Classes and their parent classes: ``Hepatocyte`` for ``Hepatocyte: Ballooning``."""
    return frozenset(level for name in names for level in lineage(name))


def _require_known(class_names: Mapping[str, str], known_classes: frozenset[str]) -> None:
    for value, name in class_names.items():
        if name not in known_classes:
            raise InvalidRequestError(
                f"The pipeline has no class {name!r} for {value!r} to mean; "
                f"it has {', '.join(sorted(known_classes))}."
            )


def _named(truth: Truth, class_names: Mapping[str, str], stem: str) -> Truth:
    """The truth with its values mapped to class names of the pipeline."""
    if truth.classes is None or not class_names:
        return truth
    if unknown := sorted(set(truth.classes.values()) - class_names.keys()):
        raise InvalidRequestError(
            f"The truth of {stem} has the class {unknown[0]!r}, which no --class names: add --class "
            f"'{unknown[0]}=NAME' or take the class out of the truth."
        )
    return Truth(truth.labels, {label: class_names[value] for label, value in truth.classes.items()})
