"""The served packages of the nash classifiers: model.yaml fields and model cards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slidecascade_render.liver.crops import MPP, Task
from slidecascade_training.calibration import expected_calibration_error

_CARD = """\
# {name}

**Demonstration weights, trained on rendered tissue only. They never saw a patient's slide.** They make the
`nash` pipeline run out of the box; to analyse real tissue, convert and serve a classifier trained on it.

For Research Use Only. Not for use in diagnostic procedures.

| | |
|---|---|
| Task | {question} |
| Classes | {classes} |
| Input | `image`: uint8 `(N, {input_px}, {input_px}, 3)`, RGB; normalisation is in the graph |
| Crop | {crop_px} x {crop_px} px at 0.25 um/px around the nucleus' centroid{resizing} |
| Output | `probabilities`: float32 `(N, 3)`, softmax |
| Network | Xception-style (Chollet 2017), separable convolutions with residuals |
| Licence | Apache-2.0 |

## How it was made

    python -m slidecascade_training.nash --only {name} --seed {seed} --windows {windows} --steps {steps} \\
        --out runs/nash --package models

{windows} rendered windows of 768 x 768 px, each another specimen, stain and scanner: hues and strengths of both
stains, sizes of cells and nuclei, darkness of hepatocytes' nuclei, number and size of vacuoles, glycogen,
basophilia, width and blood of sinusoids, clefts, inflammation, focus, sharpening, noise, JPEG quality and pixel
size (0.22 to 0.28 um/px, a third of them at half that resolution and enlarged). {steps} steps of {batch} crops,
every class equally often, each crop turned, scaled, restained, relit and refocused at random; {minutes:.0f}
minutes in all, mostly on a CPU busy with other work. Seed {seed} decides everything that is random: windows
{first_training} to {last_training} trained, {first_calibration} to {last_calibration} calibrated,
{first_held_out} to {last_held_out} measured.
{history}
{definition}

## Measured

The served ONNX graph on crops of the held-out windows: **balanced accuracy {balanced:.4f}**.

{confusion}

Rows are the truth, columns the answers.

**Calibration.** The logits are divided by {temperature:.3f} inside the graph, which suits the calibration windows
best. Expected calibration error (15 bins) on the held-out windows: {ece_before:.4f} before, {ece:.4f} after.

**Floor.** A cell none of whose classes reaches {floor:.2f} is `Unclassified` by default; it is the highest floor
that leaves at most 2 % of the calibration crops without a class. On the held-out windows it leaves
{unclassified:.1%} out; of those the best class would have been right {below:.0%} of the time, of the others it is
{above:.2%}.

## Looked at

{looked_at}

## Limits

- Held-out windows come from the same renderer: the figures say that the recipe works, not how well real tissue
  is read. The temperature and the floor are as true of real tissue as the renderer is.
- Rendered tissue has no pigment, bile, necrosis, mitoses or folds; crops of those get an answer all the same.
- {limit}
"""

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
_LOOKED_AT = {
    "nash-cell": f"""\
{_MEASURED_BY} On two GTEx tiles at 20x: round pale nuclei of normal parenchyma are hepatocytes, the dark ones of
portal infiltrate are immune, and slivers of cytoplasm between vacuoles, red cells and lining cells are `Other`.
In heavy steatosis small dark hepatocyte nuclei are still called immune now and then, and some slivers
hepatocytes.""",
    "nash-hepatocyte": f"""\
{_MEASURED_BY} On two GTEx tiles at 20x: nearly all hepatocytes among large vacuoles are steatotic; in the tile
that is near normal, those in and beside its patch of large vacuoles are, and the parenchyma around it is normal
but for single cells with small vacuoles.""",
}
# The recipe gives each network its steps in one go; how this copy differs.
_HISTORY = {
    "nash-cell": "The first 5600 steps of this copy were taken on an NVIDIA H100, the others on a CPU core, all "
    "with PyTorch; TensorFlow exported it.\n",
    "nash-hepatocyte": "",
}
_LIMITS = {
    "nash-cell": "Lining cells are long and lymphocytes round in the renderer; plump Kupffer cells are easily "
    "taken for immune cells.",
    "nash-hepatocyte": "Ballooning is rendered as enlarged, pale, wispy cytoplasm; pathologists disagree about "
    "real ballooning, and the renderer cannot settle that.",
}


@dataclass(frozen=True, slots=True)
class Result:
    """What the served graph answered about crops of windows no training step saw, and what went into it.

    `probabilities` float32 (N, C) and `labels` int64 (N,) of the held-out crops. `temperature` divides the logits
    inside the graph; `ece_before` is the expected calibration error without it. `floor` is the least probability
    of a class. Then rendered windows, training steps and crops in each, and minutes taken.
    """

    probabilities: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    temperature: float
    ece_before: float
    floor: float
    windows: int
    steps: int
    batch: int
    minutes: float

    def __str__(self) -> str:
        return (
            f"balanced accuracy {self.balanced_accuracy:.4f}, temperature {self.temperature:.3f}, "
            f"calibration error {self.ece_before:.4f} -> {self.ece:.4f}, "
            f"floor {self.floor:.2f} leaves {self.unclassified:.2%} out, "
            f"{self.accuracy_above_floor:.4f} right above it\n{self.confusion}"
        )

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Counts, int64 (C, C): rows are the truth, columns the answers."""
        return confusion_of(self.labels, self.probabilities.argmax(axis=1), self.probabilities.shape[1])

    @property
    def balanced_accuracy(self) -> float:
        """Mean over the classes of the fraction of their crops that were answered right."""
        confusion = self.confusion
        return float(np.mean(np.diag(confusion) / np.maximum(confusion.sum(axis=1), 1)))

    @property
    def ece(self) -> float:
        return expected_calibration_error(self.probabilities, self.labels)

    @property
    def unclassified(self) -> float:
        """The share of the crops whose winner stays below the floor."""
        return float(np.mean(self.probabilities.max(axis=1) < self.floor))

    @property
    def accuracy_above_floor(self) -> float:
        return self._right(self.probabilities.max(axis=1) >= self.floor)

    @property
    def accuracy_below_floor(self) -> float:
        return self._right(self.probabilities.max(axis=1) < self.floor)

    def _right(self, rows: npt.NDArray[np.bool_]) -> float:
        right = self.probabilities[rows].argmax(axis=1) == self.labels[rows]
        return float(np.mean(right)) if right.size else 1.0


