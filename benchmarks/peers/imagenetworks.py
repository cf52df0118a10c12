"""Networks of one image and one answer, as the peers run the bundled ones, behind the service's `Runner`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidecascade.models.tensors import Tensors

RunImages = Callable[[str, NDArray[np.uint8]], NDArray[Any]]


class ImageNetworks:
    """A runner that gives `run_images` a model and its images ``(N, H, W, 3)``, and names what it returns."""

    def __init__(self, run_images: RunImages) -> None:
        self._run_images = run_images

    def run(self, model: str, inputs: Tensors) -> Tensors:
        (images,) = inputs.values()
        answer = self._run_images(model, images)
        return {"maps" if answer.ndim == 4 else "probabilities": answer}

    def close(self) -> None: ...
