"""Labelled crops around nuclei of rendered tissue: what the classifiers of the `nash` pipeline are trained on.

Every window has its own specimen, stain, scanner and magnification, sampled from its seed. Crops follow the
served convention: at 0.25 um/px, upper left corner at round(centroid - size / 2), mirrored (without repeating the
edge pixel) where they reach outside the window.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade_render.liver.tissue import CLASS_NAMES, RenderedTissue, TissueOptions, render

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

MPP: Final = 0.25
_WINDOW_PX: Final = 768
_SMALLEST_UM2: Final = 3.0  # smaller visible parts of a nucleus are not detected
_SPOT_PX: Final = 2.5  # as fine as the nucleus of a flat cell
_AROUND_PX: Final = 16.0
_LEAST_CONTRAST: Final = 6.0  # grey levels
_CLEAR_PX: Final = 13
_MOST_SPOTS: Final = 60
_EDGE_PX: Final = 16  # nuclei cut by the window's edge do not occur in service


@dataclass(frozen=True, slots=True)
class Task:
    """One classifier: its classes and its crop. `truth` maps names of `CLASS_NAMES` to its classes.

    `nothing` is the class of false detections of a segmenter; None: the classifier is not trained on them.
    """

    name: str
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    crop_px: int
    input_px: int
    truth: dict[str, str] = field(hash=False)
    nothing: str | None = None

    def class_of(self, kinds: npt.NDArray[np.uint8]) -> Labels:
        """Class index for each index into `CLASS_NAMES`; -1 for classes without a target in this classifier."""
        table = [self.classes.index(self.truth[name]) if name in self.truth else -1 for name in CLASS_NAMES]
        return np.array(table, np.int64)[kinds]


CELL: Final = Task(
    name="nash-cell",
    classes=("Hepatocyte", "Immune", "Other"),
    colors=((0, 158, 115), (86, 180, 233), (255, 255, 255)),
    crop_px=54,
    input_px=72,
    truth={
        "hepatocyte-normal": "Hepatocyte",
        "hepatocyte-ballooning": "Hepatocyte",
        "hepatocyte-steatosis": "Hepatocyte",
        "immune": "Immune",
        "other": "Other",
    },
    nothing="Other",
)
HEPATOCYTE: Final = Task(
    name="nash-hepatocyte",
    classes=("Ballooning", "Normal", "Steatosis"),
    colors=((213, 94, 0), (0, 158, 115), (240, 228, 66)),
    crop_px=96,
    input_px=96,
    truth={
        "hepatocyte-normal": "Normal",
        "hepatocyte-ballooning": "Ballooning",
        "hepatocyte-steatosis": "Steatosis",
    },
)


@dataclass(frozen=True, slots=True)
class Crops:
    """`images` uint8 (N, crop_px, crop_px, 3) RGB and the class index of each, int64 (N,)."""

    images: Images
    labels: Labels


def cut(image: Images, centroids: npt.NDArray[np.float64], size_px: int) -> Images:
    """Square crops around (x, y) centroids (N, 2) of an RGB image (H, W, 3): uint8 (N, size, size, 3)."""
    pad = size_px
    framed = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REFLECT_101)
    corners = np.rint(centroids - size_px / 2).astype(np.int64) + pad
    crops = [framed[y : y + size_px, x : x + size_px] for x, y in corners.tolist()]
    return np.stack(crops) if crops else np.zeros((0, size_px, size_px, 3), np.uint8)


def resized(crops: Images, size_px: int) -> Images:
    """The crops at the network's input size, bilinear: uint8 (N, size, size, 3)."""
    if crops.shape[1] == size_px:
        return crops
    return np.stack([cv2.resize(crop, (size_px, size_px), interpolation=cv2.INTER_LINEAR) for crop in crops])


