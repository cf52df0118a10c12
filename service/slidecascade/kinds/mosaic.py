"""Arrays of tiles put together to the array of a region."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from slidecascade.geometry import Box

A = TypeVar("A", bound=np.generic)


def paste(part: NDArray[A], place: Box, mosaic: NDArray[A], frame: Box) -> None:
    """Copy `part` ``(h, w, ...)``, which covers `place`, into `mosaic` ``(H, W, ...)``, which covers `frame`.

    Both boxes are in one grid. Only their overlap is copied; there may be none.
    """
    shared = place.clipped(frame)
    source, target = shared.shifted(-place.x, -place.y), shared.shifted(-frame.x, -frame.y)
    mosaic[target.y : target.bottom, target.x : target.right] = part[
        source.y : source.bottom, source.x : source.right
    ]
