"""Train the nuclei network once per fold, and measure every network on its held-out source.

`python -m slidecascade_training.nuclei.cross_validation --data DSB2018 --nucls NUCLS --tissue 40 --out RUNS`

RUNS has a folder for each fold; an interrupted run resumes at its last checkpoint, a finished one is only
measured. ``folds.json`` and ``folds.md`` contain the results. A fold is decoded with the best thresholds of the
other folds, so its own images are not used for selection; ``thresholds`` are the best ones over all folds. On an
H100 a fold of 6000 steps takes about ten minutes with `KERAS_BACKEND=jax`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np

from slidecascade.cores import usable_cores
from slidecascade.heads.unet import UnetOptions
from slidecascade.staging import write_files
from slidecascade_convert.modelcard import table
from slidecascade_evaluation import dsb2018
from slidecascade_evaluation.scores import Accuracy, measure
from slidecascade_training.backend import prepare_keras
from slidecascade_training.claim import claim
from slidecascade_training.nuclei.crops import prepare
from slidecascade_training.nuclei.folds import Fold, Folds
from slidecascade_training.nuclei.network import WIDTHS, stride_of
from slidecascade_training.nuclei.recipe import NucleiSettings, settings_of, train
from slidecascade_training.nuclei.thresholds import GRID, Floats, Mapped, decode, network_predictor, scores
from slidecascade_training.nuclei.tissue import render_tissue
from slidecascade_training.recipes.settings import data_sha256_of
from slidecascade_training.recipes.table import NUCLEI, find_recipe

MOST_TUNED: Final = 40
"""The images of a fold for choosing thresholds, evenly spaced in its index."""


@dataclass(frozen=True, slots=True)
class FoldResult:
    """A fold's metrics on all its held-out images, with the thresholds of the other folds."""

    name: str
    options: UnetOptions
    accuracy: Accuracy


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """The results of all folds, and the best thresholds over all of them."""

    options: UnetOptions
    folds: tuple[FoldResult, ...]

    @property
    def json(self) -> str:
        folds = [
            {"name": item.name, "thresholds": item.options.model_dump(), **asdict(item.accuracy)}
            for item in self.folds
        ]
        return json.dumps({"thresholds": self.options.model_dump(), "folds": folds}, indent=2) + "\n"

    @property
    def markdown(self) -> str:
        head = ("held out", "images", "AP50, mean of images", "AP50, pooled", "mean AP 0.5:0.95", "Dice")
        rows = [(item.name, item.accuracy) for item in self.folds]
        lines = [
            (name, a.images, f"{a.ap50:.3f}", f"{a.ap50_pooled:.3f}", f"{a.mean_ap:.3f}", f"{a.dice:.3f}")
            for name, a in rows
        ]
        figures = np.array([[a.ap50, a.ap50_pooled, a.mean_ap, a.dice] for _, a in rows]).mean(axis=0)
        images = sum(a.images for _, a in rows)
        mean = ("mean of folds", images, *(f"{value:.3f}" for value in figures))
        return table(head, [*lines, mean]) + "\n"


def cross_validate(maps: Sequence[tuple[str, Sequence[Mapped]]]) -> CrossValidation:
    """Choose thresholds over folds and measure each fold with those of the others.

    Args:
        maps: name and held-out images of each fold, two folds at least, an image at least in each.

    Raises:
        ValueError: there are fewer than two folds.
    """
    if len(maps) < 2:
        raise ValueError("thresholds for a fold are chosen on the others: use at least two folds")
    by_fold = np.stack([_scores(_spread(images)) for _, images in maps])
    results = []
    for index, (name, images) in enumerate(maps):
        options = GRID[int(np.delete(by_fold, index, axis=0).mean(axis=0).argmax())]
        accuracy = measure([(item.truth, decode(item.maps, options)) for item in images])
        results.append(FoldResult(name, options, accuracy))
    return CrossValidation(GRID[int(by_fold.mean(axis=0).argmax())], tuple(results))


def _spread(images: Sequence[Mapped]) -> list[Mapped]:
    chosen = np.linspace(0, len(images) - 1, min(MOST_TUNED, len(images))).round().astype(int)
    return [images[index] for index in chosen.tolist()]


def _scores(images: Sequence[Mapped]) -> Floats:
    """`scores` over `GRID`, in a process for each core: they are means over images."""
    workers = min(usable_cores(), len(images))
    if workers < 2:
        return scores(images, GRID)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(_scores_of_one, images, chunksize=-(-len(images) // (4 * workers))))
    mean: Floats = np.mean(parts, axis=0)
    return mean


def _scores_of_one(image: Mapped) -> Floats:
    return scores([image], GRID)


def train_fold(
    data: Path, fold: Fold, others: Sequence[dsb2018.NucleiImage], out: Path, settings: NucleiSettings
) -> list[Mapped]:
    """Train on all but the fold's source, or resume; the maps of its held-out images."""
    folder = out / fold.name
    claim(folder, settings)
    sys.stdout.write(f"{fold.name}: {len(fold.training)} images to train on, {len(fold.held_out)} held out\n")
    images = [*dsb2018.read_entries(data, fold.training), *others]
    network, _ = train(prepare(images, settings.scaling), folder, settings)
    predict = network_predictor(network, find_recipe(NUCLEI).pixels, stride_of(settings.widths))
    return [
        Mapped(item.kind, item.labels, predict(item.image)) for item in dsb2018.read_entries(data, fold.held_out)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and measure all folds; an interrupted run is resumed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the DSB 2018 set")
    parser.add_argument("--nucls", type=Path, help="folder of the NuCLS crops, for training")
    parser.add_argument("--tissue", type=int, default=0, help="windows of rendered liver, for training")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, one folder for each fold")
    parser.add_argument("--folds", nargs="+", metavar="NAME", help="at least two (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of each fold (default: the recipe's)")
    parser.add_argument("--batch", type=int, help="crops in a step (default: the recipe's)")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="channels of every level")
    parser.add_argument("--scaling", choices=("kinds", "objects", "both"), default="objects")
    given = parser.parse_args(arguments)
    folds = Folds.of(dsb2018.read_index(given.data))
    chosen = folds.folds if given.folds is None else tuple(map(folds.find, given.folds))
    if len(chosen) < 2:
        parser.error("--folds needs at least two names: thresholds for a fold are chosen on the others")
    prepare_keras()
    nucls = list(dsb2018.read_nucls(given.nucls)) if given.nucls else []
    others = [*nucls, *render_tissue(given.tissue, given.seed)]
    maps = []
    for fold in chosen:
        settings = settings_of(
            data_sha256_of(given.data),
            seed=given.seed,
            steps=given.steps,
            batch=given.batch,
            widths=given.widths,
            nucls_images=len(nucls),
            tissue_windows=given.tissue,
            fold=fold.name,
            scaling=given.scaling,
        )
        maps.append((fold.name, train_fold(given.data, fold, others, given.out, settings)))
    result = cross_validate(maps)
    write_files(given.out, {"folds.json": result.json.encode(), "folds.md": result.markdown.encode()})
    sys.stdout.write(result.markdown)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
