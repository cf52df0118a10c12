"""What every runner does."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Runner(Protocol):
    """Runs networks by name; usable from many threads at once."""

    def run(self, model: str, images: NDArray[np.uint8]) -> NDArray[Any]:
        """The network's output for `images` ``(N, H, W, 3)`` uint8 RGB.

        Returns:
            ``(N, H, W, C)`` uint8 maps of a segmenter, ``(N, C)`` float32 probabilities of a classifier.

        Raises:
            ModelFailedError: when the network raised or returned values that are not finite.
        """
        ...

    def close(self) -> None:
        """Release sessions and connections."""
        ...
