"""``slidecascade evaluate``: the accuracy of a pipeline on images with ground truth."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

from slidecascade.analysis.analyser import Analyser
from slidecascade.commands.arguments import threshold_of
from slidecascade.commands.progress import bar
from slidecascade.settings import read_settings
from slidecascade.staging import write_files
from slidecascade.timing import Silent
from slidecascade_evaluation import report, truth
from slidecascade_evaluation.trial import Question, Trial, run_trial
from slidecascade_training.datasets.folder import read_spec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pipeline", required=True, help="nuclei, nash or a custom pipeline")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of x.png with x_labels.png, x_inst.png or x.geojson"
    )
    parser.add_argument(
        "--split",
        choices=truth.SPLITS,
        help="split of a folder with index.csv; default: validate, or all images without index.csv",
    )
    parser.add_argument(
        "--mpp",
        type=float,
        help="um per pixel of the images; default: that of dataset.json, else that of the segmenter",
    )
    parser.add_argument("--threshold", type=threshold_of, action="append", default=[], metavar="MODEL=NUMBER")
    parser.add_argument(
        "--class",
        dest="class_names",
        type=_class_of,
        action="append",
        default=[],
        metavar="VALUE=NAME",
        help="class of the pipeline for a class of the ground truth, e.g. 1=Immune",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, help="folder for accuracy.json, images.csv and plots")
    parser.add_argument("--models", type=Path, help="the models folder")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print the metrics and write the folder; returns the exit code."""
    if arguments.out:
        from slidecascade_evaluation import plots  # only with --out, because it needs matplotlib
    specimens = truth.find_specimens(arguments.data, arguments.split)
    data = report.Data(arguments.data.resolve().name, truth.resolve_split(arguments.data, arguments.split))
    # Failed tiles are reported at the end; their stack traces belong in a service's log.
    logging.getLogger("slidecascade").addHandler(logging.NullHandler())
    question = Question(
        pipeline=arguments.pipeline,
        mpp=arguments.mpp if arguments.mpp is not None else _stated_mpp(arguments.data),
        thresholds=dict(arguments.threshold),
        class_names=dict(arguments.class_names),
    )
    analyser = Analyser(read_settings(models_dir=arguments.models), observer=Silent())
    try:
        trial = run_trial(analyser, question, specimens, progress=bar("images"))
    finally:
        analyser.close()
    text = json.dumps(report.document(trial, data), indent=2) + "\n"
    # Printed first, so that a full disk does not lose the metrics.
    sys.stdout.write(text if arguments.json else report.table(trial, data))
    if arguments.out:
        write_files(arguments.out, {**_files(trial, text), **plots.draw(trial)})
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
