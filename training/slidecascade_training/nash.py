"""Recipe of the `nash-cell` and `nash-hepatocyte` classifiers: trained on rendered tissue, packaged for serving.

`python -m slidecascade_training.nash --out DIR --minutes M --seed S --package MODELS_DIR`

A third of the minutes goes into rendering, a third into each network. An interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from slidecascade_training.crops import CELL, HEPATOCYTE, Crops, Images, Labels, Task, rendered_crops, resized
from slidecascade_training.nash_package import Result, package

SCALE: Final = 1 / 127.5
OFFSET: Final = -1.0
_STEM: Final = (16, 32)
_WIDTHS: Final = (64, 96)
_BATCH: Final = 64
_STEPS: Final = 100  # between two checkpoints
_HELD_OUT: Final = 40  # windows
_MOST_WINDOWS: Final = 600


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run has behind it; written beside the checkpoint."""

    steps: int = 0
    seconds: float = 0.0


def training_seeds(seed: int) -> range:
    """Seeds of the windows a run trains on."""
    return range(seed * 10_000, seed * 10_000 + _MOST_WINDOWS)


def held_out_seeds(seed: int) -> range:
    """Seeds of the windows a run is measured on."""
    return range(seed * 10_000 + 5_000, seed * 10_000 + 5_000 + _HELD_OUT)


def render_windows(seed: int, cache: Path, minutes: float) -> int:
    """Fill the cache for as long as allowed; how many training windows it holds then."""
    cache.mkdir(parents=True, exist_ok=True)
    for held_out in held_out_seeds(seed):
        rendered_crops(CELL, held_out, cache)
    until = time.monotonic() + 60 * minutes
    count = 0
    for window in training_seeds(seed):
        if time.monotonic() > until and not (cache / f"{HEPATOCYTE.name}-{window}.npz").exists():
            break
        rendered_crops(HEPATOCYTE, window, cache)
        count += 1
    return count


def _gathered(task: Task, seeds: Sequence[int], cache: Path) -> Crops:
    """All crops of the windows, at the network's input size."""
    parts = [rendered_crops(task, seed, cache) for seed in seeds]
    images = np.concatenate([resized(part.images, task.input_px) for part in parts if part.labels.size])
    return Crops(images, np.concatenate([part.labels for part in parts]))


def normalised(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Pixel values 0 to 255 as the network sees them, -1 to 1."""
    return np.asarray(images, np.float32) * np.float32(SCALE) + np.float32(OFFSET)


def _varied(images: Images, generator: np.random.Generator) -> npt.NDArray[np.float32]:
    """Turned, mirrored, recoloured and noisy copies, float32 0 to 255."""
    turned = np.empty(images.shape, np.float32)
    for row, image in enumerate(images):
        kind = int(generator.integers(8))
        flipped = image[:, ::-1] if kind >= 4 else image
        turned[row] = np.rot90(flipped, kind % 4)
    count = images.shape[0]
    gain = generator.uniform(0.88, 1.12, (count, 1, 1, 1)) * generator.uniform(0.95, 1.05, (count, 1, 1, 3))
    shift = generator.uniform(-14, 14, (count, 1, 1, 1))
    grain = generator.uniform(0, 4, (count, 1, 1, 1)).astype(np.float32)
    noise = generator.standard_normal(turned.shape, dtype=np.float32) * grain
    varied = turned * gain.astype(np.float32) + shift.astype(np.float32) + noise
    return np.asarray(np.clip(varied, 0, 255), np.float32)


def _batches(
    crops: Crops, generator: np.random.Generator, classes: int
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Endless batches in which every class is equally frequent, with one-hot answers."""
    members = [np.flatnonzero(crops.labels == index) for index in range(classes)]
    while True:
        kinds = generator.integers(classes, size=_BATCH)
        rows = np.array([generator.choice(members[kind]) for kind in kinds])
        images = normalised(_varied(crops.images[rows], generator))
        yield images, np.eye(classes, dtype=np.float32)[kinds]


def _compiled(task: Task, seed: int) -> Any:
    import keras

    from slidecascade_training.xception import xception

    keras.utils.set_random_seed(seed)
    model = xception(
        input_px=task.input_px,
        classes=len(task.classes),
        stem=_STEM,
        widths=_WIDTHS,
        name=task.name.replace("-", "_"),
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(2e-3, weight_decay=1e-4),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=0.02),
    )
    return model


