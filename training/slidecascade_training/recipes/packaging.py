"""From a finished run to a served model package.

The exporter speaks TensorFlow. A run on another backend is therefore exported by a process of its own, which
builds the same network and reads the checkpoint: `python -m slidecascade_training.recipes.packaging`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from slidecascade.errors import ModelPackageError, SlideCascadeError, TrainingFailedError
from slidecascade_evaluation.scores import tally_of
from slidecascade_training.datasets.folder import Example
from slidecascade_training.recipes import cells
from slidecascade_training.recipes.card import card_of
from slidecascade_training.recipes.checkpoint import Checkpoints
from slidecascade_training.recipes.figures import figures_of
from slidecascade_training.recipes.fit import compiled, plan_of, prepare_keras
from slidecascade_training.recipes.report import headline
from slidecascade_training.recipes.samples import TrainingSet
from slidecascade_training.recipes.settings import RunSettings
from slidecascade_training.recipes.table import Recipe, find_recipe
from slidecascade_training.staging import unwritable

EXPORTER: Final = "tensorflow"
_SIZES: Final = ((256, 256), (80, 144))
"""Heights and widths a segmenter's graph is compared at: multiples of 16 that are not all powers of two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageRequest:
    """What to package under which name."""

    run: Path
    data: Path
    name: str
    models_dir: Path
    licence: str


def package(request: PackageRequest, model: Any, data: TrainingSet, recipe: Recipe, settings: RunSettings) -> None:
    """Write ``models_dir/name``, whole or not at all.

    Raises:
        ModelPackageError: the graph differs from the network, or the service would refuse the package.
        UnwritableOutputError: a full disk.
    """
    import keras

    if keras.backend.backend() == EXPORTER:
        _package_here(request, model, data, recipe, settings)
    else:
        package_elsewhere(request, __spec__.name)


def _package_here(
    request: PackageRequest, model: Any, data: TrainingSet, recipe: Recipe, settings: RunSettings
) -> None:
    from slidecascade_convert.keras import onnx_from_keras
    from slidecascade_convert.package import write_package
    from slidecascade_convert.parity import ParityError, check_parity

    classifying = recipe.task == "classify"
    size = recipe.input_px if classifying else None
    try:
        graph = onnx_from_keras(
            model,
            scale=recipe.scale,
            offset=recipe.offset,
            output_name="probabilities" if classifying else "maps",
            as_bytes=not classifying,
            height_px=size,
            width_px=size,
        )
        sizes = _SIZES if size is None else ((size, size),)
        parity = check_parity(model, graph, scale=recipe.scale, offset=recipe.offset, sizes_px=sizes)
        measured = _measured(graph, data, recipe)
        fields = _fields(request, data, recipe, measured)
        card = card_of(fields, recipe, settings, max_difference=parity.max_abs)
        write_package(request.models_dir, fields, graph, card, verify=verify)
    except ParityError as error:
        raise ModelPackageError(str(error)) from error
    except OSError as error:
        if isinstance(error, SlideCascadeError):
            raise
        raise unwritable(request.models_dir, error) from error


def verify(graph_path: Path) -> None:
    """Load the package as the service will, before it is put in place."""
    from slidecascade.models.repository import load_package
    from slidecascade.runners.local import LocalRunner

    LocalRunner([load_package(graph_path.parents[1])]).close()


def _measured(graph: Any, data: TrainingSet, recipe: Recipe) -> dict[str, float]:
    """Figures of the served graph itself on the slides kept for validation; none when none were kept."""
    import onnxruntime

    if not data.validate:
        return {}
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    if recipe.task == "classify":
        run = _runner(session, data, recipe.input_px)
        probabilities = np.concatenate([run(part) for part in _parts(data.validate, 64)])
        figures = figures_of(probabilities, data.class_numbers(data.validate), data.spec.class_names)
        measured = headline(figures)
    else:
        run, mpp = _runner(session, data, data.spec.size_px), data.spec.mpp
        tallies = [tally_of(data.labels(item), cells.decoded(run((item,))[0], mpp)) for item in data.validate]
        measured = cells.figures_of(tallies)
    return {name: round(value, 4) for name, value in measured.items() if np.isfinite(value)}


