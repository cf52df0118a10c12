"""Leave one source of fluorescence images out: train on the others, measure on it.

`python -m slidecascade_training.fluorescence.folds --data DSB2018 --nuclei GRAPH --out RUNS`

RUNS has a folder for each source, named by kind and size as in `slidecascade_training.nuclei.folds`; an
interrupted run resumes, a finished one is only measured. Thresholds are chosen on the tuning images of the other
sources. ``folds.json`` and standard output have the figures. The trunk starts from the network GRAPH: unless that
one was trained without the source, too (`slidecascade_training.nuclei --fold`), the figures are better than those
on a new source would be.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from slidecascade.errors import InvalidRequestError
from slidecascade.staging import write_files
from slidecascade_evaluation import dsb2018
from slidecascade_training.fluorescence.crops import Specimen, scaled_intensity
from slidecascade_training.fluorescence.package import served_graph
from slidecascade_training.fluorescence.recipe import FluorescenceSettings, train
from slidecascade_training.fluorescence.thresholds import HEADS, accuracy, predictions, tune
from slidecascade_training.nuclei.folds import Fold, Folds


@dataclass(frozen=True, slots=True)
class Figure:
    """A head on the images of a source that it was not trained on."""

    source: str
    head: str
    images: int
    ap50: float
    mean_ap: float
    dice: float


def fluorescence_folds(data: Path) -> Folds:
    """The folds of the fluorescence images.

    Raises:
        InvalidRequestError: no such set, or it has one source.
    """
    try:
        entries = dsb2018.read_index(data)
    except ValueError as error:
        raise InvalidRequestError(str(error)) from error
    return Folds.of(entry for entry in entries if entry.kind == dsb2018.FLUORESCENCE)


def run_fold(
    data: Path, fold: Fold, nuclei: Path, out: Path, settings: FluorescenceSettings, heads: Sequence[str]
) -> list[Figure]:
    """Train in ``out/NAME`` and measure.

    Raises:
        InvalidRequestError: the folder holds a run with other settings.
    """
    parts = {
        split: list(dsb2018.read_entries(data, [entry for entry in fold.training if entry.split == split]))
        for split in ("train", "tune")
    }
    specimens = [Specimen.of(scaled_intensity(item.image.max(axis=2)), item.labels) for item in parts["train"]]
    network = train(specimens, nuclei, out / fold.name, settings).eval()
    held_out = list(dsb2018.read_entries(data, fold.held_out))
    found = []
    for head in heads:
        graph = served_graph(network, head).content
        options = tune(predictions(graph, parts["tune"] or parts["train"]), head)
        measured = accuracy(predictions(graph, held_out), HEADS[head], options)
        found.append(Figure(fold.name, head, measured.images, measured.ap50, measured.mean_ap, measured.dice))
        sys.stdout.write(
            f"{fold.name:28} {head:9} {measured.images:4} images  AP50 {measured.ap50:.4f}  "
            f"mean AP {measured.mean_ap:.4f}  Dice {measured.dice:.4f}\n"
        )
        sys.stdout.flush()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and measure the folds asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the DSB 2018 set")
    parser.add_argument("--nuclei", type=Path, required=True, help="graph that the trunk starts from")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument(
        "--leave-out", nargs="+", metavar="SOURCE", help="sources to leave out in turn; default: each"
    )
    parser.add_argument("--heads", nargs="+", choices=tuple(HEADS), default=tuple(HEADS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--synthesized", type=int, default=80, help="synthesized images to train on")
    given = parser.parse_args(arguments)
    settings = FluorescenceSettings(
        seed=given.seed, steps=given.steps, batch=given.batch, synthesized=given.synthesized
    )
    folds = fluorescence_folds(given.data)
    chosen = [folds.find(name) for name in given.leave_out or folds.names]
    figures = [
        figure
        for fold in chosen
        for figure in run_fold(given.data, fold, given.nuclei, given.out, settings, given.heads)
    ]
    text = json.dumps([asdict(figure) for figure in figures], indent=2) + "\n"
    write_files(given.out, {"folds.json": text.encode()})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
