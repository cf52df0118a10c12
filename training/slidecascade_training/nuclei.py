"""The recipe of the bundled `nuclei-unet` model.

`python -m slidecascade_training.nuclei --data DSB2018 --nucls NUCLS --tissue 40 --out RUN`

A network is trained in stages (`STAGES`): a small one learns fast, then it is widened without a change of its
function and goes on; every stage starts again at the high rate (warm restarts: Loshchilov and Hutter, 2017).
A run that was cut off resumes at its last checkpoint, and step `n` of a stage sees the same crops whenever it is
run. `slidecascade_training.nuclei_package` then tunes, measures and packages it.
"""

import argparse
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slidecascade.errors import TrainingFailedError
from slidecascade_training import dsb2018
from slidecascade_training.nuclei_crops import Batch, TrainingImage, draw_batch, prepare, render_tissue
from slidecascade_training.staging import unwritable
from slidecascade_training.widening import widened

logger = logging.getLogger(__name__)

BATCH = 8
PEAK_RATE = 2e-3
WARM_UP = 0.03  # part of a stage
SAVE_EVERY = 100  # steps


@dataclass(frozen=True)
class Stage:
    """A width for every level of the network, and how many steps it is trained."""

    widths: tuple[int, ...]
    steps: int


STAGES = (
    Stage((32, 48, 96), 2680),
    Stage((32, 64, 128), 4400),
    Stage((32, 64, 128), 1800),
    Stage((32, 64, 128), 5200),
)


def build_network(widths: Sequence[int] = STAGES[-1].widths) -> Any:
    """A U-Net from float32 ``(N, H, W, 3)`` in 0 to 1 to ``(N, H, W, 2)``: foreground and relative depth.

    After Ronneberger et al. (2015), with two changes that halve its cost: the first convolution has stride 2 and
    the maps return to full resolution by a depth-to-space rearrangement (Shi et al., 2016), also used between
    levels. H and W are multiples of 8. Three convolutions at the bottom and one at the top, instead of two and
    two, widen the view at no cost. A narrow pair of convolutions at full resolution corrects the maps where the
    image has detail that half the resolution lost; it starts at no correction.
    """
    import keras
    from keras import layers, ops

    def block(tensor: Any, width: int, size: int = 3, stride: int = 1) -> Any:
        tensor = layers.Conv2D(width, size, strides=stride, padding="same", use_bias=False)(tensor)
        return layers.ReLU()(layers.BatchNormalization(momentum=0.98)(tensor))

    image = keras.Input((None, None, 3), name="image")
    # The square root spreads dark fluorescence, where nuclei differ from the ground by a few grey levels.
    lit = layers.Concatenate()([image, ops.sqrt(image)])
    tensor = block(block(lit, widths[0], size=4, stride=2), widths[0])
    skips = []
    for width in widths[1:]:
        skips.append(tensor)
        tensor = block(block(layers.MaxPooling2D()(tensor), width), width)
    tensor = block(tensor, widths[-1])
    for width, skip in zip(widths[-2::-1], reversed(skips), strict=True):
        tensor = ops.depth_to_space(layers.Conv2D(4 * width, 1)(tensor), 2)
        tensor = block(layers.Concatenate()([tensor, skip]), width)
        if width != widths[0]:
            tensor = block(tensor, width)
    coarse = ops.depth_to_space(layers.Conv2D(8, 1)(tensor), 2)
    context = ops.depth_to_space(layers.Conv2D(4 * DETAIL_WIDTH, 1)(tensor), 2)
    detail = block(layers.Concatenate()([lit, context]), DETAIL_WIDTH)
    correction = layers.Conv2D(2, 3, padding="same", kernel_initializer="zeros")(detail)
    maps = layers.Add()([coarse, correction])
    return keras.Model(image, layers.Activation("sigmoid")(maps), name="nuclei_unet")


DETAIL_WIDTH = 8


def weighted_loss(targets: Any, predicted: Any) -> Any:
    """Weighted cross-entropy of both maps plus soft Dice of the foreground.

    Args:
        targets: ``(N, H, W, 3)`` float32: foreground (0 or 1), relative depth (0 to 1), weight.
        predicted: ``(N, H, W, 2)`` float32, 0 to 1.
    """
    from keras import ops

    truth, weight = targets[..., :2], targets[..., 2:]
    clipped = ops.clip(predicted, 1e-5, 1.0 - 1e-5)
    entropy = -(truth * ops.log(clipped) + (1.0 - truth) * ops.log(1.0 - clipped))
    overlap = ops.sum(truth[..., 0] * predicted[..., 0])
    total = ops.sum(truth[..., 0] + predicted[..., 0])
    dice = 1.0 - (2.0 * overlap + 1.0) / (total + 1.0)
    return ops.mean(weight * entropy) + 0.5 * dice


