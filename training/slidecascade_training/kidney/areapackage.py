"""From a finished run on rendered tissue to a bundled package of areas: export, threshold, figures, card.

The threshold is chosen, and the figures are measured, on rendered tissue that the run never saw, two different
sets of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from slidecascade_training.kidney.crops import MaskedTile
from slidecascade_training.kidney.recipe import PIXELS, KidneySettings, trained
from slidecascade_training.nuclei.network import stride_of
from slidecascade_training.nuclei.package import halo_px, view_radius_px
from slidecascade_training.nuclei.thresholds import Maps, graph_predictor
from slidecascade_training.recipes.package import trained_facts

_FOREGROUNDS: Final = (0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaPackage:
    """What a package of areas states.

    Attributes:
        found: what the network finds, in the singular and small letters.
        tiles: what is rendered, in the plural.
        training_data: its name.
        made: the card's text on the training, with fields of `settings`.
        real: the card's text before the Dice of real tiles.
        rendered: tiles from a first seed on, so many of them, less those without tissue.
        held_out: the first seed that is never trained on.
    """

    name: str
    version: int
    mpp: float
    area_class: ModelClass
    min_area_um2: float
    summary: str
    found: str
    tiles: str
    training_data: str
    made: str
    real: str
    limits: tuple[str, ...]
    rendered: Callable[[int, int], Sequence[MaskedTile]]
    held_out: int


def package_run(
    stated: AreaPackage, run: Path, models_dir: Path, *, count: int, real: Mapping[str, float] | None = None
) -> None:
    """Export a run's network, choose its threshold, measure and write the package into `models_dir`.

    Args:
        count: rendered tiles to choose the threshold on, and as many others to measure on.
        real: Dice of real tiles, or by slide of them, measured before with the same weights; for the card alone.

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
    chosen_on = stated.rendered(stated.held_out, count)
    measured_on = stated.rendered(stated.held_out + count, count)
    maps = [predict(tile.image) for tile in chosen_on]
    foreground = max(_FOREGROUNDS, key=lambda each: pooled(chosen_on, maps, each).figures["dice"])
    figures = pooled(measured_on, [predict(tile.image) for tile in measured_on], foreground).figures
    spec = _spec(stated, exported, settings, foreground, figures)
    packages.write(models_dir, spec, exported, _card(stated, spec, settings, count, real or {}), max_batch=8)


def pooled(tiles: Sequence[MaskedTile], maps: Sequence[Maps], foreground: float) -> MaskTally:
    """The pixels and areas of all `tiles`, found in their maps ``(H, W, 1)``."""
    tallies = (
        tally_of(tile.mask > 0, at_least(np.ascontiguousarray(each[:, :, 0]), grey_level(foreground)) > 0)
        for tile, each in zip(tiles, maps, strict=True)
    )
    return sum(tallies, MaskTally())


def _spec(
    stated: AreaPackage,
    exported: packages.Exported,
    settings: KidneySettings,
    foreground: float,
    figures: Mapping[str, float],
) -> SegmenterSpec:
    stride = stride_of(settings.widths)
    statement = packages.Statement(
        name=stated.name,
        version=stated.version,
        mpp=stated.mpp,
        classes=(stated.area_class,),
        licence="Apache-2.0",
        training_data=(TrainingData(name=stated.training_data, licence="Apache-2.0", split="training only"),),
        accuracy=figures,
    )
    return packages.segmenter_spec(
        statement,
        exported,
        head="semantic",
        multiple_of=stride,
        # Also enough where the head finds objects, of whose surroundings more is looked at than of areas'.
        halo_px=halo_px(view_radius_px(settings.widths), stride),
        options=SegmenterOptions(foreground=foreground, min_area_um2=stated.min_area_um2),
    )


def _card(
    stated: AreaPackage, spec: SegmenterSpec, settings: KidneySettings, count: int, real: Mapping[str, float]
) -> Card:
    stride = stride_of(settings.widths)
    return Card(
        name=spec.name,
        summary=stated.summary,
        facts=trained_facts(spec)
        | {
            "Input": f"`image`: uint8 RGB `(N, H, W, 3)`, H and W multiples of {stride}",
            "Output": f"`maps`: uint8 `(N, H, W, 1)`, `round(255 * p)` of {stated.found}",
            "Head": f"`semantic`: foreground {spec.options.foreground}, smallest area "
            f"{spec.options.min_area_um2:g} um2",
        },
        made=stated.made.format(settings=settings),
        measured=f"The exported graph on {count} rendered {stated.tiles} it was neither trained nor tuned on, "
        "pooled:\n\n" + figures_table(spec.accuracy) + (stated.real + figures_table(real) if real else ""),
        limits=stated.limits,
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


def main(stated: AreaPackage, *, count: int, arguments: Sequence[str] | None = None) -> int:
    """Package a trained run."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--models", type=Path, required=True, help="model repository to write into")
    parser.add_argument(
        "--real",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "DICE"),
        help="a figure of real tiles for the card, measured before",
    )
    given = parser.parse_args(arguments)
    prepare_keras()
    real = {name: float(dice) for name, dice in given.real}
    package_run(stated, given.run, given.models, count=count, real=real)
    return 0
