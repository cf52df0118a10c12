"""The served packages of the nash classifiers: specification and card."""

from __future__ import annotations

from pathlib import Path

from slidecascade.heads.head import ClassifierOptions
from slidecascade.models.spec import ClassifierSpec, ModelClass, TrainingData
from slidecascade_convert.modelcard import Card, table
from slidecascade_render.liver.crops import MPP, Task
from slidecascade_training import packages
from slidecascade_training.nash.crops import Seeds
from slidecascade_training.nash.recipe import Result
from slidecascade_training.recipes.package import trained_facts

_SUMMARY = """\
**Demonstration weights, trained on rendered tissue only. No patient's slide was used.** {question} They make
the `nash` pipeline run out of the box; to analyse real tissue, convert and serve a classifier trained on it."""
_MADE = """\
    python -m slidecascade_training.nash --only {name} --seed {seed} --windows {windows} --steps {steps} \\
        --out runs/nash --package models

{windows} rendered windows of 768 x 768 px, each another specimen, stain and scanner: hues and strengths of both
stains, sizes of cells and nuclei, darkness of hepatocytes' nuclei, number and size of vacuoles, glycogen,
basophilia, width and blood of sinusoids, clefts, inflammation, focus, sharpening, noise, JPEG quality and pixel
size (0.22 to 0.28 um/px, a third of them at half that resolution and enlarged). {steps} steps of {batch} crops,
every class equally often, each crop turned, scaled, restained, relit, refocused and compressed at random;
{minutes:.0f} minutes in all. Seed {seed} determines all random choices: windows {training} trained,
{calibration} calibrated, {held_out} measured.

{definition}"""
_MEASURED = """\
The served ONNX graph on crops of the held-out windows: **balanced accuracy {balanced:.4f}**.

{confusion}

Rows are the truth, columns the predictions.

**Calibration.** The logits are divided by {temperature:.3f} inside the graph, fitted on the calibration
windows. Expected calibration error (15 bins) on the held-out windows: {ece_before:.4f} before, {ece:.4f} after.

**Floor.** A cell none of whose classes reaches {floor:.2f} is `Unclassified` by default; it is the highest floor
that leaves at most 2 % of the calibration crops without a class. On the held-out windows it leaves
{unclassified:.1%} out; for those the best class would have been right {below:.0%} of the time, of the others it is
{above:.2%}."""
_RENDERED = """\
Held-out windows come from the same renderer: the figures show that the recipe works, not the accuracy
  on real tissue. Temperature and floor apply to real tissue only as far as the renderer is realistic."""
_NEVER_SEEN = """\
Rendered tissue has no pigment, bile, necrosis, mitoses or folds; such crops are classified all the same."""

_QUESTIONS = {
    "nash-cell": "Which cell does a nucleus belong to?",
    "nash-hepatocyte": "In what state is a hepatocyte?",
}
_DEFINITIONS = {
    "nash-cell": """\
`Other` is every nucleus of another kind (lining cells, fibroblasts, bile ducts), and what is no nucleus at all:
cytoplasm between vacuoles, red cells, torn edges, picked where the renderer knows of no nucleus.""",
    "nash-hepatocyte": """\
`Steatosis` is a hepatocyte whose own vacuoles cover at least 14 % of its profile, one of them or many; `Normal`
has up to 7 %. Nothing between is rendered, so the line lies at about an eighth: more than the nucleus covers. A
vacuole of the neighbour, a sinusoid or a cleft does not count.""",
}
_MEASURED_BY = """\
Real liver is measured and drawn by `python -m benchmarks.real_tissue`; nothing was trained on it."""
_CHECKED_BY_EYE = {
    "nash-cell": f"""\
{_MEASURED_BY} On two GTEx tiles at 20x: round pale nuclei of normal parenchyma are hepatocytes, the dark ones of
portal infiltrate are immune, and slivers of cytoplasm between vacuoles, red cells and lining cells are `Other`.
In heavy steatosis small dark hepatocyte nuclei are still called immune now and then, and some slivers
hepatocytes.""",
    "nash-hepatocyte": f"""\
{_MEASURED_BY} On two GTEx tiles at 20x: nearly all hepatocytes among large vacuoles are steatotic; in the tile
of which a third holds large vacuoles, those in and beside that part are, and the parenchyma around it is normal
but for single cells with small vacuoles, or at torn edges.""",
}
_LIMITS = {
    "nash-cell": "Lining cells are long and lymphocytes round in the renderer; plump Kupffer cells are easily "
    "taken for immune cells.",
    "nash-hepatocyte": "Ballooning is rendered as enlarged, pale, wispy cytoplasm; pathologists disagree about "
    "real ballooning, and the renderer cannot settle that.",
}


