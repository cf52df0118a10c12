"""A crop gets the same probabilities alone and in company."""

from __future__ import annotations

import numpy as np
import pytest

from slidecascade.models.repository import load_repository
from slidecascade.runners.local import LocalRunner
from slidecascade.settings import bundled_models_dir


@pytest.mark.parametrize(("model", "side_px"), [("nash-cell", 72), ("nash-hepatocyte", 96)])
def test_probabilities_do_not_depend_on_the_batch(model: str, side_px: int) -> None:
    """One crop, two, or nine at a time: bit for bit."""
    runner = LocalRunner([load_repository(bundled_models_dir())[model]])
    crops = np.random.default_rng(5).integers(0, 256, (9, side_px, side_px, 3), np.uint8)
    together = runner.run(model, {"image": crops})["probabilities"]
    for size in (1, 2, 4):
        pieces = [crops[start : start + size] for start in range(0, len(crops), size)]
        parts = [runner.run(model, {"image": piece})["probabilities"] for piece in pieces]
        np.testing.assert_array_equal(np.concatenate(parts), together)
    runner.close()
