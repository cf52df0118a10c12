"""``slidecascade evaluate``: the accuracy of a pipeline on images with ground truth."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from slidecascade.analysis.analyser import Analyser
from slidecascade.commands.arguments import channel_of, threshold_of
from slidecascade.commands.progress import bar
from slidecascade.errors import InvalidRequestError
from slidecascade.settings import read_settings
from slidecascade.staging import write_files
from slidecascade.timing import Silent
from slidecascade_evaluation import masks, patches, report, truth
from slidecascade_evaluation.trial import Question, Trial, run_trial
from slidecascade_training.datasets.folder import read_spec

_OPTIONS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "--split": ("split", ("cells", "areas")),
    "--channels": ("channels", ("cells",)),
    "--kind": ("kind", ("cells",)),
    "--threshold": ("thresholds", ("cells", "areas")),
    "--class": ("class_names", ("cells",)),
    "--mask-above": ("mask_above", ("patches",)),
    "--mask-class": ("mask_class", ("patches",)),
}
"""Where the options that not all kinds take are found among the arguments, and the kinds that take them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pipeline", required=True, help="nash, nuclei, tumor-heatmap, glomeruli, fat or a custom one"
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder of x.png with x_labels.png, x_inst.png or x.geojson; of images with x_mask.png for areas, of "
        "slides with x_mask.tif for patches",
    )
    parser.add_argument(
        "--split",
        choices=truth.SPLITS,
        help="split of a folder with index.csv; default: validate, or all images without index.csv; for pipelines "
        "of cells and areas",
    )
    parser.add_argument(
        "--mpp",
        type=float,
        help="um per pixel of the images; default: that of dataset.json, else that of the segmenter",
    )
    parser.add_argument(
        "--channels",
        type=channel_of,
        nargs="+",
        default=[],
        metavar="MEANING=CHANNEL",
        help="of stacks, by index or name, such as nuclear=0; for pipelines of cells",
    )
    parser.add_argument("--kind", help="use the images of this kind, by index.csv; for pipelines of cells")
    parser.add_argument(
        "--threshold",
        dest="thresholds",
        type=threshold_of,
        action="append",
        default=[],
        metavar="MODEL=NUMBER",
        help="in place of the pipeline's; for pipelines of cells and areas",
    )
    parser.add_argument(
        "--class",
        dest="class_names",
        type=_class_of,
        action="append",
        default=[],
        metavar="VALUE=NAME",
        help="class of the pipeline for a class of the ground truth, e.g. 1=Immune; for pipelines of cells",
    )
    parser.add_argument(
        "--mask-above",
        type=int,
        help="grey level above which a mask is positive (0; JPEG masks: 127); for pipelines of patches",
    )
    parser.add_argument(
        "--mask-class",
        metavar="CLASS",
        help="class of the polygons in NAME.geojson that are positive (all); for pipelines of patches",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, help="folder for accuracy.json, images.csv and plots")
    parser.add_argument("--models", type=Path, help="the models folder")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print the metrics and write the folder; returns the exit code."""
    # Failed tiles are reported at the end; their stack traces belong in a service's log.
    logging.getLogger("slidecascade").addHandler(logging.NullHandler())
    roots = (arguments.data.resolve(),) if arguments.data.is_dir() else None
    settings = read_settings(models_dir=arguments.models, slide_roots=roots)
    analyser = Analyser(settings, observer=Silent())
    try:
        kind = analyser.pipeline(arguments.pipeline).kind
        _require_fitting(arguments, kind)
        if kind == "areas":
            return _run_masks(arguments, analyser)
        if kind == "patches":
            return _run_patches(arguments, analyser)
        return _run_cells(arguments, analyser)
    finally:
        analyser.close()


def _run_cells(arguments: argparse.Namespace, analyser: Analyser) -> int:
    if arguments.out:
        from slidecascade_evaluation import plots  # with --out only: it needs matplotlib
    specimens = truth.of_kind(truth.find_specimens(arguments.data, arguments.split), arguments.kind)
    data = report.Data(arguments.data.resolve().name, truth.resolve_split(arguments.data, arguments.split))
    question = Question(
        pipeline=arguments.pipeline,
        mpp=arguments.mpp if arguments.mpp is not None else _stated_mpp(arguments.data),
        thresholds=dict(arguments.thresholds),
        class_names=dict(arguments.class_names),
        channels=dict(arguments.channels),
    )
    trial = run_trial(analyser, question, specimens, progress=bar("images"))
    text = json.dumps(report.document(trial, data), indent=2) + "\n"
    # First: a full disk does not take the figures away.
    sys.stdout.write(text if arguments.json else report.table(trial, data))
    if arguments.out:
        write_files(arguments.out, {**_files(trial, text), **plots.draw(trial)})
    return 0


def _require_fitting(arguments: argparse.Namespace, kind: str) -> None:
    """Raises InvalidRequestError where an option is set that pipelines of `kind` do not take."""
    for option, (name, kinds) in _OPTIONS.items():
        if kind not in kinds and getattr(arguments, name) not in (None, []):
            raise InvalidRequestError(
                f"{option} is for pipelines of {' and '.join(kinds)}, and {arguments.pipeline!r} is one of "
                f"{kind}: leave it out."
            )


def _run_masks(arguments: argparse.Namespace, analyser: Analyser) -> int:
    trial = masks.run_masks(
        analyser,
        arguments.pipeline,
        arguments.data,
        mpp=arguments.mpp if arguments.mpp is not None else _stated_mpp(arguments.data),
        split=arguments.split,
        thresholds=dict(arguments.thresholds),
        progress=bar("images"),
    )
    text = json.dumps(masks.document(trial), indent=2) + "\n"
    sys.stdout.write(text if arguments.json else masks.table(trial))
    if arguments.out:
        write_files(arguments.out, {"accuracy.json": text.encode()})
    return 0


def _run_patches(arguments: argparse.Namespace, analyser: Analyser) -> int:
    trial = patches.run_patches(
        analyser,
        arguments.pipeline,
        arguments.data,
        mpp=arguments.mpp,
        above=arguments.mask_above or 0,
        polygons=arguments.mask_class,
        progress=bar("slides"),
    )
    text = json.dumps(patches.document(trial), indent=2) + "\n"
    sys.stdout.write(text if arguments.json else patches.table(trial))
    if arguments.out:
        write_files(arguments.out, {"accuracy.json": text.encode(), **patches.plots(trial)})
    return 0


def _files(trial: Trial, text: str) -> Mapping[str, bytes]:
    return {"accuracy.json": text.encode(), "images.csv": report.rows(trial).encode()}


def _stated_mpp(folder: Path) -> float | None:
    """The pixel size of tiles that `slidecascade dataset` made."""
    return read_spec(folder).mpp if (folder / "dataset.json").is_file() else None


def _class_of(text: str) -> tuple[str, str]:
    """``value=name``."""
    value, separator, name = text.partition("=")
    if not (separator and value and name):
        raise argparse.ArgumentTypeError(f"{text!r} is not value=name, e.g. 1=Immune")
    return value, name
