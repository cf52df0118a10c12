"""``slidecascade train``: trains a recipe on a data set, and writes its report and package."""

from __future__ import annotations

import argparse
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from slidecascade.errors import InvalidRequestError, MissingExtraError, SettingsError
from slidecascade_training.backend import prepare_keras
from slidecascade_training.datasets.split import VALIDATE
from slidecascade_training.exportprocess import PackageRequest
from slidecascade_training.nuclei import users as nuclei
from slidecascade_training.recipes import plots
from slidecascade_training.recipes.losses import LOSSES
from slidecascade_training.recipes.package import package
from slidecascade_training.recipes.rate import find_rate
from slidecascade_training.recipes.report import Report, write_report
from slidecascade_training.recipes.run import train
from slidecascade_training.recipes.samples import TrainingSet
from slidecascade_training.recipes.settings import RunSettings
from slidecascade_training.recipes.table import NUCLEI, RECIPES, Recipe, find_recipe

TRANSLATOR = "translator"
"""The recipe that draws images; it is trained by PyTorch."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help=", ".join((*RECIPES, TRANSLATOR)))
    parser.add_argument("--data", type=Path, required=True, help="folder written by `slidecascade dataset`")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an existing run is resumed")
    parser.add_argument("--epochs", type=int, help="maximum number of epochs (default: the recipe's)")
    parser.add_argument(
        "--steps",
        type=int,
        help=f"{NUCLEI}: steps of 64 crops (default: 6000, minutes on a large GPU, half a day on a CPU); "
        f"{TRANSLATOR}: steps of 4 crops (default: 2000)",
    )
    parser.add_argument("--batch", type=int, help="examples per step (default: the recipe's)")
    parser.add_argument("--rate", type=float, help="maximum learning rate (default: the recipe's)")
    parser.add_argument("--schedule", choices=("constant", "cosine", "cyclical"), help="default: the recipe's")
    parser.add_argument(
        "--patience",
        type=int,
        default=10,
        help="stop after this number of epochs without improvement; 0: never (default: 10)",
    )
    parser.add_argument(
        "--loss", choices=tuple(LOSSES), help="recipes of areas only: what is minimised (default: the recipe's)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and augmentation (default: 0)")
    parser.add_argument("--no-class-weights", action="store_true", help="do not weight rare classes")
    parser.add_argument("--find-rate", action="store_true", help="run only the learning-rate range test")
    parser.add_argument("--find-rate-steps", type=int, default=200, help="steps of the range test (default: 200)")
    parser.add_argument("--package", action="store_true", help="convert, compare and write a model package")
    parser.add_argument("--name", help="name of the package")
    parser.add_argument("--models", type=Path, help="folder of model packages (default: models)")
    parser.add_argument("--licence", default="not stated", help="stated in the package (default: not stated)")


def run(arguments: argparse.Namespace) -> int:
    """Train or resume, report and write the package; returns the exit code."""
    if arguments.recipe == TRANSLATOR:
        return _train_translator(arguments)
    _require_extra()
    recipe = find_recipe(arguments.recipe)
    if arguments.package:
        _require_name(arguments)
    prepare_keras()
    if recipe.steps is not None:
        return _train_nuclei(arguments)
    if arguments.steps is not None:
        raise InvalidRequestError(f"The recipe {recipe.name} has no --steps: set --epochs instead.")
    data = TrainingSet.read(arguments.data, recipe)
    settings = RunSettings.of(
        recipe,
        arguments.data,
        epochs=arguments.epochs,
        batch=arguments.batch,
        rate=arguments.rate,
        schedule=arguments.schedule,
        patience=arguments.patience,
        seed=arguments.seed,
        class_weights=not arguments.no_class_weights,
        loss=arguments.loss,
    )
    if arguments.find_rate:
        return _find_rate(arguments, data, recipe, settings)
    settings.claim(arguments.out)
    model, history = train(data, recipe, settings, arguments.out)
    report = write_report(model, data, recipe, settings, history, arguments.out / "report")
    sys.stdout.write(f"Epoch {history.best} is kept. ")
    _print_summary(report, arguments.out)
    if arguments.package:
        request = _request_of(arguments)
        package(request)
        sys.stdout.write(f"The model is in {request.models_dir / request.name}.\n")
    return 0


def _train_nuclei(arguments: argparse.Namespace) -> int:
    """Train the bundled model's recipe; options that would change its rates or augmentation are rejected."""
    for option in ("epochs", "batch", "rate", "schedule", "no_class_weights", "find_rate", "loss"):
        given = getattr(arguments, option)
        if given is not None and given is not False:  # 0 is a value, too
            shorter = "set --steps instead" if option == "epochs" else "omit it, or use unet-256"
            raise InvalidRequestError(f"The recipe {NUCLEI} has no --{option.replace('_', '-')}: {shorter}.")
    if arguments.seed < 0:
        raise InvalidRequestError("--seed must be at least 0.")
    if arguments.steps is not None and arguments.steps < 1:
        raise InvalidRequestError("--steps must be at least 1.")
    run = nuclei.NucleiRun(data=arguments.data, out=arguments.out, seed=arguments.seed, steps=arguments.steps)
    _print_summary(run.train(), arguments.out)
    if arguments.package:
        request = _request_of(arguments)
        nuclei.package(request)
        sys.stdout.write(f"The model is in {request.models_dir / request.name}.\n")
    return 0


