"""From a finished run to the bundled `liver-fat` package: export, threshold, figures, card.

`python -m slidecascade_training.fat.package --run DIR --models DIR`

The threshold is chosen, and the figures are measured, on rendered tissue that the run never saw, two different
sets of it. Real tiles are measured afterwards by `slidecascade evaluate --pipeline fat`, and change nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from slidecascade.errors import ModelPackageError
from slidecascade.heads.head import SegmenterOptions
from slidecascade.heads.labels import at_least, grey_level
from slidecascade.models.spec import ModelClass, SegmenterSpec, TrainingData
from slidecascade_convert.modelcard import Card, figures_table
from slidecascade_evaluation.masks import MaskTally, tally_of
from slidecascade_training import packages
from slidecascade_training.backend import prepare_keras
from slidecascade_training.claim import read_claim
from slidecascade_training.fat.tissue import HELD_OUT, MPP, SMALLEST_UM2, rendered
from slidecascade_training.kidney.crops import MaskedTile
from slidecascade_training.kidney.recipe import PIXELS, KidneySettings, trained
from slidecascade_training.nuclei.network import stride_of
from slidecascade_training.nuclei.package import halo_px, view_radius_px
from slidecascade_training.nuclei.thresholds import Maps, graph_predictor
from slidecascade_training.recipes.package import trained_facts

NAME: Final = "liver-fat"
VERSION: Final = 1
TILES: Final = 60
"""Rendered tiles to choose the threshold on, and as many others to measure on."""

_FOREGROUNDS: Final = (0.3, 0.4, 0.5, 0.6, 0.7)


def package_run(run: Path, models_dir: Path, *, real: Mapping[str, float] | None = None) -> None:
    """Export a run's network, choose its threshold, measure and write the package into `models_dir`.

    Args:
        real: Dice of real tiles by name, measured before with the same weights; for the card alone.

    Raises:
        InvalidRequestError: when `run` contains no run.
        ModelPackageError: when the run is not finished, or the exported graph differs from the network.
    """
    settings = read_claim(run, KidneySettings)
    network, history = trained(run, settings)
    if history.steps < settings.steps:
        raise ModelPackageError(
            f"{run} has done {history.steps} of {settings.steps} steps: finish training first."
        )
    exported = packages.export_segmenter(network, PIXELS)
    predict = graph_predictor(exported.graph, stride_of(settings.widths))
    chosen_on, measured_on = rendered(HELD_OUT, TILES), rendered(HELD_OUT + TILES, TILES)
    maps = [predict(tile.image) for tile in chosen_on]
    foreground = max(_FOREGROUNDS, key=lambda each: pooled(chosen_on, maps, each).figures["dice"])
    figures = pooled(measured_on, [predict(tile.image) for tile in measured_on], foreground).figures
    spec = _spec(exported, settings, foreground, figures)
    packages.write(models_dir, spec, exported, _card(spec, settings, real or {}), max_batch=8)


def pooled(tiles: Sequence[MaskedTile], maps: Sequence[Maps], foreground: float) -> MaskTally:
    """The pixels and droplets of all `tiles`, found in their maps ``(H, W, 1)``."""
    tallies = (
        tally_of(tile.mask > 0, at_least(np.ascontiguousarray(each[:, :, 0]), grey_level(foreground)) > 0)
        for tile, each in zip(tiles, maps, strict=True)
    )
    return sum(tallies, MaskTally())


def _spec(
    exported: packages.Exported, settings: KidneySettings, foreground: float, figures: Mapping[str, float]
) -> SegmenterSpec:
    stride = stride_of(settings.widths)
    name = "rendered liver of slidecascade_render.liver"
    stated = packages.Statement(
        name=NAME,
        version=VERSION,
        mpp=MPP,
        classes=(ModelClass(name="Fat", color=(240, 228, 66)),),
        licence="Apache-2.0",
        training_data=(TrainingData(name=name, licence="Apache-2.0", split="training only"),),
        accuracy=figures,
    )
    return packages.segmenter_spec(
        stated,
        exported,
        head="semantic",
        multiple_of=stride,
        halo_px=halo_px(view_radius_px(settings.widths), stride),
        options=SegmenterOptions(foreground=foreground, min_area_um2=SMALLEST_UM2),
    )


def _card(spec: SegmenterSpec, settings: KidneySettings, real: Mapping[str, float]) -> Card:
    stride = stride_of(settings.widths)
    return Card(
        name=spec.name,
        summary="Vacuoles of fat in H&E liver, as areas.",
        facts=trained_facts(spec)
        | {
            "Input": f"`image`: uint8 RGB `(N, H, W, 3)`, H and W multiples of {stride}",
            "Output": "`maps`: uint8 `(N, H, W, 1)`, `round(255 * p)` of fat",
            "Head": f"`semantic`: foreground {spec.options.foreground}, smallest area "
            f"{spec.options.min_area_um2:g} um2",
        },
        made=_MADE.format(settings=settings),
        measured=f"The exported graph on {TILES} rendered tiles it was neither trained nor tuned on, pooled:\n\n"
        + figures_table(spec.accuracy)
        + (_REAL + figures_table(real) if real else ""),
        limits=_LIMITS,
        sections={
            "Network": _NETWORK.format(
                widths=", ".join(map(str, settings.widths)),
                radius=view_radius_px(settings.widths),
                halo=spec.halo_px,
                stride=stride,
            )
        },
    )


_NETWORK = """\
The U-Net of `nuclei-unet` ({widths} filters from half of the resolution down) with one map. An output pixel
depends on input pixels at most {radius} px away, so tiles with a halo of {halo} px, aligned to {stride} px, give
in their cores the map of the whole slide."""
_MADE = """\
From scratch on one CPU core, on {settings.tiles} rendered tiles of 256 px at 1 um per pixel: vacuoles from 3 to
50 um (one, a few, or many in a cell, sharp or out of focus), glass and torn edges, clefts, sinusoids, portal
tracts and veins with white lumen, pale and ballooned cells, in stains and scanners drawn at random.
{settings.steps} steps of {settings.batch} crops of 128 px, the rate along one cosine, seed {settings.seed}.

    python -m slidecascade_training.fat --seed {settings.seed} --tiles {settings.tiles} \\
        --steps {settings.steps} --batch {settings.batch} --out RUN
    python -m slidecascade_training.fat.package --run RUN --models models"""
_REAL = """

Dice of the macro droplets on real tiles of DELINEATE (512 px, about 40x, taken as 0.25 um per pixel), whose masks
hold large droplets alone, measured once with these weights. The network never saw them, and neither threshold nor
network was chosen on them; the author of the recipe had looked at them:

"""
_LIMITS = (
    "It never saw a real slide in training.",
    "Vacuoles below about 3 um are not found; pale cells may be taken for fat, fat out of focus may be missed.",
    "Droplets that touch are one area, so a count is of areas.",
    "It tells fat from glass, clefts and vessels by shape and surroundings: other round holes are fat to it.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Package a trained run."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--models", type=Path, required=True, help="model repository to write into")
    parser.add_argument(
        "--real",
        nargs=2,
        action="append",
        default=[],
        metavar=("TILE", "DICE"),
        help="a figure of real tiles for the card, measured before",
    )
    given = parser.parse_args(arguments)
    prepare_keras()
    package_run(given.run, given.models, real={tile: float(dice) for tile, dice in given.real})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