def confusion_of(
    truth: npt.NDArray[np.int64], answers: npt.NDArray[np.int64], classes: int
) -> npt.NDArray[np.int64]:
    """Counts, int64 (classes, classes): rows are the truth, columns the answers."""
    return np.bincount(truth * classes + answers, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True, slots=True)
class Seeds:
    """The seed of a run, and the windows it trained, calibrated and measured on."""

    seed: int
    training: range
    calibration: range
    held_out: range


def package(models_dir: Path, task: Task, graph: Any, result: Result, seeds: Seeds) -> Path:
    """Write `models_dir/<task>`: the graph, its model.yaml and its card."""
    from slidecascade_convert.package import write_package

    fields = spec_fields(task, result, seeds.held_out)
    return write_package(models_dir, fields, graph, card(task, result, seeds))


def spec_fields(task: Task, result: Result, held_out: range) -> dict[str, object]:
    """The fields of model.yaml, without the sha256 the packager adds."""
    split = f"seeds {held_out.start} to {held_out[-1]} held out"
    return {
        "name": task.name,
        "version": 1,
        "task": "classify",
        "head": "softmax",
        "mpp": MPP,
        "input": {"height_px": task.input_px, "width_px": task.input_px, "multiple_of": 1},
        "crop": {"size_px": task.crop_px},
        "classes": [
            {"name": name, "color": list(color)} for name, color in zip(task.classes, task.colors, strict=True)
        ],
        "options": {"floor": result.floor},
        "licence": "Apache-2.0",
        "training_data": [{"name": "rendered liver tissue", "licence": "Apache-2.0", "split": split}],
        "accuracy": {
            "balanced_accuracy": round(result.balanced_accuracy, 4),
            "calibration_error": round(result.ece, 4),
            "calibration_error_before": round(result.ece_before, 4),
            "accuracy_above_floor": round(result.accuracy_above_floor, 4),
            "unclassified": round(result.unclassified, 4),
        },
    }


def card(task: Task, result: Result, seeds: Seeds) -> str:
    """The model card, as Markdown."""
    resizing = "" if task.crop_px == task.input_px else f", resized to {task.input_px} x {task.input_px} px"
    return _CARD.format(
        name=task.name,
        question=_QUESTIONS[task.name],
        classes=", ".join(task.classes),
        input_px=task.input_px,
        crop_px=task.crop_px,
        resizing=resizing,
        seed=seeds.seed,
        windows=result.windows,
        minutes=result.minutes,
        steps=result.steps,
        batch=result.batch,
        first_training=seeds.training[0],
        last_training=seeds.training[-1],
        first_calibration=seeds.calibration[0],
        last_calibration=seeds.calibration[-1],
        first_held_out=seeds.held_out[0],
        last_held_out=seeds.held_out[-1],
        definition=_DEFINITIONS[task.name],
        balanced=result.balanced_accuracy,
        confusion=_table(task, result),
        temperature=result.temperature,
        ece_before=result.ece_before,
        ece=result.ece,
        floor=result.floor,
        unclassified=result.unclassified,
        below=result.accuracy_below_floor,
        above=result.accuracy_above_floor,
        looked_at=_LOOKED_AT[task.name],
        history=_HISTORY[task.name],
        limit=_LIMITS[task.name],
    )


def _table(task: Task, result: Result) -> str:
    lines = ["| truth | " + " | ".join(task.classes) + " |", "|---|" + "---:|" * len(task.classes)]
    for name, counts in zip(task.classes, result.confusion.tolist(), strict=True):
        lines.append(f"| {name} | " + " | ".join(str(count) for count in counts) + " |")
    return "\n".join(lines)