def random_options(seed: int) -> tuple[TissueOptions, bool]:
    """A random specimen, stain and scanner, and whether it is seen at 20x and enlarged twofold."""
    generator = np.random.default_rng([seed, 5])

    def draw(low: float, high: float) -> float:
        return float(generator.uniform(low, high))

    at_20x = draw(0, 1) < 0.35
    # The pixel size is known only roughly, and segmentation shifts it a little more.
    mpp = draw(0.22, 0.28) * (2 if at_20x else 1)
    options = TissueOptions(
        seed=seed,
        mpp=mpp,
        steatosis=draw(0.06, 0.7),
        ballooning=draw(0.06, 0.28),
        immune_per_mm2=draw(150, 900),
        other_per_mm2=draw(250, 700),
        vessels=draw(0.2, 1.6),
        glass=draw(0, 1) < 0.2,
        texture=draw(0.5, 1.6),
        cell_scale=draw(0.85, 1.2),
        nuclear_scale=draw(0.85, 1.12),
        nuclear_density=draw(0.0, 0.5) if draw(0, 1) < 0.6 else 0.0,
        basophilia=draw(0.5, 2.0) if draw(0, 1) < 0.7 else draw(2.0, 3.5),
        glycogen=draw(0.0, 1.0) ** 2,
        large_vacuoles=draw(0.2, 0.9),
        stray_fat=draw(0.1, 0.9),
        soft_fat=draw(0.0, 0.35),
        sinusoid_um=draw(0.2, 1.8),
        blood=draw(0.0, 1.0),
        cracks=draw(0.0, 1.0) if draw(0, 1) < 0.5 else 0.0,
        inflammation=draw(0.6, 3.0),
        haematoxylin=draw(0.6, 1.6),
        eosin=draw(0.5, 1.5),
        hue=draw(-0.9, 0.9),
        background=draw(0.85, 1.0),
        blur_um=draw(0.12, 0.75),
        noise=draw(0.0, 6.0),
        sharpening=draw(0.0, 1.2) if draw(0, 1) < 0.4 else 0.0,
        jpeg_quality=int(draw(40, 96)) if draw(0, 1) < 0.75 else None,
    )
    return options, at_20x


def random_tissue(seed: int) -> RenderedTissue:
    """A window as input of the classifiers: treated as 0.25 um/px, independent of its true pixel size."""
    options, at_20x = random_options(seed)
    if not at_20x:
        return render(options, width_px=_WINDOW_PX, height_px=_WINDOW_PX)
    half = render(options, width_px=_WINDOW_PX // 2, height_px=_WINDOW_PX // 2)
    how = (cv2.INTER_LINEAR, cv2.INTER_CUBIC)[seed % 2]
    image: Images = np.asarray(cv2.resize(half.image, (_WINDOW_PX, _WINDOW_PX), interpolation=how), np.uint8)
    nuclei, fat = (np.repeat(np.repeat(each, 2, axis=0), 2, axis=1) for each in (half.nuclei, half.fat))
    return RenderedTissue(image, nuclei, half.classes, 2.0 * half.centroids + 0.5, half.keys, fat)


def crops_of(tissue: RenderedTissue, task: Task, seed: int, *, at_most_per_class: int) -> Crops:
    """Crops around the nuclei, with offsets of a few pixels like those of a segmenter."""
    generator = np.random.default_rng([seed, 6])
    area_um2 = np.bincount(tissue.nuclei.ravel(), minlength=tissue.classes.size)[1:] * MPP**2
    from_edge = np.minimum(tissue.centroids, tissue.image.shape[1::-1] - tissue.centroids).min(axis=1)
    usable = (area_um2 >= _SMALLEST_UM2) & (from_edge >= _EDGE_PX)
    labels = np.where(usable, task.class_of(tissue.classes[1:]), -1)
    chosen = [
        generator.permutation(np.flatnonzero(labels == index))[:at_most_per_class]
        for index in range(len(task.classes))
    ]
    rows = np.concatenate(chosen)
    error_px = np.clip(generator.normal(0.0, 1.6, (rows.size, 2)), -4.0, 4.0)
    places, answers = tissue.centroids[rows] + error_px, labels[rows]
    if task.nothing is not None:
        false = generator.permutation(dark_spots(tissue))[: at_most_per_class // 2]
        places = np.concatenate([places, false])
        answers = np.concatenate([answers, np.full(len(false), task.classes.index(task.nothing))])
    return Crops(cut(tissue.image, places, task.crop_px), answers)


def dark_spots(tissue: RenderedTissue) -> npt.NDArray[np.float64]:
    """The (x, y) of spots (N, 2) that are not nuclei but darker than their surroundings, highest contrast first.
    A segmenter may detect them as nuclei: cytoplasm between vacuoles, red cells, torn edges.
    """
    grey = cv2.cvtColor(tissue.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    contrast = cv2.GaussianBlur(grey, (0, 0), _AROUND_PX) - cv2.GaussianBlur(grey, (0, 0), _SPOT_PX)
    clear = np.ones((_CLEAR_PX, _CLEAR_PX), np.uint8)
    taken = cv2.dilate((tissue.nuclei > 0).astype(np.uint8), clear)
    peaks = (cv2.dilate(contrast, clear) == contrast) & (taken == 0) & (contrast > _LEAST_CONTRAST)
    peaks[:_EDGE_PX] = peaks[-_EDGE_PX:] = peaks[:, :_EDGE_PX] = peaks[:, -_EDGE_PX:] = False
    y, x = np.nonzero(peaks)
    clearest = np.argsort(-contrast[y, x], kind="stable")[:_MOST_SPOTS]
    return np.stack([x, y], axis=1)[clearest].astype(np.float64)