def train(task: Task, crops: Crops, out: Path, minutes: float, seed: int) -> tuple[Any, Progress]:
    """Train for a number of minutes in all, resuming from `out`; the learning rate falls along a cosine."""
    import keras

    checkpoint, notes = out / f"{task.name}.keras", out / f"{task.name}.json"
    resuming = checkpoint.exists() and notes.exists()
    model = keras.models.load_model(checkpoint) if resuming else _compiled(task, seed)
    progress = Progress(**json.loads(notes.read_text())) if resuming else Progress()
    batches = _batches(crops, np.random.default_rng([seed, progress.steps]), len(task.classes))
    while progress.seconds < 60 * minutes:
        started = time.monotonic()
        share = progress.seconds / (60 * minutes)
        model.optimizer.learning_rate = 2e-5 + 1e-3 * (1 + np.cos(np.pi * share))
        losses = [float(model.train_on_batch(*next(batches))) for _ in range(_STEPS)]
        progress = Progress(progress.steps + _STEPS, progress.seconds + time.monotonic() - started)
        model.save(checkpoint)
        notes.write_text(json.dumps(asdict(progress)))
        sys.stdout.write(f"{task.name} step {progress.steps} loss {losses[-1]:.4f} {progress.seconds:.0f} s\n")
        sys.stdout.flush()
    return model, progress


def confusion_of(truth: Labels, answers: Labels, classes: int) -> npt.NDArray[np.int64]:
    """Counts, int64 (classes, classes): rows are the truth, columns the answers."""
    return np.bincount(truth * classes + answers, minlength=classes**2).reshape(classes, classes)


def measure(graph: Any, task: Task, held_out: Crops) -> npt.NDArray[np.int64]:
    """The confusion of the served graph itself, asked about the held-out crops as uint8 images."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    answers = np.concatenate(
        [
            np.argmax(session.run(None, {"image": held_out.images[start : start + 64]})[0], axis=1)
            for start in range(0, held_out.labels.size, 64)
        ]
    )
    return confusion_of(held_out.labels, answers, len(task.classes))


def run(task: Task, out: Path, *, minutes: float, seed: int, windows: int, models_dir: Path | None) -> Result:
    """Train one classifier, convert it, measure the converted graph, and package it if asked."""
    from slidecascade_convert.keras import onnx_from_keras
    from slidecascade_convert.parity import check_parity

    cache = out / "crops"
    model, progress = train(task, _gathered(task, training_seeds(seed)[:windows], cache), out, minutes, seed)
    size = task.input_px
    graph = onnx_from_keras(
        model, scale=SCALE, offset=OFFSET, output_name="probabilities", height_px=size, width_px=size
    )
    check_parity(model, graph, scale=SCALE, offset=OFFSET, sizes_px=[(size, size)])
    held_out = _gathered(task, held_out_seeds(seed), cache)
    confusion = measure(graph, task, held_out)
    result = Result(
        confusion=confusion,
        windows=windows,
        steps=progress.steps,
        batch=_BATCH,
        minutes=progress.seconds / 60,
        allowed_minutes=minutes,
    )
    sys.stdout.write(f"{task.name} balanced accuracy {result.balanced_accuracy:.4f}\n{result.confusion}\n")
    if models_dir is not None:
        package(models_dir, task, graph, result, seed=seed, held_out=held_out_seeds(seed))
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and package the two classifiers of the nash pipeline on rendered tissue."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="checkpoints and rendered crops")
    parser.add_argument("--minutes", type=float, default=30.0, help="for rendering and both networks together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--package", type=Path, default=None, metavar="MODELS_DIR")
    given = parser.parse_args(arguments)
    windows = render_windows(given.seed, given.out / "crops", given.minutes / 3)
    for task in (CELL, HEPATOCYTE):
        run(
            task,
            given.out,
            minutes=given.minutes / 3,
            seed=given.seed,
            windows=windows,
            models_dir=given.package,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
