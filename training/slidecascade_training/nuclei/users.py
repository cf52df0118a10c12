"""The recipe of the bundled nuclei model on a user's own tiles: training, report, package."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from slidecascade.errors import ModelPackageError, UnusableDataError
from slidecascade.models.spec import SegmenterSpec, TrainingData
from slidecascade_convert.modelcard import Card
from slidecascade_evaluation import dsb2018
from slidecascade_training import packages
from slidecascade_training.claim import claim, read_claim
from slidecascade_training.datasets.folder import DatasetSpec
from slidecascade_training.exportprocess import PackageRequest, answer, package_by
from slidecascade_training.nuclei.crops import prepare
from slidecascade_training.nuclei.recipe import NucleiSettings, settings_of, train, trained
from slidecascade_training.nuclei.report import write_nuclei_report
from slidecascade_training.nuclei.thresholds import (
    MPP,
    accuracy_of,
    chosen_options,
    graph_predictor,
    measure_by_kind,
)
from slidecascade_training.recipes.package import measured_on_slides, trained_facts
from slidecascade_training.recipes.report import Report
from slidecascade_training.recipes.samples import TrainingSet
from slidecascade_training.recipes.settings import data_sha256_of
from slidecascade_training.recipes.table import NUCLEI, find_recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class NucleiRun:
    """A run in the folder `out` on the tiles in `data`; an existing run is resumed. `steps`: total; None: as for
    the bundled model.
    """

    data: Path
    out: Path
    seed: int
    steps: int | None = None

    def train(self) -> Report:
        """Train from the last checkpoint on, and measure the network.

        Raises:
            UnusableDataError: when `data` is not a set of labelled tiles usable for training.
            InvalidRequestError: when `out` contains another run.
            TrainingFailedError: the loss became NaN.
            UnwritableOutputError: a full disk.
        """
        read_tiles(self.data)
        images = list(dsb2018.read_images(self.data, "train"))
        if not any(item.labels.any() for item in images):
            raise UnusableDataError("No tile for training has a cell: outline some on more slides.")
        settings = settings_of(data_sha256_of(self.data), seed=self.seed, steps=self.steps)
        claim(self.out, settings)
        network, history = train(prepare(images), self.out, settings)
        return write_nuclei_report(network, self.data, self.out, settings, history)


def read_tiles(data: Path) -> DatasetSpec:
    """The data set's description; the header of every tile is checked.

    Raises:
        UnusableDataError: no tiles with labels.
    """
    # Any size is valid: the recipe extracts its own crops.
    return TrainingSet.read(data, replace(find_recipe(NUCLEI), multiple_of=1)).spec


def package(request: PackageRequest) -> None:
    """Export, choose thresholds, measure, and write ``models_dir/name`` atomically.

    Raises:
        ModelPackageError: the graph differs from the network, or the service rejects it.
        UnwritableOutputError: a full disk.
    """
    package_by(package_run, request)


def package_run(request: PackageRequest) -> None:
    """`package` in this process, whose backend is the exporter's."""
    settings = read_claim(request.run, NucleiSettings)
    network, history = trained(request.run, settings)
    if not history.epochs:
        raise ModelPackageError(f"{request.run} contains no trained network: train it first.")
    exported = packages.export_segmenter(network, find_recipe(NUCLEI).pixels)
    predict = graph_predictor(exported.graph)
    options = chosen_options(list(dsb2018.read_images(request.data, "tune")), predict)
    held_out = list(dsb2018.read_images(request.data, "validate"))
    accuracy = accuracy_of(measure_by_kind(held_out, predict, options), by_kind=False)
    data = read_tiles(request.data)
    recipe = find_recipe(NUCLEI)
    # Areas were compared in pixels of the bundled model's size.
    least_area_um2 = round(options.min_area_um2 * (data.mpp / MPP) ** 2, 4)
    stated = packages.Statement(
        name=request.name,
        version=packages.next_version(request.models_dir / request.name),
        mpp=data.mpp,
        classes=data.classes,
        licence=request.licence,
        training_data=(
            TrainingData(name=data.name, licence="not stated", split=f"tiles of slides held out: {len(held_out)}"),
        ),
        accuracy=accuracy,
    )
    spec = packages.segmenter_spec(
        stated,
        exported,
        multiple_of=recipe.multiple_of,
        halo_px=recipe.halo_px,
        options=options.model_copy(update={"min_area_um2": least_area_um2}),
    )
    packages.write(request.models_dir, spec, exported, _card(spec), max_batch=8)


def _card(spec: SegmenterSpec) -> Card:
    return Card(
        name=spec.name,
        summary="Trained on a user's own outlines by the recipe of the bundled nuclei model.",
        facts=trained_facts(spec),
        made=f"`slidecascade train {NUCLEI}` on the data set {spec.training_data[0].name!r}.",
        measured=measured_on_slides(spec.accuracy),
        limits=("Accuracy on slides of other laboratories or scanners is unknown.",),
        sections={},
    )


if __name__ == "__main__":
    raise SystemExit(answer(package_run))
