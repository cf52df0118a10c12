"""From a finished run to the bundled `nuclei-unet` package: export, thresholds, measured accuracy, card.

`python -m slidecascade_training.nuclei.package --data DIR --run DIR --models DIR`
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from slidecascade.errors import ModelPackageError
from slidecascade.heads.unet import UnetOptions
from slidecascade.models.spec import ModelClass, SegmenterSpec, TrainingData
from slidecascade_convert.modelcard import Card, table
from slidecascade_evaluation import dsb2018
from slidecascade_evaluation.scores import Accuracy
from slidecascade_training import packages
from slidecascade_training.backend import prepare_keras
from slidecascade_training.claim import read_claim
from slidecascade_training.nuclei.crops import usual_diameter_px
from slidecascade_training.nuclei.network import build_network, stride_of
from slidecascade_training.nuclei.recipe import NucleiSettings, trained
from slidecascade_training.nuclei.thresholds import (
    MPP,
    accuracy_of,
    graph_predictor,
    mapped,
    measure_by_kind,
    tune,
)
from slidecascade_training.recipes.package import trained_facts
from slidecascade_training.recipes.table import NUCLEI, find_recipe

NAME = "nuclei-unet"
VERSION = 1
_PARTING_PX = 28
# There are too few grey tuning images for selection.
_TUNED_ON = (dsb2018.FLUORESCENCE, dsb2018.COLOUR)


def package_run(data: Path, run: Path, models_dir: Path) -> None:
    """Export a run's network, tune, measure and write the package into `models_dir`.

    Raises:
        InvalidRequestError: when `run` contains no run.
        ModelPackageError: when the run is not finished, or the exported graph differs from the network.
    """
    settings = read_claim(run, NucleiSettings)
    network, history = trained(run, settings)
    if history.steps < settings.steps:
        raise ModelPackageError(
            f"{run} has done {history.steps} of {settings.steps} steps: finish training first."
        )
    exported = packages.export_segmenter(network, find_recipe(NUCLEI).pixels)
    predict = graph_predictor(exported.graph, stride_of(settings.widths))
    options = tune(mapped(list(dsb2018.read_images(data, "tune")), predict), kinds=_TUNED_ON)
    diameter_px = usual_diameter_px(list(dsb2018.read_images(data, "train")), settings.scaling)
    measured = measure_by_kind(list(dsb2018.read_images(data, "validate")), predict, options)
    spec = _spec(exported, options, measured, settings, diameter_px)
    packages.write(models_dir, spec, exported, _card(spec, settings, measured), max_batch=8)


def _spec(
    exported: packages.Exported,
    options: UnetOptions,
    measured: Mapping[str, Accuracy],
    settings: NucleiSettings,
    diameter_px: float,
) -> SegmenterSpec:
    stride, radius_px = stride_of(settings.widths), view_radius_px(settings.widths)
    stated = packages.Statement(
        name=NAME,
        version=VERSION,
        mpp=MPP,
        classes=(ModelClass(name="Nucleus", color=(0, 158, 115)),),
        licence="Apache-2.0",
        training_data=_training_data(settings),
        accuracy=accuracy_of(measured, by_kind=True),
    )
    return packages.segmenter_spec(
        stated,
        exported,
        multiple_of=stride,
        halo_px=halo_px(radius_px, stride),
        options=options,
        object_diameter_px=round(diameter_px, 1),
    )


def _training_data(settings: NucleiSettings) -> tuple[TrainingData, ...]:
    data = [
        TrainingData(
            name="Data Science Bowl 2018 stage1_train (BBBC038), corrected masks",
            licence="CC0-1.0",
            split="validation when int(stem[:4], 16) % 5 == 0; thresholds tuned on a part of the rest",
        )
    ]
    if settings.nucls_images:
        data.append(TrainingData(name="NuCLS, breast H&E crops", licence="CC0-1.0", split="training only"))
    if settings.tissue_windows:
        name = "rendered liver of slidecascade_render.liver.tissue"
        data.append(TrainingData(name=name, licence="Apache-2.0", split="training only"))
    return tuple(data)


def halo_px(radius_px: int, stride: int) -> int:
    """The halo: receptive field plus the range of the watershed, in whole strides."""
    return -(-(radius_px + _PARTING_PX) // stride) * stride


def view_radius_px(widths: Sequence[int]) -> int:
    """The radius of the network's receptive field in pixels, along x or y.

    A fresh network with absolute weights has no cancelling paths, and on a black image its output is 0, so a
    single lit pixel shows its influence. All offsets relative to the stride are tried.
    """
    import keras

    network = build_network(widths)
    network.set_weights([np.abs(weights) for weights in network.get_weights()])
    before_sigmoid = keras.Model(network.input, network.layers[-1].input)
    middle, stride = 256, stride_of(widths)
    images = np.zeros((stride, 2 * middle, 2 * middle, 3), np.float32)
    places = middle + np.arange(stride)
    images[np.arange(stride), places, places] = 1.0
    is_reached = np.asarray(keras.ops.convert_to_numpy(before_sigmoid(images))).any(axis=-1)
    batch, rows, columns = np.nonzero(is_reached)
    return int(max(np.abs(rows - places[batch]).max(), np.abs(columns - places[batch]).max()))


def _card(spec: SegmenterSpec, settings: NucleiSettings, measured: Mapping[str, Accuracy]) -> Card:
    options, widths = UnetOptions.model_validate(spec.options.model_dump()), ", ".join(map(str, settings.widths))
    radius_px = view_radius_px(settings.widths)
    beyond_px, stride = spec.halo_px - radius_px, stride_of(settings.widths)
    return Card(
        name=spec.name,
        summary="Nuclei in fluorescence, stained and grey bright-field images, as instances.",
        facts=trained_facts(spec)
        | {
            "Input": f"`image`: uint8 RGB `(N, H, W, 3)`, H and W multiples of {stride}",
            "Output": "`maps`: uint8 `(N, H, W, 2)`, `round(255 * p)` of foreground and of relative depth (0 at a "
            "nucleus's rim, 1 where it is deepest)",
            "Head": f"`unet`, a seeded watershed: foreground {options.foreground}, seed {options.seed}, "
            f"prominence {options.prominence}, smallest area {options.min_area_um2} um2",
        },
        made=_MADE.format(settings=settings, widths=widths.replace(",", "")),
        measured=_measured(measured),
        limits=_LIMITS,
        sections={
            "Network": _NETWORK.format(
                widths=widths,
                radius=radius_px,
                halo=spec.halo_px,
                beyond=beyond_px,
                stride=stride,
                levels=len(settings.widths),
            ),
            "Data": _DATA.format(settings=settings),
        },
    )


def _measured(measured: Mapping[str, Accuracy]) -> str:
    head = ("images", "n", "AP50, mean of images", "AP50, pooled", "mean AP 0.5:0.95", "foreground Dice")
    rows = [
        (kind, a.images, f"{a.ap50:.3f}", f"{a.ap50_pooled:.3f}", f"{a.mean_ap:.3f}", f"{a.dice:.3f}")
        for kind, a in measured.items()
    ]
    return (
        "On the validation split, through the exported graph and the production head. "
        "AP is TP / (TP + FN + FP).\n\n" + table(head, rows)
    )


_NETWORK = """\
A U-Net of {levels} levels ({widths} filters from half of the resolution down), batch norm folded on export,
depth-to-space upsampling, and a narrow correction at full resolution. An output pixel depends on input pixels at
most {radius} px away, so tiles with a halo of {halo} px, aligned to {stride} px, give the maps of the whole image
in their cores and {beyond} px beyond, the range of the watershed."""
_DATA = """\
- Data Science Bowl 2018 stage1_train (BBBC038), corrected masks, CC0: 664 images. Validation when
  `int(stem[:4], 16) % 5 == 0`; of the rest, `int(stem[4:8], 16) % 10 == 0` tuned the thresholds; the others
  trained.
