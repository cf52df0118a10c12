"""Formats a trial as JSON, as a text table, and as CSV rows by image."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from slidecascade import wire
from slidecascade_evaluation.matching import MEAN_AP_THRESHOLDS
from slidecascade_evaluation.scores import ClassTally, Figures
from slidecascade_evaluation.trial import Group, Trial

MATCHING = (
    "One to one at IoU >= threshold >= 0.5, where partners are unique. AP is TP / (TP + FN + FP), F1, PQ and "
    "classes at IoU 0.5; figures are means over images, 'pooled' is of all cells together."
)
_COLUMNS = ("ap50", "ap75", "map", "f1", "pq", "dq", "sq", "aji", "dice")
_HEADS = ("AP50", "AP75", "mAP", "F1", "PQ", "DQ", "SQ", "AJI", "Dice")
_DECIMALS = 4


@dataclass(frozen=True)
class Data:
    """The data of a trial: name of the folder, and split."""

    name: str
    split: str


def document(trial: Trial, data: Data) -> dict[str, Any]:
    """The trial as JSON values; `ap50`, `map`, ... at the top are those of all images."""
    return {
        "research_use_only": wire.RESEARCH_USE_ONLY,
        "pipeline": trial.pipeline,
        "models": [
            {"name": model.name, "version": model.version, "sha256": model.sha256, "role": model.role}
            for model in trial.models
        ],
        "thresholds": dict(trial.thresholds),
        "data": data.name,
        "split": data.split,
        "mpp": trial.mpp,
        "mpp_is": "the segmenter's own" if trial.own_mpp else "given",
        "matching": MATCHING,
        **_group(trial.whole, trial),
        "kinds": {kind: _group(group, trial) for kind, group in trial.kinds.items()},
    }


def _group(group: Group, trial: Trial) -> dict[str, Any]:
    tally = group.tally
    values: dict[str, Any] = {
        "images": len(group.results),
        "cells": {"truth": tally.truth, "predicted": tally.predicted},
        **_figures(group.mean),
        "pooled": _figures(tally.figures),
    }
    if classes := group.classes:
        values["classes"] = {
            name: _class_fields(item, name in trial.known_classes) for name, item in classes.items()
        }
    return values


def _figures(figures: Figures) -> dict[str, Any]:
    by_iou = {
        f"{threshold:.2f}": round(value, _DECIMALS)
        for threshold, value in zip(MEAN_AP_THRESHOLDS, figures.ap, strict=True)
    }
    names = [field.name for field in fields(figures) if field.name != "ap"]
    return {name: round(getattr(figures, name), _DECIMALS) for name in names} | {"ap": by_iou}


def _class_fields(tally: ClassTally, is_known: bool) -> dict[str, Any]:
    """Null for classes that the pipeline does not distinguish, of which only `found` is known."""
    return {
        "truth": tally.truth,
        "found": round(tally.found_share, _DECIMALS),
        "predicted": tally.predicted if is_known else None,
        "precision": round(tally.precision, _DECIMALS) if is_known else None,
        "recall": round(tally.recall, _DECIMALS) if is_known else None,
        "f1": round(tally.f1, _DECIMALS) if is_known else None,
    }


def table(trial: Trial, data: Data) -> str:
    """Aligned text: pipeline and data, metrics by kind, AP by IoU, classes."""
    return "\n".join([*_head(trial, data), "", *_by_kind(trial), "", *_by_iou(trial), *_by_class(trial), ""])


def _head(trial: Trial, data: Data) -> Iterator[str]:
    models = ", ".join(f"{model.name} v{model.version} ({model.sha256[:12]})" for model in trial.models)
    yield f"Pipeline {trial.pipeline}: {models}"
    yield f"{data.name}, split {data.split}, {_images(len(trial.whole.results))} taken at {trial.mpp:g} um/px" + (
        " (the segmenter's own; set another with --mpp)" if trial.own_mpp else ""
    )


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"


def _by_kind(trial: Trial) -> Iterator[str]:
    kinds = trial.kinds
    width = max(len("all, pooled"), *map(len, kinds), 0)
    yield f"{'':{width}} {'images':>7} {'cells':>7}" + "".join(f" {head:>6}" for head in _HEADS)
    for name, group in [*kinds.items(), ("all", trial.whole)]:
        yield f"{name:{width}} {len(group.results):7d} {group.tally.truth:7d}" + _row(group.mean)
    yield f"{'all, pooled':{width}} {'':7} {'':7}" + _row(trial.whole.tally.figures)


def _row(figures: Figures) -> str:
    return "".join(f" {getattr(figures, name):6.3f}" for name in _COLUMNS)


def _by_iou(trial: Trial) -> Iterator[str]:
    yield f"{'IoU':15}" + "".join(f" {threshold:5.2f}" for threshold in MEAN_AP_THRESHOLDS)
    for name, figures in (("AP, of images", trial.whole.mean), ("AP, pooled", trial.whole.tally.figures)):
        yield f"{name:15}" + "".join(f" {value:5.3f}" for value in figures.ap)


def _by_class(trial: Trial) -> Iterator[str]:
    classes = trial.whole.classes
    if not classes:
        return
    width = max(len("class"), *map(len, classes))
    yield ""
    yield f"{'class':{width}} {'cells':>7} {'found':>6} {'prec.':>6} {'recall':>6} {'F1':>6}"
    for name, tally in classes.items():
        figures = (tally.precision, tally.recall, tally.f1)
        cells = "".join(f" {value:6.3f}" if name in trial.known_classes else f" {'-':>6}" for value in figures)
        yield f"{name:{width}} {tally.truth:7d} {tally.found_share:6.3f}" + cells
    if not trial.known_classes.issuperset(classes):
        yield "-: the pipeline has no class of that name; map it to one of its classes with --class VALUE=NAME."


def rows(trial: Trial) -> str:
    """A line of CSV per image."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("stem", "kind", "truth", "predicted", *_COLUMNS))
    for result in trial.whole.results:
        figures = result.tally.figures
        values = [f"{getattr(figures, name):.4f}" for name in _COLUMNS]
        writer.writerow((result.stem, result.kind or "", result.tally.truth, result.tally.predicted, *values))
    return text.getvalue()