class Trainer:
    """One stage: a network with its optimiser, saved together in `file`; what is saved there is gone on with."""

    def __init__(self, file: Path, stage: Stage, start: Callable[[], Any]) -> None:
        import keras

        self.stage, self.file = stage, file
        if self.file.exists():
            self.network = keras.saving.load_model(
                self.file, custom_objects={"weighted_loss": weighted_loss}, compile=True
            )
            return
        self.network = start()
        optimizer = keras.optimizers.AdamW(PEAK_RATE, weight_decay=1e-4, clipnorm=1.0)
        self.network.compile(optimizer=optimizer, loss=weighted_loss)

    @property
    def steps(self) -> int:
        """Steps done."""
        return int(self.network.optimizer.iterations)

    def train(self, batches: Callable[[], Batch], watch: Callable[[int, float], object] | None = None) -> None:
        """Take the remaining steps of the stage; `watch` is told every save's step and mean loss."""
        losses: list[float] = []
        since = time.monotonic()
        for step in range(self.steps, self.stage.steps):
            self.network.optimizer.learning_rate.assign(learning_rate(step / self.stage.steps))
            batch = batches()
            images = batch.images.astype(np.float32) / 255.0
            losses.append(float(self.network.train_on_batch(images, batch.targets)))
            if not np.isfinite(losses[-1]):
                raise TrainingFailedError(
                    f"The loss became {losses[-1]:g} at step {step + 1}; what was saved before is kept: look for "
                    "odd images, or start again in another --out with another --seed."
                )
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == self.stage.steps:
                pace = (time.monotonic() - since) / len(losses)
                logger.info("step %d, loss %.4f, %.2f s a step", step + 1, float(np.mean(losses)), pace)
                self.save()
                if watch is not None:
                    watch(step + 1, float(np.mean(losses)))
                losses.clear()
                since = time.monotonic()
        self.save()

    def save(self) -> None:
        """Replace the checkpoint at once, so that a kill leaves the old one or the new one."""
        young = self.file.with_suffix(".young.keras")
        try:
            self.network.save(young)
            os.replace(young, self.file)
        except OSError as error:
            young.unlink(missing_ok=True)
            raise unwritable(self.file.parent, error) from error


def learning_rate(progress: float) -> float:
    """Linear warm-up, then a cosine down to 0; `progress` is 0 to 1."""
    if progress < WARM_UP:
        return PEAK_RATE * max(progress / WARM_UP, 0.02)
    return PEAK_RATE * 0.5 * (1.0 + float(np.cos(np.pi * min(progress, 1.0))))


def checkpoint(folder: Path, stage: int) -> Path:
    """Where a run keeps a stage, counted from 0."""
    return folder / f"stage-{stage}.keras"


def drawn_ahead(pool: Sequence[TrainingImage], seed: int, stage: int, step: int) -> Callable[[], Batch]:
    """Draw batches from `step` on, by a thread of its own, a few ahead of the training."""
    ready: queue.Queue[Batch] = queue.Queue(maxsize=4)

    def draw() -> None:
        index = step
        while True:
            ready.put(draw_batch(pool, BATCH, np.random.default_rng([seed, stage, index])))
            index += 1

    threading.Thread(target=draw, daemon=True).start()
    return ready.get


def train_stages(
    pool: Sequence[TrainingImage],
    folder: Path,
    seed: int,
    *,
    stages: Sequence[Stage] = STAGES,
    watch: Callable[[int, float], object] = lambda step, loss: None,
) -> Any:
    """Train every stage, each from the widened network of the one before, and return the last network.

    `watch` is told the step of the whole run and the mean loss, whenever a checkpoint is saved.
    """
    network: Any = None
    for number, stage in enumerate(stages):
        before, done = network, sum(earlier.steps for earlier in stages[:number])

        def told(step: int, loss: float, done: int = done) -> None:
            watch(done + step, loss)

        def start(stage: Stage = stage, before: Any = before) -> Any:
            young = build_network(stage.widths)
            return young if before is None else widened(before, young, seed=seed)

        trainer = Trainer(checkpoint(folder, number), stage, start)
        logger.info("stage %d: widths %s, from step %d", number, stage.widths, trainer.steps)
        trainer.train(drawn_ahead(pool, seed, number, trainer.steps), told)
        network = trainer.network
    return network


def main() -> None:
    """Train; an interrupted run goes on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the DSB 2018 set")
    parser.add_argument("--nucls", type=Path, help="folder of the NuCLS crops, trained on as well")
    parser.add_argument("--tissue", type=int, default=0, help="windows of rendered liver, trained on as well")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: checkpoints and settings")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    import keras

    keras.utils.set_random_seed(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    nucls = list(dsb2018.read_nucls(arguments.nucls)) if arguments.nucls else []
    images = [*dsb2018.read_images(arguments.data, "train"), *nucls]
    images += render_tissue(arguments.tissue, arguments.seed)
    settings = {"seed": arguments.seed, "nucls_images": len(nucls), "tissue_windows": arguments.tissue}
    (arguments.out / "run.json").write_text(json.dumps(settings), encoding="utf-8")
    train_stages(prepare(images), arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
