"""Recipe of the `nash-cell` and `nash-hepatocyte` classifiers: trained on rendered tissue, packaged for serving.

`python -m slidecascade_training.nash --out DIR --seed S --package MODELS_DIR`

The numbers of windows and steps are fixed, so a seed makes the same crops and batches on any machine. An
interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from slidecascade_render.liver.crops import CELL, HEPATOCYTE, Crops, Task, rendered_crops, resized
from slidecascade_training.calibration import expected_calibration_error, floor_for, temperature
from slidecascade_training.nash_package import Result, Seeds, package
from slidecascade_training.variation import varied

SCALE: Final = 1 / 127.5
OFFSET: Final = -1.0
_STEM: Final = (16, 32)
_WIDTHS: Final = (64, 96)
_BATCH: Final = 48
_BLOCK: Final = 100  # steps between two checkpoints
_PEAK_RATE: Final = 2e-3
_WARM_UP: Final = 200  # steps
_SET_ASIDE: Final = 20  # windows to calibrate on, and as many to measure on
_MOST_WINDOWS: Final = 4_000

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run has behind it; written beside the checkpoint."""

    steps: int = 0
    seconds: float = 0.0


def training_seeds(seed: int, windows: int) -> range:
    """Seeds of the windows a run trains on."""
    return range(seed * 10_000, seed * 10_000 + windows)


def calibration_seeds(seed: int) -> range:
    """Seeds of the windows that set the temperature and the floor."""
    return range(seed * 10_000 + 4_000, seed * 10_000 + 4_000 + _SET_ASIDE)


def held_out_seeds(seed: int) -> range:
    """Seeds of the windows a run is measured on."""
    return range(seed * 10_000 + 5_000, seed * 10_000 + 5_000 + _SET_ASIDE)


def render_windows(seeds: Sequence[int], cache: Path, workers: int) -> None:
    """Fill the cache with the crops of both classifiers."""
    cache.mkdir(parents=True, exist_ok=True)
    # Fresh processes: a fork of one that runs threads may hang.
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=fresh) as pool:
        for count, _ in enumerate(pool.map(partial(_render_window, cache), seeds, chunksize=4), start=1):
            if count % 50 == 0:
                _say(f"{count} of {len(seeds)} windows rendered")


def _render_window(cache: Path, seed: int) -> None:
    rendered_crops(HEPATOCYTE, seed, cache)


def _gathered(task: Task, seeds: Sequence[int], cache: Path) -> Crops:
    """All crops of the windows, as they were cut."""
    parts = [part for seed in seeds if (part := rendered_crops(task, seed, cache)).labels.size]
    images = np.concatenate([part.images for part in parts])
    return Crops(images, np.concatenate([part.labels for part in parts]))


def _as_served(task: Task, crops: Crops) -> Crops:
    return Crops(resized(crops.images, task.input_px), crops.labels)


def normalised(images: npt.NDArray[Any]) -> Floats:
    """Pixel values 0 to 255 as the network sees them, -1 to 1."""
    return np.asarray(images, np.float32) * np.float32(SCALE) + np.float32(OFFSET)


def _batches(task: Task, crops: Crops, generator: np.random.Generator) -> Iterator[tuple[Floats, Floats]]:
    """Endless batches in which every class is equally frequent, with one-hot answers."""
    classes = len(task.classes)
    members = [np.flatnonzero(crops.labels == index) for index in range(classes)]
    while True:
        kinds = generator.integers(classes, size=_BATCH)
        rows = np.array([generator.choice(members[kind]) for kind in kinds])
        images = normalised(varied(crops.images[rows], task.input_px, generator))
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
        optimizer=keras.optimizers.AdamW(_PEAK_RATE, weight_decay=1e-3),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=0.02),
    )
    return model


def train(task: Task, crops: Crops, out: Path, steps: int, seed: int) -> tuple[Any, Progress]:
    """Train for a number of steps in all, resuming from `out`; the learning rate falls along a cosine."""
    import keras

    checkpoint, notes = out / f"{task.name}.keras", out / f"{task.name}.json"
    resuming = checkpoint.exists() and notes.exists()
    model = keras.models.load_model(checkpoint) if resuming else _compiled(task, seed)
    progress = Progress(**json.loads(notes.read_text())) if resuming else Progress()
    with ThreadPoolExecutor(1) as ahead:
        while progress.steps < steps:
            started = time.monotonic()
            # A stream of its own for each block: resuming makes the batches an unbroken run makes.
            batches = _batches(task, crops, np.random.default_rng([seed, progress.steps]))
            block = range(progress.steps, min(progress.steps + _BLOCK, steps))
            losses = []
            waiting = ahead.submit(next, batches)
            for step in block:
                batch, waiting = waiting.result(), ahead.submit(next, batches)
                model.optimizer.learning_rate = _rate(step, steps)
                losses.append(float(model.train_on_batch(*batch)))
            waiting.result()
            progress = Progress(block.stop, progress.seconds + time.monotonic() - started)
            model.save(checkpoint)
            notes.write_text(json.dumps(asdict(progress)))
            _say(f"{task.name} step {progress.steps} loss {np.mean(losses):.4f} {progress.seconds:.0f} s")
    return model, progress


