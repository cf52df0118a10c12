"""What a network is given of a cell: the pixels around it, as the analysis reads them."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from slidecascade.analysis.plan import RegionTask
from slidecascade.errors import UnknownModelError
from slidecascade.geometry import Box
from slidecascade.models.spec import ClassifierSpec
from slidecascade.slides import crops
from slidecascade.slides.channels import COLOURS, FULL_SCALE, Intensity, composite

WINDOW_PX: Final = 128
"""Side of what is shown of the tile that a segmenter is given, in its pixels."""


def crop_of(task: RegionTask, model_name: str, centre_l0: tuple[float, float]) -> NDArray[np.uint8]:
    """``(H, W, 3)`` RGB: the crop around a centroid as a classifier gets it, resized and with normalised colours;
    of a segmenter, the part of its tile around the centroid. Channels are shown in colours of their own.

    Raises:
        UnknownModelError: the pipeline has no such model.
        UnreadableSlideError: the slide is damaged there.
    """
    model = next((model for model in task.pipeline.models if model.name == model_name), None)
    if model is None:
        names = ", ".join(model.name for model in task.pipeline.models)
        raise UnknownModelError(f"The pipeline has no model {model_name[:100]!r}: choose one of {names}.")
    with task.open_source() as source:
        view = task.view(source)
        grid = view.grid(task.pipeline.mpp_of(model))
        size_px = model.crop.size_px if isinstance(model, ClassifierSpec) else WINDOW_PX
        corners = crops.corners_of(grid.grid_from_l0(np.array([centre_l0])), size_px)
        box = Box(int(corners[0, 0]), int(corners[0, 1]), size_px, size_px)
        pixels = view.read(grid, box)
    if task.channels:
        looks = [Intensity(use.meaning, 0, FULL_SCALE) for use in task.channels]
        return composite(pixels, looks, COLOURS)
    if task.stain is not None:
        pixels = task.stain.apply(pixels)
    if not isinstance(model, ClassifierSpec):
        return np.ascontiguousarray(pixels)
    height_px, width_px = model.crop_shape_px
    corner = np.zeros((1, 2), np.int64)
    cut = crops.cut(pixels, corner, size_px=size_px, height_px=height_px, width_px=width_px)
    one: NDArray[np.uint8] = cut[0]
    return one