def _parts(examples: tuple[Example, ...], size: int) -> list[tuple[Example, ...]]:
    return [examples[start : start + size] for start in range(0, len(examples), size)]


def _runner(session: Any, data: TrainingSet, size_px: int) -> Callable[[tuple[Example, ...]], Any]:
    def run(part: tuple[Example, ...]) -> Any:
        return session.run(None, {"image": np.stack([data.image(example, size_px) for example in part])})[0]

    return run


def _fields(
    request: PackageRequest, data: TrainingSet, recipe: Recipe, measured: dict[str, float]
) -> dict[str, object]:
    """``model.yaml`` without its sha256."""
    spec = data.spec
    slides = len({item.slide for item in data.validate})
    held_out = f"slides held out: {slides or 'none'}"
    common: dict[str, object] = {
        "name": request.name,
        "version": next_version(request.models_dir / request.name),
        "mpp": spec.mpp,
        "classes": [{"name": item.name, "color": list(item.color)} for item in spec.classes],
        "licence": request.licence,
        "training_data": [{"name": spec.name, "licence": "not stated", "split": held_out}],
        "accuracy": measured,
    }
    if recipe.task == "classify":
        size = recipe.input_px
        return common | {
            "task": "classify",
            "head": "softmax",
            "input": {"height_px": size, "width_px": size, "multiple_of": 1},
            "crop": {"size_px": spec.size_px},
        }
    return common | {
        "task": "segment",
        "head": "unet",
        "input": {"height_px": None, "width_px": None, "multiple_of": recipe.multiple_of},
        "halo_px": recipe.halo_px,
        "options": {"foreground": cells.FOREGROUND, "seed": cells.SEED, "min_area_um2": cells.MIN_AREA_UM2},
    }


def next_version(folder: Path) -> int:
    """One more than the version of the package that is replaced."""
    try:
        return int(yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8"))["version"]) + 1
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return 1


def package_elsewhere(request: PackageRequest, module: str) -> None:
    """Have `module` package the run in a process whose backend is the exporter's.

    Raises:
        TrainingFailedError: it failed; the sentence is its last.
    """
    given = json.dumps({name: str(value) for name, value in asdict(request).items()})
    done = subprocess.run(  # noqa: S603 - a module of ours
        [sys.executable, "-m", module, given],
        env={**os.environ, "KERAS_BACKEND": EXPORTER},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        told = done.stderr.strip().splitlines()
        raise TrainingFailedError(told[-1] if told else "The export ended without a word: try it again.")


def _request_of() -> PackageRequest:
    """What `package_elsewhere` asks of this process."""
    parser = argparse.ArgumentParser(description="Package a run, told as JSON.")
    parser.add_argument("request")
    fields = json.loads(parser.parse_args().request)
    return PackageRequest(
        run=Path(fields["run"]),
        data=Path(fields["data"]),
        name=fields["name"],
        models_dir=Path(fields["models_dir"]),
        licence=fields["licence"],
    )


def answer(work: Callable[[PackageRequest], None]) -> int:
    """The exit code of the process of `package_elsewhere`; its last line on stderr says what went wrong."""
    request = _request_of()
    prepare_keras()
    try:
        work(request)
    except SlideCascadeError as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1
    return 0


def _package_run(request: PackageRequest) -> None:
    notes = json.loads((request.run / "run.json").read_text(encoding="utf-8"))
    settings = RunSettings(**notes)
    recipe = find_recipe(settings.recipe)
    data = TrainingSet.read(request.data, recipe)
    model = compiled(recipe, len(data.spec.classes), plan_of(data, settings), seed=settings.seed)
    checkpoints = Checkpoints(request.run / "checkpoints")
    checkpoints.restore(model, checkpoints.restore_last(model).best)
    _package_here(request, model, data, recipe, settings)


if __name__ == "__main__":
    raise SystemExit(answer(_package_run))
