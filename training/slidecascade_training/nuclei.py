"""The recipe of the bundled `nuclei-unet` model.

`python -m slidecascade_training.nuclei --data DSB2018 --nucls NUCLS --tissue 40 --out RUN --minutes 60`

A run that was cut off resumes. `slidecascade_training.nuclei_package` then tunes, measures and packages it.
"""

import argparse
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slidecascade_training import dsb2018
from slidecascade_training.nuclei_crops import Batch, TrainingImage, draw_batch, prepare, render_tissue

logger = logging.getLogger(__name__)

BATCH = 8
PEAK_RATE = 2e-3
WARM_UP = 0.03  # part of the run
AVERAGE_DECAY = 0.998
SAVE_EVERY_S = 90.0


def build_network(widths: Sequence[int] = (32, 48, 96)) -> Any:
    """A U-Net from float32 ``(N, H, W, 3)`` in 0 to 1 to ``(N, H, W, 2)``: foreground and interior probabilities.

    After Ronneberger et al. (2015), with two changes that halve its cost: the first convolution has stride 2 and
    the maps return to full resolution by a depth-to-space rearrangement (Shi et al., 2016), also used between
    levels. H and W are multiples of 8. Three convolutions at the bottom and one at the top, instead of two and
    two, widen the view to 52 px on every side at no cost.
    """
    import keras
    from keras import layers, ops

    def block(tensor: Any, width: int, size: int = 3, stride: int = 1) -> Any:
        tensor = layers.Conv2D(width, size, strides=stride, padding="same", use_bias=False)(tensor)
        return layers.ReLU()(layers.BatchNormalization(momentum=0.98)(tensor))

    image = keras.Input((None, None, 3), name="image")
    # The square root spreads dark fluorescence, where nuclei differ from the ground by a few grey levels.
    tensor = layers.Concatenate()([image, ops.sqrt(image)])
    tensor = block(block(tensor, widths[0], size=4, stride=2), widths[0])
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
    maps = ops.depth_to_space(layers.Conv2D(8, 1)(tensor), 2)
    return keras.Model(image, layers.Activation("sigmoid")(maps), name="nuclei_unet")


def weighted_loss(targets: Any, predicted: Any) -> Any:
    """Weighted cross-entropy plus soft Dice over both maps; `targets` holds two maps and the weight."""
    import tensorflow as tf

    truth, weight = targets[..., :2], targets[..., 2:]
    clipped = tf.clip_by_value(predicted, 1e-5, 1.0 - 1e-5)
    entropy = -(truth * tf.math.log(clipped) + (1.0 - truth) * tf.math.log(1.0 - clipped))
    axes = (0, 1, 2)
    overlap = tf.reduce_sum(weight * truth * predicted, axes)
    total = tf.reduce_sum(weight * (truth + predicted), axes)
    dice = 1.0 - (2.0 * overlap + 1.0) / (total + 1.0)
    return tf.reduce_mean(weight * entropy) + 0.5 * tf.reduce_mean(dice)


class Trainer:
    """A network, its optimiser and the running average of its weights, saved together."""

    def __init__(self, folder: Path) -> None:
        import keras
        import tensorflow as tf

        self.network = build_network()
        self.averaged = build_network()
        self.averaged.set_weights(self.network.get_weights())
        self.optimizer = keras.optimizers.AdamW(PEAK_RATE, weight_decay=1e-4, clipnorm=1.0)
        self.optimizer.build(self.network.trainable_variables)
        self.seconds = tf.Variable(0.0, dtype=tf.float64)
        self.steps = tf.Variable(0, dtype=tf.int64)
        state = tf.train.Checkpoint(
            network=self.network,
            averaged=self.averaged,
            optimizer=self.optimizer,
            seconds=self.seconds,
            steps=self.steps,
        )
        self._checkpoints = tf.train.CheckpointManager(state, str(folder / "checkpoints"), max_to_keep=1)
        self._checkpoints.restore_or_initialize()
        self._step = tf.function(self._train_step, reduce_retracing=True)

    def _train_step(self, images: Any, targets: Any, decay: Any) -> Any:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            predicted = self.network(tf.cast(images, tf.float32) / 255.0, training=True)
            loss = weighted_loss(targets, predicted)
        gradients = tape.gradient(loss, self.network.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.network.trainable_variables, strict=True))
        for average, variable in zip(self.averaged.variables, self.network.variables, strict=True):
            average.assign(decay * average + (1.0 - decay) * variable)
        return loss

    def train(self, batches: Callable[[], Batch], minutes: float) -> None:
        """Train until `minutes` of training are spent; the learning rate follows the clock, not the steps."""
        import tensorflow as tf

        budget = minutes * 60.0
        saved = started = time.monotonic() - float(self.seconds.numpy())
        losses: list[float] = []
        while (spent := time.monotonic() - started) < budget:
            self.optimizer.learning_rate.assign(learning_rate(spent / budget))
            # A young average would remember its random start; it forgets faster at first.
            steps = int(self.steps.numpy())
            decay = tf.constant(min(AVERAGE_DECAY, (1 + steps) / (10 + steps)), tf.float32)
            batch = batches()
            losses.append(float(self._step(tf.constant(batch.images), tf.constant(batch.targets), decay)))
            self.steps.assign_add(1)
            self.seconds.assign(spent)
            if time.monotonic() - saved > SAVE_EVERY_S:
                saved = time.monotonic()
                self.save()
                logger.info("%.1f min, step %d, loss %.4f", spent / 60, steps, float(np.mean(losses)))
                losses.clear()
        self.seconds.assign(budget)
        self.save()

    def save(self) -> None:
        self._checkpoints.save()


def learning_rate(progress: float) -> float:
    """Linear warm-up, then a cosine down to 0; `progress` is 0 to 1."""
    if progress < WARM_UP:
        return PEAK_RATE * max(progress / WARM_UP, 0.02)
    return PEAK_RATE * 0.5 * (1.0 + float(np.cos(np.pi * min(progress, 1.0))))


def drawn_ahead(pool: Sequence[TrainingImage], seed: int) -> Callable[[], Batch]:
    """Draw batches on a thread of its own, a few ahead of the training."""
    ready: queue.Queue[Batch] = queue.Queue(maxsize=4)

    def draw() -> None:
        rng = np.random.default_rng(seed)
        while True:
            ready.put(draw_batch(pool, BATCH, rng))

    threading.Thread(target=draw, daemon=True).start()
    return ready.get


def main() -> None:
    """Train; an interrupted run goes on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the DSB 2018 set")
    parser.add_argument("--nucls", type=Path, help="folder of the NuCLS crops, trained on as well")
    parser.add_argument("--tissue", type=int, default=0, help="windows of rendered liver, trained on as well")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: checkpoints and settings")
    parser.add_argument("--minutes", type=float, default=75.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    import keras

    keras.utils.set_random_seed(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(arguments.out)
    nucls = list(dsb2018.read_nucls(arguments.nucls)) if arguments.nucls else []
    images = [*dsb2018.read_images(arguments.data, "train"), *nucls]
    images += render_tissue(arguments.tissue, arguments.seed)
    settings = {
        "minutes": arguments.minutes,
        "seed": arguments.seed,
        "nucls_images": len(nucls),
        "tissue_windows": arguments.tissue,
    }
    (arguments.out / "run.json").write_text(json.dumps(settings), encoding="utf-8")
    # A resumed run must not see the crops of its first minutes again.
    seed = arguments.seed + int(trainer.steps.numpy())
    trainer.train(drawn_ahead(prepare(images), seed), arguments.minutes)


if __name__ == "__main__":
    main()
