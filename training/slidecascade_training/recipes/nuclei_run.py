"""The recipe of the bundled nuclei model on a user's own tiles."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slidecascade.errors import InvalidRequestError, ModelPackageError, SlideCascadeError, UnusableDataError
from slidecascade_evaluation import dsb2018
from slidecascade_evaluation.scores import measure
from slidecascade_training import nuclei, nuclei_package
from slidecascade_training.datasets.folder import DatasetSpec
from slidecascade_training.nuclei_crops import prepare
from slidecascade_training.recipes.fit import imported_keras
from slidecascade_training.recipes.nuclei_report import LossCurve, chosen_options, write_nuclei_report
from slidecascade_training.recipes.packaging import (
    EXPORTER,
    PackageRequest,
    answer,
    next_version,
    package_elsewhere,
    verify,
)
from slidecascade_training.recipes.report import Report
from slidecascade_training.recipes.samples import TrainingSet
from slidecascade_training.recipes.settings import data_sha256_of
from slidecascade_training.recipes.table import NUCLEI, find_recipe
from slidecascade_training.staging import unwritable, write_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class NucleiRun:
    """A run in the folder `out` on the tiles in `data`; the same run is resumed.

    `steps` in all; None: as many as the bundled model was trained.
    """

    data: Path
    out: Path
    seed: int
    steps: int | None = None

    def train(self) -> Report:
        """Train as `slidecascade_training.nuclei` does, from the last checkpoint on, and measure the network.

        Raises:
            UnusableDataError: `data` is no set of tiles with labels that can be learned from.
            InvalidRequestError: `out` holds another run.
            TrainingFailedError: the loss became no number.
            UnwritableOutputError: a full disk.
        """
        read_tiles(self.data)
        images = list(dsb2018.read_images(self.data, "train"))
        if not any(item.labels.any() for item in images):
            raise UnusableDataError("No tile for training has a cell: outline some on more slides.")
        self._claim()
        imported_keras().utils.set_random_seed(self.seed)
        curve = LossCurve(self.out)
        with _progress_told():
            network = nuclei.train(
                prepare(images),
                self.out,
                seed=self.seed,
                steps=self._steps,
                widths=nuclei.WIDTHS,
                watch=curve.add,
            )
        return write_nuclei_report(network, self.data, self.out, self._settings)

    @property
    def _steps(self) -> int:
        return nuclei.STEPS if self.steps is None else self.steps

    @property
    def _settings(self) -> dict[str, object]:
        return {
            "recipe": NUCLEI, "seed": self.seed, "steps": self._steps, "widths": list(nuclei.WIDTHS),
            "data_sha256": data_sha256_of(self.data), "nucls_images": 0, "tissue_windows": 0,
        }  # fmt: skip

    def _claim(self) -> None:
        notes = self.out / "run.json"
        text = (json.dumps(self._settings, indent=2) + "\n").encode()
        if notes.is_file():
            if notes.read_bytes() != text:
                raise InvalidRequestError(
                    f"{self.out} holds a run with other data, another seed or other --steps: repeat them to "
                    "resume it, or choose another --out."
                )
            return
        if self.out.exists() and not (self.out.is_dir() and not any(self.out.iterdir())):
            raise InvalidRequestError(f"{self.out} is there already and holds no run: choose another --out.")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.out, error) from error
        write_whole(notes, text)


def read_tiles(data: Path) -> DatasetSpec:
    """The data set's description; the header of every tile is looked at.

    Raises:
        UnusableDataError: no tiles with labels.
    """
    # Any size will do: the recipe cuts crops of its own.
    return TrainingSet.read(data, replace(find_recipe("unet-256"), name=NUCLEI, multiple_of=1)).spec


def package(request: PackageRequest) -> None:
    """Export, choose thresholds, measure and write ``models_dir/name``, whole or not at all.

    Raises:
        ModelPackageError: the graph differs from the network, or the service would refuse it.
        UnwritableOutputError: a full disk.
    """
    import keras

    if keras.backend.backend() == EXPORTER:
        _package_here(request)
    else:
        package_elsewhere(request, __spec__.name)


def _package_here(request: PackageRequest) -> None:
    from slidecascade_convert.keras import onnx_from_keras
    from slidecascade_convert.package import write_package
    from slidecascade_convert.parity import ParityError, check_parity

    try:
        network = nuclei.Trainer(request.run).network
    except FileNotFoundError as error:
        raise ModelPackageError(str(error)) from error
    try:
        graph = onnx_from_keras(network, scale=nuclei_package.SCALE, output_name="maps", as_bytes=True)
        check_parity(network, graph, scale=nuclei_package.SCALE)
        fields = _fields(request, nuclei_package.graph_predictor(graph))
        write_package(request.models_dir, fields, graph, _card(fields), verify=verify, max_batch=8)
    except ParityError as error:
        raise ModelPackageError(str(error)) from error
    except OSError as error:
        if isinstance(error, SlideCascadeError):
            raise
        raise unwritable(request.models_dir, error) from error


def _fields(request: PackageRequest, predict: Any) -> dict[str, Any]:
    """``model.yaml`` without its sha256."""
    spec = read_tiles(request.data)
    options = chosen_options(request.data, predict)
    held_out = list(dsb2018.read_images(request.data, "validate"))
    measured: dict[str, float] = {}
    if held_out:
        of = measure([(item.labels, nuclei_package.decode(predict(item.image), options)) for item in held_out])
        measured = {"ap50": of.ap50, "ap50_pooled": of.ap50_pooled, "mean_ap": of.mean_ap, "dice": of.dice}
    # Areas were compared in pixels of the bundled model's size.
    least_area_um2 = options.min_area_um2 * (spec.mpp / nuclei_package.MPP) ** 2
    return {
        "name": request.name,
        "version": next_version(request.models_dir / request.name),
        "task": "segment",
        "head": "unet",
        "mpp": spec.mpp,
        "input": {"height_px": None, "width_px": None, "multiple_of": nuclei_package.MULTIPLE_OF},
        "halo_px": nuclei_package.HALO_PX,
        "classes": [{"name": item.name, "color": list(item.color)} for item in spec.classes],
        "options": {
            "foreground": options.foreground,
            "seed": options.seed,
            "prominence": options.prominence,
            "min_area_um2": round(least_area_um2, 4),
        },
        "licence": request.licence,
        "training_data": [
            {"name": spec.name, "licence": "not stated", "split": f"tiles of slides held out: {len(held_out)}"}
        ],
        "accuracy": {name: round(value, 4) for name, value in measured.items()},
    }


def _card(fields: dict[str, Any]) -> str:
    rows = [f"| {name} | {value:.4f} |" for name, value in fields["accuracy"].items()]
    measured = (
        [
            "The served graph with the production head, on slides no training step saw:",
            "",
            "| | |",
            "|---|---:|",
            *rows,
        ]
        if rows
        else ["Nothing: no slide was kept for validation, so nobody knows how good it is."]
    )
    made = f"`slidecascade train {NUCLEI}` on the data set {fields['training_data'][0]['name']!r}."
    head = [f"# {fields['name']}", "", "For Research Use Only. Not for use in diagnostic procedures.", ""]
    return "\n".join([*head, made, "", "## Measured", "", *measured, ""])


@contextmanager
def _progress_told() -> Iterator[None]:
    """The steps on stdout while the block runs."""
    told, handler = logging.getLogger(nuclei.__name__), logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    before = told.level
    told.addHandler(handler)
    told.setLevel(logging.INFO)
    try:
        yield
    finally:
        told.removeHandler(handler)
        told.setLevel(before)


if __name__ == "__main__":
    raise SystemExit(answer(_package_here))