def _train_translator(arguments: argparse.Namespace) -> int:
    """Train the image translator on fluorescence images of the DSB set; unused options are rejected."""
    for option in ("epochs", "rate", "schedule", "no_class_weights", "find_rate"):
        given = getattr(arguments, option)
        if given is not None and given is not False:
            raise InvalidRequestError(
                f"The recipe {TRANSLATOR} has no --{option.replace('_', '-')}: leave it out."
            )
    if arguments.package:
        _require_name(arguments)
    for name in ("torch", "onnx"):
        if find_spec(name) is None:
            raise MissingExtraError.of(name, "convert", f"for `slidecascade train {TRANSLATOR}`")
    from slidecascade_training.translator.package import package_run
    from slidecascade_training.translator.recipe import TranslatorSettings, pairs_of, train

    stated = {name: getattr(arguments, name) for name in ("seed", "steps", "batch")}
    settings = TranslatorSettings(**{name: value for name, value in stated.items() if value is not None})
    if settings.seed < 0 or settings.steps < 1 or settings.batch < 1:
        raise InvalidRequestError("--seed must be at least 0, --steps and --batch at least 1.")
    train(pairs_of(arguments.data, "train"), arguments.out, settings)
    if arguments.package:
        request = _request_of(arguments)
        folder = package_run(request.data, request.run, request.models_dir, request.name, request.licence)
        sys.stdout.write(f"The model is in {folder}.\n")
    return 0


def _require_name(arguments: argparse.Namespace) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", arguments.name or ""):
        raise InvalidRequestError("--package needs a --name of lower-case letters, digits, dots and dashes.")


def _print_summary(report: Report, out: Path) -> None:
    kept = report.measured_on == VALIDATE
    where = "validation slides" if kept else "training slides, because there is no validation split"
    sys.stdout.write(f"Measured on {where}:\n")
    for name, value in report.figures.items():
        sys.stdout.write(f"{value:8.4f}  {name.replace('_', ' ')}\n")
    sys.stdout.write(f"The report is in {out / 'report'}.\n")


def _request_of(arguments: argparse.Namespace) -> PackageRequest:
    return PackageRequest(
        run=arguments.out,
        data=arguments.data,
        name=arguments.name,
        models_dir=arguments.models or Path("models"),
        licence=arguments.licence,
    )


def _find_rate(arguments: argparse.Namespace, data: TrainingSet, recipe: Recipe, settings: RunSettings) -> int:
    if arguments.find_rate_steps < 20:
        raise InvalidRequestError("--find-rate-steps must be at least 20.")
    advice = find_rate(data, recipe, settings, arguments.out, steps=arguments.find_rate_steps)
    sys.stdout.write(f"Train at --rate {advice:.2g} or less; the curve is in {arguments.out / 'rates.png'}.\n")
    return 0


def _require_extra() -> None:
    """Check the requirements before the training.

    Raises:
        MissingExtraError: when a package of [train] or the backend is not installed.
        SettingsError: when Keras does not have the backend.
    """
    for name in ("keras", "tensorflow", "tf2onnx", "onnx", "onnxruntime", "scipy", "sklearn", "tensorboardX"):
        if find_spec(name) is None:
            raise MissingExtraError.of(name, "train", "for `slidecascade train`")
    plots.require_matplotlib()
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend not in ("tensorflow", "torch", "jax"):
        raise SettingsError(
            f"KERAS_BACKEND is {backend!r}, which Keras does not have: use tensorflow, torch or jax."
        )
    if find_spec(backend) is None:
        raise MissingExtraError(f"{backend} is not installed: install it, or use another KERAS_BACKEND.")
