"""Sessions of a network by the shape of its input."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import pytest

from slidecascade.heads import unet
from slidecascade.models.repository import load_repository
from slidecascade.models.tensors import Signature, rgb_image
from slidecascade.runners import local
from slidecascade.settings import bundled_models_dir

SIGNATURE = Signature((rgb_image(),), unet.OUTPUTS)


def of(*shape: int) -> dict[str, Any]:
    """Inputs of that shape."""
    return {"image": np.zeros(shape, np.uint8)}


@pytest.fixture
def numbers() -> Any:
    """Stands for sessions: what is made first is 1."""
    made = count(1)
    return lambda: next(made)


def test_where_plans_belong_to_a_shape_each_shape_keeps_its_own(numbers: Any) -> None:
    """A region's tiles and its crops in two sizes of batch take turns, and nothing is planned anew."""
    sessions = local.Sessions(SIGNATURE, numbers, by_shape=True)
    shapes = [(32, 72, 72, 3), (8, 72, 72, 3), (1, 592, 592, 3)]
    assert [sessions.of(of(*shape)) for shape in shapes * 2] == [1, 2, 3, 1, 2, 3]


def test_the_shape_that_was_not_asked_for_longest_is_given_up(numbers: Any) -> None:
    """Every session takes memory of the GPU."""
    sessions = local.Sessions(SIGNATURE, numbers, by_shape=True)
    for height in range(local.MAX_SESSIONS):
        sessions.of(of(1, height, 8, 3))
    sessions.of(of(1, 0, 8, 3))
    sessions.of(of(1, 99, 8, 3))
    assert sessions.of(of(1, 0, 8, 3)) == 1
    assert sessions.of(of(1, 1, 8, 3)) == local.MAX_SESSIONS + 2


def test_elsewhere_one_session_takes_every_shape(numbers: Any) -> None:
    """On a CPU, and with TensorRT, which plans for a range of sizes."""
    sessions = local.Sessions(SIGNATURE, numbers, by_shape=False)
    assert [sessions.of(of(size, 8, 8, 3)) for size in (1, 8, 32)] == [1, 1, 1]


def test_the_shape_of_every_input_counts(numbers: Any) -> None:
    """Also of those that are no images."""
    sessions = local.Sessions(SIGNATURE, numbers, by_shape=True)
    shapes = [(8, 3), (8, 4), (9, 4)]
    calls = [of(1, height, 8, 3) | {"gain": np.zeros((1, size), np.float32)} for height, size in shapes]
    assert [sessions.of(inputs) for inputs in calls * 2] == [1, 2, 3, 1, 2, 3]


def test_sessions_on_a_cpu_keep_no_block_for_each_shape() -> None:
    """ONNX Runtime's memory patterns take a third more memory, where tiles have many shapes."""
    package = load_repository(bundled_models_dir())["nash-cell"]
    session = local._open(package, 1, local.ON_CPU, (1,)).of(of(1, 72, 72, 3))
    assert session.get_session_options().enable_mem_pattern is False
