"""Which head turns a segmenter's outputs into objects."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from slidecascade.cells.heads import semantic, unet
from slidecascade.models.spec import SegmenterHead, SegmenterOptions
from slidecascade.models.tensors import Tensors


def decode(
    outputs: Tensors,
    head: SegmenterHead,
    options: SegmenterOptions,
    *,
    min_area_px: float,
    foreground: float | None = None,
) -> npt.NDArray[np.int32]:
    """The label image ``(H, W)`` of one image's `outputs`, without their batch axis.

    Args:
        outputs: what the head wants (see `heads.table`), and whatever else the network returns.
        head: by name.
        options: the model's own.
        min_area_px: objects of fewer pixels are dropped.
        foreground: probability from which a pixel belongs to an object, instead of that in `options`.
    """
    threshold = options.foreground if foreground is None else foreground
    if head == "semantic":
        return semantic.decode(outputs["maps"], foreground=threshold, min_area_px=min_area_px)
    return unet.decode(
        outputs["maps"],
        foreground=threshold,
        seed=options.seed,
        min_area_px=min_area_px,
        prominence=options.prominence,
    )
