"""From a finished run on a user's data to a served model package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from slidecascade.heads.head import SegmenterOptions
from slidecascade.heads.unet import UnetOptions
from slidecascade.models.spec import ClassifierSpec, SegmenterSpec, TrainingData
from slidecascade.privacy import forbid_telemetry
from slidecascade_convert.modelcard import Card, figures_table
from slidecascade_evaluation.scores import tally_of
from slidecascade_training.checkpoint import Checkpoints
from slidecascade_training.claim import read_claim
from slidecascade_training.datasets.folder import Example
from slidecascade_training.exportprocess import PackageRequest, answer, package_by
from slidecascade_training.packages import (
    Exported,
    Statement,
    classifier_spec,
    export_classifier,
    export_segmenter,
    next_version,
    segmenter_spec,
    write,
)
from slidecascade_training.recipes import areas, cells
from slidecascade_training.recipes.figures import figures_of
from slidecascade_training.recipes.report import headline
from slidecascade_training.recipes.run import compiled, plan_of
from slidecascade_training.recipes.samples import TrainingSet
from slidecascade_training.recipes.settings import RunSettings
from slidecascade_training.recipes.table import Recipe, find_recipe

_SIZES: Final = ((256, 256), (80, 144))
"""Heights and widths a segmenter's graph is compared at: multiples of 16 that are not all powers of two."""


def package(request: PackageRequest) -> None:
    """Write ``models_dir/name`` atomically.

    Raises:
        ModelPackageError: the graph differs from the network, or the service rejects the package.
        UnwritableOutputError: a full disk.
    """
    package_by(package_run, request)


def package_run(request: PackageRequest) -> None:
    """Package the best epoch of a run in this process, whose backend is the exporter's."""
    settings = read_claim(request.run, RunSettings)
    recipe = find_recipe(settings.recipe)
    data = TrainingSet.read(request.data, recipe)
    plan = plan_of(data, settings)
    model = compiled(recipe, len(data.spec.classes), plan, seed=settings.seed, loss_name=settings.loss)
    checkpoints = Checkpoints(request.run / "checkpoints")
    checkpoints.restore(model, checkpoints.restore_last(model).best)
    if recipe.task == "classify":
        exported = export_classifier(model, recipe.pixels, input_px=recipe.input_px)
    else:
        exported = export_segmenter(model, recipe.pixels, sizes_px=_SIZES)
    spec = _spec(request, exported, data, recipe)
    card = _card(spec, recipe, settings, exported.max_difference)
    write(request.models_dir, spec, exported, card)


def _spec(
    request: PackageRequest, exported: Exported, data: TrainingSet, recipe: Recipe
) -> SegmenterSpec | ClassifierSpec:
    slides = len({item.slide for item in data.validate})
    held_out = f"slides held out: {slides or 'none'}"
    stated = Statement(
        name=request.name,
        version=next_version(request.models_dir / request.name),
        mpp=data.spec.mpp,
        classes=data.spec.classes,
        licence=request.licence,
        training_data=(TrainingData(name=data.spec.name, licence="not stated", split=held_out),),
        accuracy=_measured(exported.graph, data, recipe),
    )
    if recipe.task == "classify":
        return classifier_spec(stated, exported, input_px=recipe.input_px, crop_px=data.spec.size_px)
    if recipe.finds_areas:
        return segmenter_spec(
            stated,
            exported,
            head="semantic",
            multiple_of=recipe.multiple_of,
            halo_px=recipe.halo_px,
            options=SegmenterOptions(foreground=areas.FOREGROUND, min_area_um2=0.0),
        )
    options = UnetOptions(foreground=cells.FOREGROUND, seed=cells.SEED, min_area_um2=cells.MIN_AREA_UM2)
    return segmenter_spec(
        stated, exported, multiple_of=recipe.multiple_of, halo_px=recipe.halo_px, options=options
    )


def _measured(graph: Any, data: TrainingSet, recipe: Recipe) -> dict[str, float]:
    """Figures of the served graph itself on the slides kept for validation; none when none were kept."""
    forbid_telemetry()
    import onnxruntime

    if not data.validate:
        return {}
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    if recipe.task == "classify":
        run = _runner(session, data, recipe.input_px)
        probabilities = np.concatenate([run(part) for part in _parts(data.validate, 64)])
        return headline(figures_of(probabilities, data.class_numbers(data.validate), data.spec.class_names))
    run, mpp = _runner(session, data, data.spec.size_px), data.spec.mpp
    if recipe.finds_areas:
        return areas.pooled(areas.compared(data.labels(item), run((item,))[0]) for item in data.validate)
    return cells.figures_of(
        [tally_of(data.labels(item), cells.decoded(run((item,))[0], mpp)) for item in data.validate]
    )


def _parts(examples: tuple[Example, ...], size: int) -> list[tuple[Example, ...]]:
    return [examples[start : start + size] for start in range(0, len(examples), size)]


def _runner(session: Any, data: TrainingSet, size_px: int) -> Callable[[tuple[Example, ...]], Any]:
    def run(part: tuple[Example, ...]) -> Any:
        return session.run(None, {"image": np.stack([data.image(example, size_px) for example in part])})[0]

    return run


def _card(
    spec: SegmenterSpec | ClassifierSpec, recipe: Recipe, settings: RunSettings, max_difference: float
) -> Card:
    data, unit = spec.training_data[0], "probability" if recipe.task == "classify" else "grey levels of 255"
    unweighted = "" if settings.class_weights else " --no-class-weights"
    loss = "" if settings.loss is None else f" --loss {settings.loss}"
    made = f"""\
Recipe `{recipe.name}` on the data set {data.name!r} (sha256 of its lists {settings.data_sha256[:12]}),
{data.split}: at most {settings.epochs} epochs of batches of {settings.batch}, highest rate {settings.rate:g}
({settings.schedule}), seed {settings.seed}.

    slidecascade train {recipe.name} --data DATA --out RUN --epochs {settings.epochs} --batch {settings.batch} \\
        --rate {settings.rate:g} --schedule {settings.schedule} --patience {settings.patience} \\
        --seed {settings.seed}{unweighted}{loss} --package --name {spec.name}

The graph differs from the network by at most {max_difference:.2g} ({unit})."""
    return Card(
        name=spec.name,
        summary=f"Trained on a user's own annotations: {recipe.summary}.",
        facts=trained_facts(spec),
        made=made,
        measured=measured_on_slides(spec.accuracy),
        limits=("Accuracy on slides of other laboratories or scanners is unknown.",),
        sections={},
    )


def trained_facts(spec: SegmenterSpec | ClassifierSpec) -> dict[str, str]:
    """Rows of the card's table that follow from the specification."""
    return {
        "Task": spec.task,
        "Classes": ", ".join(item.name for item in spec.classes),
        "Resolution": f"{spec.mpp:g} um per pixel",
        "Licence": spec.licence,
    }


def measured_on_slides(accuracy: dict[str, float]) -> str:
    """The card's figures of a network trained on a user's slides."""
    if not accuracy:
        return "None: no slide was kept for validation, so the accuracy is unknown."
    return "The served graph on held-out slides:\n\n" + figures_table(accuracy)


if __name__ == "__main__":
    raise SystemExit(answer(package_run))