def package(models_dir: Path, task: Task, exported: packages.Exported, result: Result, seeds: Seeds) -> Path:
    """Write `models_dir/<task>`: the graph, its model.yaml and its card."""
    spec = _spec(task, exported, result, seeds)
    return packages.write(models_dir, spec, exported, _card(task, spec, result, seeds))


def _spec(task: Task, exported: packages.Exported, result: Result, seeds: Seeds) -> ClassifierSpec:
    split = f"seeds {_span(seeds.held_out)} held out"
    stated = packages.Statement(
        name=task.name,
        version=1,
        mpp=MPP,
        classes=tuple(
            ModelClass(name=name, color=color) for name, color in zip(task.classes, task.colors, strict=True)
        ),
        licence="Apache-2.0",
        training_data=(TrainingData(name="rendered liver tissue", licence="Apache-2.0", split=split),),
        accuracy={
            "balanced_accuracy": result.figures.balanced_accuracy,
            "calibration_error": result.figures.calibration.error,
            "calibration_error_before": result.ece_before,
            "accuracy_above_floor": result.accuracy_above_floor,
            "unclassified": result.unclassified,
        },
    )
    return packages.classifier_spec(
        stated,
        exported,
        input_px=task.input_px,
        crop_px=task.crop_px,
        options=ClassifierOptions(floor=result.floor),
    )


def _card(task: Task, spec: ClassifierSpec, result: Result, seeds: Seeds) -> Card:
    resizing = "" if task.crop_px == task.input_px else f", resized to {task.input_px} x {task.input_px} px"
    settings, count = result.settings, len(task.classes)
    return Card(
        name=task.name,
        summary=_SUMMARY.format(question=_QUESTIONS[task.name]),
        facts=trained_facts(spec)
        | {
            "Input": f"`image`: uint8 `(N, {task.input_px}, {task.input_px}, 3)`, normalised in the graph",
            "Crop": f"{task.crop_px} x {task.crop_px} px at {MPP} um/px around the nucleus' centroid{resizing}",
            "Output": f"`probabilities`: float32 `(N, {count})`, softmax",
            "Network": "Xception-style (Chollet 2017), separable convolutions with residuals",
        },
        made=_MADE.format(
            name=task.name,
            seed=seeds.seed,
            windows=settings.windows,
            steps=settings.steps,
            batch=settings.batch,
            minutes=result.minutes,
            training=_span(seeds.training),
            calibration=_span(seeds.calibration),
            held_out=_span(seeds.held_out),
            definition=_DEFINITIONS[task.name],
        ),
        measured=_measured(task, result),
        limits=(_RENDERED, _NEVER_SEEN, _LIMITS[task.name]),
        sections={"Checked by eye": _CHECKED_BY_EYE[task.name]},
    )


def _span(seeds: range) -> str:
    return f"{seeds[0]} to {seeds[-1]}"


def _measured(task: Task, result: Result) -> str:
    rows = zip(task.classes, result.figures.confusion.tolist(), strict=True)
    return _MEASURED.format(
        balanced=result.figures.balanced_accuracy,
        confusion=table(("truth", *task.classes), ((name, *counts) for name, counts in rows)),
        temperature=result.temperature,
        ece_before=result.ece_before,
        ece=result.figures.calibration.error,
        floor=result.floor,
        unclassified=result.unclassified,
        below=result.accuracy_below_floor,
        above=result.accuracy_above_floor,
    )
