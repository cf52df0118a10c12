"""Thresholds of the three heads, chosen on the training data's tuning split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.heads.flows import FLOWS
from slidecascade.heads.head import ObjectHead, SegmenterOptions
from slidecascade.heads.objects import Labels as LabelObjects
from slidecascade.heads.objects import Polygons
from slidecascade.heads.stardist import STARDIST
from slidecascade.heads.unet import UNET
from slidecascade.models.tensors import Tensors
from slidecascade.privacy import forbid_telemetry
from slidecascade_evaluation import dsb2018
from slidecascade_evaluation.matching import Labels
from slidecascade_evaluation.rasters import labels_from_outlines
from slidecascade_evaluation.scores import Accuracy, measure
from slidecascade_training.fluorescence.crops import scaled_intensity
from slidecascade_training.fluorescence.network import RAYS, STRIDE

MPP: Final = 0.5
HEADS: Final[Mapping[str, ObjectHead[Any]]] = {"stardist": STARDIST, "flows": FLOWS, "unet": UNET}
GRIDS: Final[Mapping[str, tuple[Mapping[str, Any], ...]]] = {
    "stardist": tuple(
        {"foreground": foreground, "overlap": overlap, "rays": RAYS, "max_radius_um": 28.0, "min_area_um2": area}
        for foreground, overlap, area in product((0.3, 0.4, 0.5, 0.6), (0.3, 0.45), (6.0,))
    ),
    "flows": tuple(
        {"foreground": foreground, "flow_error": error, "min_area_um2": 6.0}
        for foreground, error in product((0.4, 0.5, 0.6), (0.4, 0.8))
    ),
    "unet": tuple(
        {"foreground": foreground, "seed": seed, "prominence": prominence, "min_area_um2": 6.0}
        for foreground, seed, prominence in product((0.45, 0.5, 0.55), (0.35, 0.45, 0.55), (0.15, 0.25, 1.0))
    ),
}

MIDDLING: Final = UNET.options(foreground=0.55, seed=0.45, prominence=1.0, min_area_um2=6.0)


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a graph returned for an image, and the image's truth."""

    outputs: Tensors
    truth: Labels


def predictions(graph: bytes, images: Sequence[dsb2018.NucleiImage]) -> list[Predicted]:
    """The graph's outputs for whole images, mirrored up to its stride."""
    forbid_telemetry()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, sess_options=options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = []
    for item in images:
        image = scaled_intensity(item.image.max(axis=2))
        height, width = image.shape
        edges = (0, -height % STRIDE, 0, -width % STRIDE)
        padded = cv2.copyMakeBorder(image, *edges, cv2.BORDER_REFLECT_101)
        outputs = session.run(None, {"image": padded[None, :, :, None]})
        found.append(Predicted({name: array[0] for name, array in zip(names, outputs, strict=True)}, item.labels))
    return found


def decoded(predicted: Predicted, head: ObjectHead[Any], options: SegmenterOptions) -> Labels:
    """``(H, W)`` labels of the image."""
    height, width = predicted.truth.shape
    objects = head.decode(predicted.outputs, options, mpp=MPP)
    if isinstance(objects, Polygons):
        # Vertices count from the anchors.
        vertices = objects.vertices + np.repeat(objects.anchors, np.diff(objects.offsets), axis=0)
        return labels_from_outlines(vertices, objects.offsets, height_px=height, width_px=width)
    assert isinstance(objects, LabelObjects)  # noqa: S101 - a head returns one or the other
    labels: NDArray[Any] = objects.image[:height, :width]
    return labels.astype(np.int32)


def accuracy(images: Sequence[Predicted], head: ObjectHead[Any], options: SegmenterOptions) -> Accuracy:
    return measure([(item.truth, decoded(item, head, options)) for item in images])


def tune(images: Sequence[Predicted], name: str) -> SegmenterOptions:
    """The options with the best mean of AP at IoU 0.5 and mean AP over images."""
    head = HEADS[name]
    choices: list[SegmenterOptions] = [head.options(**values) for values in GRIDS[name]]

    def score(options: SegmenterOptions) -> float:
        found = accuracy(images, head, options)
        return found.ap50 + found.mean_ap

    return max(choices, key=score)
