"""The recipe of the bundled `nuclei-unet` model.

`python -m slidecascade_training.nuclei --data DSB2018 --nucls NUCLS --tissue 40 --out RUN`

One network from scratch, its rate along a single cosine. Crops are drawn by processes of their own, so that a GPU
does not wait for them; `KERAS_BACKEND` chooses TensorFlow, JAX or PyTorch. A run that was cut off resumes at its
last checkpoint, and step `n` sees the same crops whenever and wherever it is run.
`slidecascade_training.nuclei_package` then tunes, measures and packages it.
"""

import argparse
import json
import logging
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from slidecascade.cores import usable_cores
from slidecascade.errors import TrainingFailedError
from slidecascade_evaluation import dsb2018
from slidecascade_training.nuclei_crops import (
    WEIGHT_UNIT,
    Batch,
    TrainingImage,
    draw_batch,
    prepare,
    render_tissue,
)
from slidecascade_training.staging import unwritable

logger = logging.getLogger(__name__)

WIDTHS = (48, 96, 192)
STEPS = 6000
BATCH = 64
PEAK_RATE = 2e-3
WARM_UP = 0.03  # part of a run
SAVE_EVERY = 100  # steps

Watch = Callable[[int, float], object]
"""Is told a step and the mean loss since it was last told."""


def _unwatched(_step: int, _loss: float) -> None:
    """The default: nobody looks."""


def build_network(widths: Sequence[int] = WIDTHS) -> Any:
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


def weighted_loss(planes: Any, predicted: Any) -> Any:
    """Weighted cross-entropy of both maps plus soft Dice of the foreground.

    Args:
        planes: ``(N, H, W, 3)``, 0 to 255, as of `target_planes`: foreground, relative depth, weight.
        predicted: ``(N, H, W, 2)`` float32, 0 to 1.
    """
    from keras import ops

    is_cell = ops.cast(planes[..., 0] >= 127.5, predicted.dtype)
    truth = ops.stack([is_cell, is_cell * planes[..., 1] / 255.0], axis=-1)
    weight = planes[..., 2:] / WEIGHT_UNIT
    clipped = ops.clip(predicted, 1e-5, 1.0 - 1e-5)
    entropy = -(truth * ops.log(clipped) + (1.0 - truth) * ops.log(1.0 - clipped))
    overlap = ops.sum(is_cell * predicted[..., 0])
    total = ops.sum(is_cell + predicted[..., 0])
    dice = 1.0 - (2.0 * overlap + 1.0) / (total + 1.0)
    return ops.mean(weight * entropy) + 0.5 * dice


class Trainer:
    """A network with its optimiser, saved together in the folder of a run; what is saved there is gone on with.

    Raises:
        FileNotFoundError: nothing is saved there, and `widths` does not say what to begin with.
    """

    def __init__(self, folder: Path, widths: Sequence[int] | None = None) -> None:
        import keras

        self.file = folder / "network.keras"
        if widths is None or self.file.exists():
            if not self.file.exists():
                raise FileNotFoundError(f"{folder} holds no trained network: train it first.")
            self.network = keras.saving.load_model(
                self.file, custom_objects={"weighted_loss": weighted_loss}, compile=True
            )
            return
        self.network = build_network(widths)
        optimizer = keras.optimizers.AdamW(PEAK_RATE, weight_decay=1e-2, clipnorm=1.0)
        self.network.compile(optimizer=optimizer, loss=weighted_loss)

    @property
    def done(self) -> int:
        """Steps done."""
        return int(self.network.optimizer.iterations)

    def train(self, batches: Iterator[Batch], steps: int, watch: Watch = _unwatched) -> None:
        """Go on to `steps` steps in all; `watch` is told every save's step and mean loss.

        Raises:
            TrainingFailedError: the loss became no number.
            UnwritableOutputError: a full disk.
        """
        losses: list[float] = []
        since = time.monotonic()
        for step in range(self.done, steps):
            self.network.optimizer.learning_rate.assign(learning_rate(step / steps))
            batch = next(batches)
            images = batch.images.astype(np.float32) / 255.0
            losses.append(float(self.network.train_on_batch(images, batch.planes)))
            if not np.isfinite(losses[-1]):
                raise TrainingFailedError(
                    f"The loss became {losses[-1]:g} at step {step + 1}; what was saved before is kept: look for "
                    "odd images, or start again in another --out with another --seed."
                )
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
                pace, mean = (time.monotonic() - since) / len(losses), float(np.mean(losses))
                logger.info("step %d, loss %.4f, %.2f s a step", step + 1, mean, pace)
                losses.clear()
                self.save()
                watch(step + 1, mean)
                since = time.monotonic()

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


@contextmanager
def drawn_ahead(pool: Sequence[TrainingImage], seed: int, first: int) -> Iterator[Iterator[Batch]]:
    """Batches from step `first` on without end, drawn by processes beside the training, a few ahead of it."""
    workers = max(1, usable_cores() - 1)
    fresh = multiprocessing.get_context("spawn")  # a fork of a process that runs threads may hang
    with ProcessPoolExecutor(workers, mp_context=fresh, initializer=_hold, initargs=(pool,)) as drawers:

        def batches() -> Iterator[Batch]:
            waiting = deque(drawers.submit(_draw, BATCH, seed, first + ahead) for ahead in range(2 * workers))
            step = first + len(waiting)
            while True:
                yield waiting.popleft().result()
                waiting.append(drawers.submit(_draw, BATCH, seed, step))
                step += 1

        try:
            yield batches()
        finally:
            drawers.shutdown(cancel_futures=True)


_held: list[TrainingImage] = []


def _hold(pool: Sequence[TrainingImage]) -> None:
    """In a process that draws: keep the images, and to one core."""
    cv2.setNumThreads(1)
    _held[:] = pool


def _draw(size: int, seed: int, step: int) -> Batch:
    return draw_batch(_held, size, np.random.default_rng([seed, step]))


def train(
    pool: Sequence[TrainingImage],
    folder: Path,
    *,
    seed: int,
    steps: int = STEPS,
    widths: Sequence[int] = WIDTHS,
    watch: Watch = _unwatched,
) -> Any:
    """Train, from the last checkpoint in `folder` on, and return the network."""
    trainer = Trainer(folder, widths)
    logger.info("widths %s, %d steps, from step %d", tuple(widths), steps, trainer.done)
    with drawn_ahead(pool, seed, trainer.done) as batches:
        trainer.train(batches, steps, watch)
    return trainer.network


def main() -> None:
    """Train; an interrupted run goes on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the DSB 2018 set")
    parser.add_argument("--nucls", type=Path, help="folder of the NuCLS crops, trained on as well")
    parser.add_argument("--tissue", type=int, default=0, help="windows of rendered liver, trained on as well")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: checkpoints and settings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"each of {BATCH} crops")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="channels of every level")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    import keras

    keras.utils.set_random_seed(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    nucls = list(dsb2018.read_nucls(arguments.nucls)) if arguments.nucls else []
    images = [*dsb2018.read_images(arguments.data, "train"), *nucls]
    images += render_tissue(arguments.tissue, arguments.seed)
    settings = {
        "seed": arguments.seed,
        "steps": arguments.steps,
        "widths": list(arguments.widths),
        "nucls_images": len(nucls),
        "tissue_windows": arguments.tissue,
    }
    (arguments.out / "run.json").write_text(json.dumps(settings), encoding="utf-8")
    train(prepare(images), arguments.out, seed=arguments.seed, steps=arguments.steps, widths=arguments.widths)


if __name__ == "__main__":
    main()
