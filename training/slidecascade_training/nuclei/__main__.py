"""Train the bundled nuclei network.

`python -m slidecascade_training.nuclei --data DSB2018 --nucls NUCLS --tissue 40 --out RUN`

`KERAS_BACKEND` chooses TensorFlow, JAX or PyTorch. An interrupted run resumes at its last checkpoint, and step
`n` gets the same crops on any machine. `slidecascade_training.nuclei.package` then tunes,
measures and packages it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from slidecascade_evaluation import dsb2018
from slidecascade_training.claim import claim
from slidecascade_training.nuclei.crops import prepare
from slidecascade_training.nuclei.folds import Folds
from slidecascade_training.nuclei.network import WIDTHS
from slidecascade_training.nuclei.recipe import settings_of, train
from slidecascade_training.nuclei.tissue import render_tissue
from slidecascade_training.recipes.settings import data_sha256_of
from slidecascade_training.timelimit import TimeLimit, add_seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; an interrupted run is resumed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the DSB 2018 set")
    parser.add_argument("--nucls", type=Path, help="folder of the NuCLS crops, for training")
    parser.add_argument("--tissue", type=int, default=0, help="windows of rendered liver, for training")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: checkpoints and settings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="default: the recipe's")
    parser.add_argument("--batch", type=int, help="crops per step (default: the recipe's)")
    parser.add_argument("--fold", help="hold one source of images out; see slidecascade_training.nuclei.folds")
    parser.add_argument(
        "--scaling",
        choices=("kinds", "objects", "both"),
        default="kinds",
        help="scale images by factors of their kind, to objects of 8 to 100 px, or half of the crops by each "
        "(default: kinds)",
    )
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="channels of every level")
    add_seconds(parser)
    given = parser.parse_args(arguments)
    limit = TimeLimit.of(given.seconds)
    nucls = list(dsb2018.read_nucls(given.nucls)) if given.nucls else []
    settings = settings_of(
        data_sha256_of(given.data),
        seed=given.seed,
        steps=given.steps,
        batch=given.batch,
        widths=given.widths,
        nucls_images=len(nucls),
        tissue_windows=given.tissue,
        fold=given.fold,
        scaling=given.scaling,
    )
    index = dsb2018.read_index(given.data)
    if given.fold is None:
        entries = tuple(entry for entry in index if entry.split == "train")
    else:
        entries = Folds.of(index).find(given.fold).training
    claim(given.out, settings)
    images = [*dsb2018.read_entries(given.data, entries), *nucls, *render_tissue(given.tissue, given.seed)]
    train(prepare(images, settings.scaling), given.out, settings, limit)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
