"""The same network is exported as the same graph, whatever was exported before and in whatever order sets are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tensorflow", reason="the [convert] extra is not installed")

_EXPORT = """
import hashlib
from collections import Counter

import numpy as np
import onnxruntime
import tensorflow as tf

import toy_keras
from slidecascade_convert.tensorflow_graph import onnx_from_function

images = np.random.default_rng(3).random((2, 64, 64, 3), np.float32)
for upsampling in ("transpose", "nearest"):
    model = toy_keras.unet(upsampling=upsampling)
    signature = [tf.TensorSpec((None, None, None, 3), tf.float32, name="pixels")]
    for _ in range(3):
        graph = onnx_from_function(tf.function(lambda pixels: model(pixels)), signature, opset=18)
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        (maps,) = session.run(None, {session.get_inputs()[0].name: images})
        assert np.abs(maps - np.asarray(model(images))).max() < 1e-5
        kinds = sorted(Counter(node.op_type for node in graph.graph.node).items())
        print(upsampling, maps.shape, hashlib.sha256(maps.tobytes()).hexdigest(), kinds)
"""


def exported(hash_seed: int) -> list[str]:
    environment = os.environ | {
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _EXPORT],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_exports_do_not_depend_on_the_order_of_sets() -> None:
    """Processes with other hash seeds, and later exports of one process, give the same operators and answers."""
    first = exported(0)
    assert len(first) == 6
    assert len(set(first)) == 2
    assert exported(12) == first