def _rate(step: int, steps: int) -> float:
    rise = min(1.0, (step + 1) / _WARM_UP)
    return rise * (1e-5 + 0.5 * _PEAK_RATE * (1.0 + float(np.cos(np.pi * step / steps))))


def cool(model: Any, task: Task, calibration: Crops) -> tuple[float, float]:
    """Divide the model's logits by the temperature that suits `calibration`, inside its last layer.

    Returns the temperature, and the floor that suits the cooled probabilities.
    """
    # Logits up to a constant of each row, which softmax does not see.
    logits = np.log(np.maximum(_answers(model, calibration), 1e-30))
    factor = temperature(logits, calibration.labels)
    last = model.layers[-1]
    last.set_weights([weights / factor for weights in last.get_weights()])
    return factor, floor_for(_answers(model, calibration))


def _answers(model: Any, crops: Crops) -> Floats:
    starts = range(0, crops.labels.size, 256)
    parts = [model.predict_on_batch(normalised(crops.images[start : start + 256])) for start in starts]
    return np.asarray(np.concatenate(parts), np.float32)


def measure(graph: Any, crops: Crops) -> Floats:
    """Probabilities (N, C) of the served graph itself, asked about uint8 crops."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    starts = range(0, crops.labels.size, 64)
    parts = [session.run(None, {"image": crops.images[start : start + 64]})[0] for start in starts]
    return np.concatenate(parts)


def run(task: Task, out: Path, *, steps: int, seed: int, windows: int, models_dir: Path | None) -> Result:
    """Train one classifier, calibrate and convert it, measure the converted graph, and package it if asked."""
    from slidecascade_convert.keras import onnx_from_keras
    from slidecascade_convert.parity import check_parity

    cache, size = out / "crops", task.input_px
    model, progress = train(task, _gathered(task, training_seeds(seed, windows), cache), out, steps, seed)
    held_out = _as_served(task, _gathered(task, held_out_seeds(seed), cache))
    before = _answers(model, held_out)
    factor, floor = cool(model, task, _as_served(task, _gathered(task, calibration_seeds(seed), cache)))
    graph = onnx_from_keras(
        model, scale=SCALE, offset=OFFSET, output_name="probabilities", height_px=size, width_px=size
    )
    check_parity(model, graph, scale=SCALE, offset=OFFSET, sizes_px=[(size, size)])
    probabilities = measure(graph, held_out)
    result = Result(
        probabilities=probabilities,
        labels=held_out.labels,
        temperature=factor,
        ece_before=expected_calibration_error(before, held_out.labels),
        floor=floor,
        windows=windows,
        steps=progress.steps,
        batch=_BATCH,
        minutes=progress.seconds / 60,
    )
    _say(f"{task.name}: {result}")
    if models_dir is not None:
        seeds = Seeds(seed, training_seeds(seed, windows), calibration_seeds(seed), held_out_seeds(seed))
        package(models_dir, task, graph, result, seeds)
    return result


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and package the two classifiers of the nash pipeline on rendered tissue."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="checkpoints and rendered crops")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--windows", type=int, default=100, help="rendered windows to train on")
    parser.add_argument("--steps", type=int, default=800, help="steps of each network")
    parser.add_argument("--workers", type=int, default=2, help="processes that render")
    parser.add_argument("--only", choices=[CELL.name, HEPATOCYTE.name], default=None)
    parser.add_argument("--package", type=Path, default=None, metavar="MODELS_DIR")
    given = parser.parse_args(arguments)
    if not 1 <= given.windows <= _MOST_WINDOWS:
        parser.error(f"--windows must lie between 1 and {_MOST_WINDOWS}")
    seeds = [
        *held_out_seeds(given.seed),
        *calibration_seeds(given.seed),
        *training_seeds(given.seed, given.windows),
    ]
    render_windows(seeds, given.out / "crops", given.workers)
    for task in (CELL, HEPATOCYTE):
        if given.only in (None, task.name):
            run(
                task,
                given.out,
                steps=given.steps,
                seed=given.seed,
                windows=given.windows,
                models_dir=given.package,
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