- NuCLS breast H&E: {settings.nucls_images} crops of 256 px, CC0, training only.
- Rendered liver tissue at 0.5 um per pixel: {settings.tissue_windows} windows of 512 px, training only.
- A part of the fluorescence crops was converted to rendered haematoxylin and eosin in training.
- The usual diameter of objects in crops, `object_diameter_px`, is the geometric mean over the training images of
  DSB 2018, weighted by how often each is drawn, of the median diameter in its masks times the factors between
  which it is scaled."""
_MADE = """\
{settings.steps} steps of {settings.batch} crops of 192 px, from scratch, the rate along one cosine.

    python -m slidecascade_training.nuclei --data DSB2018 --nucls NUCLS --tissue {settings.tissue_windows} \\
        --seed {settings.seed} --steps {settings.steps} --batch {settings.batch} --widths {widths} \\
        --scaling {settings.scaling} --out RUN
    python -m slidecascade_training.nuclei.package --data DSB2018 --run RUN --models models"""
_LIMITS = (
    "The bright-field validation images are few (10 colour, 3 grey): interpret their metrics accordingly.",
    "Of the grey cytology images many nuclei are not matched; do not rely on the network there.",
    "Nuclei wider than about 90 px, twice the network's view, may be split; rescale such images first.",
    "There is no instance truth for liver or skin; inspect the outlines before relying on counts there.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Package a trained run."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the DSB 2018 set")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--models", type=Path, required=True, help="model repository to write into")
    given = parser.parse_args(arguments)
    prepare_keras()
    package_run(given.data, given.run, given.models)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
