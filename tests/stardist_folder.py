"""A StarDist folder as StarDist saves it: ``python stardist_folder.py FOLDER``, with Keras 2 (tf_keras).

A program of its own, because tf_keras is the other Keras. The network has StarDist's default size, random weights,
and the layer names of StarDist. Beside the folder's files is ``answers.npz``: `images`, and what the network says.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

CONFIG = {
    "n_dim": 2, "axes": "YXC", "n_channel_in": 1, "n_channel_out": 33, "train_checkpoint": "weights_best.h5",
    "n_rays": 32, "grid": [2, 2], "backbone": "unet", "n_classes": None, "unet_n_depth": 3,
    "unet_kernel_size": [3, 3], "unet_n_filter_base": 32, "unet_n_conv_per_depth": 2, "unet_pool": [2, 2],
    "unet_activation": "relu", "unet_last_activation": "relu", "unet_batch_norm": False, "unet_dropout": 0.0,
    "unet_prefix": "", "net_conv_after_unet": 128, "net_input_shape": [None, None, 1],
}  # fmt: skip
THRESHOLDS = {"prob": 0.4790708, "nms": 0.31}


def written(folder: Path) -> Path:
    """Run this program; `folder`, with the files."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-P", __file__, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def network(keras: Any) -> Any:
    """Down 32, 64, 128 on a grid of 2, 256 and 128 in the middle, and up again."""
    layers = keras.layers

    def conv(filters: int, name: str | None = None) -> Any:
        return layers.Conv2D(filters, 3, padding="same", activation="relu", name=name)

    image = keras.Input((None, None, 1), name="input")
    # Layers without a name are numbered as they are made: one after the other, as StarDist does.
    value = conv(32)(image)
    value = layers.MaxPooling2D(2)(conv(32)(value))
    skips = []
    for level, filters in enumerate((32, 64, 128)):
        value = conv(filters, f"down_level_{level}_no_1")(conv(filters, f"down_level_{level}_no_0")(value))
        skips.append(value)
        value = layers.MaxPooling2D(2, name=f"max_{level}")(value)
    value = conv(128, "middle_2")(conv(256, "middle_0")(value))
    for level, filters, last in ((2, 128, 64), (1, 64, 32), (0, 32, 32)):
        value = layers.Concatenate()([layers.UpSampling2D(2)(value), skips[level]])
        value = conv(last, f"up_level_{level}_no_2")(conv(filters, f"up_level_{level}_no_0")(value))
    value = conv(128, "features")(value)
    prob = layers.Conv2D(1, 1, padding="same", activation="sigmoid", name="prob")(value)
    dist = layers.Conv2D(32, 1, padding="same", name="dist")(value)
    return keras.Model(image, [prob, dist])


def _write(folder: Path) -> None:
    import tf_keras

    tf_keras.utils.set_random_seed(5)
    # Others were made before in StarDist's process too: layers without a name count on.
    tf_keras.layers.Conv2D(1, 1)(tf_keras.Input((8, 8, 1)))
    model = network(tf_keras)
    # Objects of some pixels on about half of the image.
    model.get_layer("dist").bias.assign(np.full(32, 6.0, np.float32))
    folder.mkdir(parents=True, exist_ok=True)
    model.save_weights(str(folder / "weights_best.h5"))
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (folder / "thresholds.json").write_text(json.dumps(THRESHOLDS), encoding="utf-8")
    images = np.random.default_rng(3).random((2, 96, 64, 1), np.float32)
    prob, dist = model(images, training=False)
    np.savez(folder.parent / "answers.npz", images=images, prob=prob, dist=dist)


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
