"""Decodes the network's maps with the served head, chooses its thresholds and measures them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade.heads import unet
from slidecascade.heads.unet import UnetOptions
from slidecascade.privacy import forbid_telemetry
from slidecascade_evaluation import dsb2018
from slidecascade_evaluation.matching import Labels
from slidecascade_evaluation.scores import Accuracy, measure
from slidecascade_training.fit import Pixels

if TYPE_CHECKING:
    import onnx

Image = npt.NDArray[np.uint8]
Maps = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Predict = Callable[[Image], Maps]
"""From an image ``(H, W, 3)`` of any size to its maps ``(H, W, 2)``, padded as served."""

MPP: Final = 0.5
MULTIPLE_OF: Final = 8
MIDDLING: Final = UnetOptions(foreground=0.5, seed=0.35, prominence=0.15, min_area_um2=6.0)
"""Defaults for runs with too few images for selection."""
FEW: Final = 4  # images; with fewer the thresholds would overfit

_FOREGROUNDS: Final = (0.45, 0.5, 0.55, 0.6)
_SEEDS: Final = (0.25, 0.35, 0.45, 0.55)
_PROMINENCES: Final = (0.1, 0.15, 0.25, 1.0)
_AREAS_UM2: Final = (4.0, 6.0, 8.0, 10.0)


@dataclass(frozen=True, slots=True)
class Mapped:
    """An image's truth ``(H, W)`` and the maps ``(H, W, 2)`` found of it, in one orientation."""

    kind: str
    truth: Labels
    maps: Maps


def graph_predictor(graph: onnx.ModelProto, multiple_of: int = MULTIPLE_OF) -> Predict:
    """By the exported graph on the CPU."""
    forbid_telemetry()
    import onnxruntime

    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(images: Image) -> Maps:
        maps: Maps = session.run(None, {"image": images})[0]
        return maps

    return _padded(run, multiple_of)


def network_predictor(network: Any, pixels: Pixels, multiple_of: int = MULTIPLE_OF) -> Predict:
    """By the network itself, its maps as grey levels."""

    def run(images: Image) -> Maps:
        predicted = np.asarray(network.predict_on_batch(pixels.of(images)))
        maps: Maps = np.rint(255 * predicted).astype(np.uint8)
        return maps

    return _padded(run, multiple_of)


def _padded(run: Callable[[Image], Maps], multiple_of: int) -> Predict:
    def predict(image: Image) -> Maps:
        height, width = image.shape[:2]
        below, right = -height % multiple_of, -width % multiple_of
        padded = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REFLECT_101)
        return np.ascontiguousarray(run(padded[None])[0][:height, :width])

    return predict


def decode(maps: Maps, options: UnetOptions) -> Labels:
    """The served head at the model's pixel size."""
    return unet.decode(
        maps,
        foreground=options.foreground,
        seed=options.seed,
        prominence=options.prominence,
        min_area_px=options.min_area_um2 / MPP**2,
    )


def mapped(images: Sequence[dsb2018.NucleiImage], predict: Predict) -> list[Mapped]:
    """Every image in four rotations, since few images alone give random choices."""
    return [
        Mapped(item.kind, np.rot90(item.labels, turns), predict(np.ascontiguousarray(np.rot90(item.image, turns))))
        for item in images
        for turns in range(4)
    ]


GRID: Final = tuple(
    UnetOptions(foreground=foreground, seed=seed, prominence=prominence, min_area_um2=6.0)
    for foreground, seed, prominence in product(_FOREGROUNDS, _SEEDS, _PROMINENCES)
)
"""The options to compare first; the minimum area is chosen afterwards."""


def scores(images: Sequence[Mapped], grid: Sequence[UnetOptions]) -> Floats:
    """The mean of AP at IoU 0.5 and mean AP for each of `grid`, over images, one at least."""

    def score(options: UnetOptions) -> float:
        accuracy = measure([(item.truth, decode(item.maps, options)) for item in images])
        return 0.5 * (accuracy.ap50 + accuracy.mean_ap)

    return np.array([score(options) for options in grid])


def tune(images: Sequence[Mapped], *, kinds: Sequence[str] | None = None) -> UnetOptions:
    """The options with the best `scores`, the kinds of image weighing the same.

    Args:
        images: one at least.
        kinds: those to choose by, where there are images of them; None: all.

    Raises:
        ValueError: there are no images.
    """
    found = sorted({item.kind for item in images})
    chosen = [kind for kind in found if kinds is None or kind in kinds] or found
    return tune_groups([[item for item in images if item.kind == kind] for kind in chosen])


def tune_groups(groups: Sequence[Sequence[Mapped]]) -> UnetOptions:
    """The options with the best mean of `scores` over groups of images, which weigh the same.

    Raises:
        ValueError: there is no group.
    """
    if not groups:
        raise ValueError("there are no images to choose thresholds by")
    best = GRID[int(np.mean([scores(group, GRID) for group in groups], axis=0).argmax())]
    areas = [best.model_copy(update={"min_area_um2": area}) for area in _AREAS_UM2]
    return areas[int(np.mean([scores(group, areas) for group in groups], axis=0).argmax())]


def chosen_options(images: Sequence[dsb2018.NucleiImage], predict: Predict) -> UnetOptions:
    """Thresholds chosen on the tuning images, or defaults if there are too few."""
    return tune(mapped(images, predict)) if len(images) >= FEW else MIDDLING


def measure_by_kind(
    images: Sequence[dsb2018.NucleiImage], predict: Predict, options: UnetOptions
) -> Mapping[str, Accuracy]:
    """Accuracy with the served head: all images under ``all``, then by kind; empty without images."""
    results = [(item.kind, item.labels, decode(predict(item.image), options)) for item in images]
    if not results:
        return {}
    by_kind = {"all": measure([(truth, found) for _, truth, found in results])}
    for kind in dsb2018.KINDS:
        of_kind = [(truth, found) for other, truth, found in results if other == kind]
        if of_kind:
            by_kind[kind] = measure(of_kind)
    return by_kind


def accuracy_of(measured: Mapping[str, Accuracy], *, by_kind: bool) -> dict[str, float]:
    """The accuracy in ``model.yaml``, from `measure_by_kind`."""
    if not measured:
        return {}
    whole = measured["all"]
    stated = {
        "ap50": whole.ap50,
        "ap50_pooled": whole.ap50_pooled,
        "mean_ap": whole.mean_ap,
        "dice": whole.dice,
    }
    if by_kind:
        stated |= {f"ap50_{kind}": accuracy.ap50 for kind, accuracy in measured.items() if kind != "all"}
    return stated
