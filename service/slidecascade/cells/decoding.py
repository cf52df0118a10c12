"""Which head turns a segmenter's maps into objects."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from slidecascade.cells.heads import semantic, unet
from slidecascade.models.spec import SegmenterHead, SegmenterOptions


def decode(
    maps: npt.NDArray[np.uint8],
    head: SegmenterHead,
    options: SegmenterOptions,
    *,
    min_area_px: float,
    foreground: float | None = None,
) -> npt.NDArray[np.int32]:
    """The label image of a segmenter's `maps`, uint8 ``(H, W, C)``.

    Args:
        maps: as the head wants them.
        head: by name.
        options: the model's own.
        min_area_px: objects of fewer pixels are dropped.
        foreground: probability from which a pixel belongs to an object, instead of that in `options`.
    """
    threshold = options.foreground if foreground is None else foreground
    if head == "semantic":
        return semantic.decode(maps, foreground=threshold, min_area_px=min_area_px)
    return unet.decode(
        maps,
        foreground=threshold,
        seed=options.seed,
        min_area_px=min_area_px,
        prominence=options.prominence,
    )
