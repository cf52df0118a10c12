"""A foreground map to objects: its connected pieces.

For networks that were trained on masks alone. Objects that touch are one; what separates them has to be in the
map. Which object a pixel belongs to depends on the pieces of that object only, so overlapping tiles agree on every
object that both show whole.
"""

import numpy as np
import numpy.typing as npt

from slidecascade.cells.heads.labels import at_least, fill_holes, grey_level, pieces, without_specks
from slidecascade.models.tensors import OutputSpec

OUTPUTS = (
    OutputSpec(
        name="maps",
        dtype="uint8",
        layout="NHWC",
        shape=("batch", "height", "width", 1),
        channels=("foreground",),
        range=(0, 255),
        meaning="probability",
    ),
)
"""What this head decodes: a map of ``round(255 * p)``, a pixel for each pixel of the input."""


def decode(maps: npt.NDArray[np.uint8], *, foreground: float, min_area_px: float) -> npt.NDArray[np.int32]:
    """Turn a foreground map into a label image.

    Args:
        maps: ``(H, W, 1)`` uint8, ``round(255 * p)`` of the foreground.
        foreground: Probability in 0 to 1 from which a pixel belongs to an object.
        min_area_px: Objects of fewer pixels are dropped, their holes counted in.

    Returns:
        ``(H, W)`` int32 labels: 0 is background, objects are 1 to n in the raster order of their first pixels.
        Pixels that share a corner are connected; holes are filled.

    Raises:
        ValueError: The maps have another shape or type.
    """
    if maps.dtype != np.uint8 or maps.ndim != 3 or maps.shape[2] != 1:
        raise ValueError(f"Maps are {maps.dtype} {maps.shape}; the semantic head wants uint8 (H, W, 1).")
    found = pieces(at_least(maps[:, :, 0], grey_level(foreground)))
    if found.count == 1:
        return np.zeros(maps.shape[:2], np.int32)
    labels = found.dense()
    fill_holes(labels)
    return without_specks(labels, found.count, min_area_px)
