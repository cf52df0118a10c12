"""Training crops of the nuclei network: views that vary geometry, stain, light and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade_evaluation.dsb2018 import COLOUR, FLUORESCENCE, GREY, NUCLS, NucleiImage
from slidecascade_training.nuclei.staining import CROP_PX, render_stained, to_bytes
from slidecascade_training.nuclei.targets import target_planes
from slidecascade_training.nuclei.tissue import TISSUE
from slidecascade_training.prefetch import Batch

Image = npt.NDArray[np.uint8]


Scaling = Literal["kinds", "objects", "both"]
"""Scaling of images: by factors of each kind, to objects of all sizes, or half of the crops by each of them."""

Range = tuple[float, float]

OBJECTS_PX: Final = (8.0, 100.0)
"""Diameters of objects under the scaling "objects"."""
_LARGEST_STEP: Final = 4.0  # larger factors only interpolate

# Sampling weight and range of scales of a source.
_SHARES = {FLUORESCENCE: 0.5, COLOUR: 0.22, GREY: 0.06, NUCLS: 0.13, TISSUE: 0.09}
_SCALES = {
    FLUORESCENCE: (0.6, 1.6),
    COLOUR: (0.45, 1.5),
    GREY: (0.6, 1.6),
    NUCLS: (0.4, 1.1),
    TISSUE: (0.7, 1.5),
}
_STAINED_SHARE = 0.2
# How often a crop is cut and mirrored at a new edge, as the service does up to the network's stride.
_EDGE_SHARE = 0.25


@dataclass(frozen=True)
class TrainingImage:
    """An image with its target planes ``(H, W, 3)`` uint8: foreground, rim distance, weight.

    A crop's scale is drawn from one of the ranges `scales`, which are drawn equally often.
    """

    kind: str
    image: Image
    planes: Image
    share: float
    scales: tuple[Range, ...]


def prepare(images: Sequence[NucleiImage], scaling: Scaling = "kinds") -> list[TrainingImage]:
    """Compute target planes once per image, how often each image is to be drawn, and how large."""
    prepared = []
    for kind, share in _SHARES.items():
        of_kind = [item for item in images if item.kind == kind]
        # Large images hold more, so the draw goes by the square root of the area.
        sizes = np.array([item.labels.size for item in of_kind], float) ** 0.5
        for item, size in zip(of_kind, sizes, strict=True):
            planes, part = target_planes(item.labels), share * size / sizes.sum()
            prepared.append(TrainingImage(kind, item.image, planes, part, _scales_of(item, scaling)))
    return prepared


def _scales_of(item: NucleiImage, scaling: Scaling) -> tuple[Range, ...]:
    if scaling == "kinds":
        return (_SCALES[item.kind],)
    by_objects = object_scales(item.labels)
    return (by_objects,) if scaling == "objects" else (_SCALES[item.kind], by_objects)


def object_scales(labels: npt.NDArray[np.int32]) -> Range:
    """Factors between which an image's objects have diameters of `OBJECTS_PX`, by their median.

    At most four times smaller or larger; (1, 1) without objects.
    """
    if not labels.any():
        return 1.0, 1.0
    diameter_px = _median_diameter_px(labels)
    low, high = (float(np.clip(wanted / diameter_px, 1 / _LARGEST_STEP, _LARGEST_STEP)) for wanted in OBJECTS_PX)
    return low, high


def _median_diameter_px(labels: npt.NDArray[np.int32]) -> float:
    """The median diameter of the discs with the areas of the objects; there is one at least."""
    areas = np.bincount(labels.ravel())[1:]
    return float(np.median(np.sqrt(4 * areas[areas > 0] / np.pi)))


def usual_diameter_px(images: Sequence[NucleiImage], scaling: Scaling = "kinds") -> float:
    """The diameter that objects of `images` usually have in crops: the geometric mean, over images by how often
    they are drawn, of the median diameter and of the factors between which an image is scaled."""
    weights, logarithms = [], []
    for kind, share in _SHARES.items():
        of_kind = [item for item in images if item.kind == kind and item.labels.any()]
        for item in of_kind:
            weights.append(share / len(of_kind))
            scale = np.mean(np.log(_scales_of(item, scaling)))
            logarithms.append(np.log(_median_diameter_px(item.labels)) + scale)
    return float(np.exp(np.average(logarithms, weights=weights)))


@dataclass(frozen=True, slots=True)
class CropDraw:
    """Batches of augmented crops by step, images drawn by their share."""

    pool: Sequence[TrainingImage]
    size: int
    seed: int

    def __call__(self, step: int) -> Batch:
        """Targets are planes ``(N, C, C, 3)`` uint8 as of `target_planes`."""
        rng = np.random.default_rng([self.seed, step])
        shares = np.array([item.share for item in self.pool])
        chosen = rng.choice(len(self.pool), self.size, p=shares / shares.sum())
        crops = [_draw_crop(self.pool[index], rng) for index in chosen]
        return Batch(np.stack([image for image, _ in crops]), np.stack([planes for _, planes in crops]))


def _draw_crop(item: TrainingImage, rng: np.random.Generator) -> tuple[Image, Image]:
    image, planes = _warp(item, rng)
    if rng.random() < _EDGE_SHARE:
        image, planes = _mirror_at_edges(image, planes, rng)
    is_fluorescence = item.kind == FLUORESCENCE
    image = _vary_fluorescence(image, planes, rng) if is_fluorescence else _vary_stain(image, rng)
    return _degrade(image, rng), planes


def _warp(item: TrainingImage, rng: np.random.Generator) -> tuple[Image, Image]:
    """Rotate, mirror, scale and stretch about a random point, mostly one inside a nucleus."""
    height, width = item.planes.shape[:2]
    centre = rng.uniform(0, 1, 2) * (width, height)
    if rng.random() < 0.7:
        ys, xs = np.nonzero(item.planes[::4, ::4, 0])
        if len(ys):
            pick = rng.integers(len(ys))
            centre = np.array([xs[pick], ys[pick]]) * 4 + rng.uniform(-CROP_PX / 3, CROP_PX / 3, 2)
    range_ = item.scales[rng.integers(len(item.scales))] if len(item.scales) > 1 else item.scales[0]
    scale = np.exp(rng.uniform(*np.log(range_)))
    # Keep the crop inside the image if it fits; the rest is mirrored.
    margin = np.minimum(CROP_PX / 2 / scale, np.array([width, height]) / 2)
    centre = np.clip(centre, margin, np.array([width, height]) - margin)
    stretch = np.exp(rng.normal(0, 0.07))
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.5 else rng.integers(4) * np.pi / 2
    mirror = rng.choice([-1.0, 1.0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.diag([mirror / (scale * stretch), stretch / scale])
    # The matrix maps crop pixels to image pixels (WARP_INVERSE_MAP).
    offset = centre - linear @ np.array([CROP_PX / 2, CROP_PX / 2])
    matrix = np.column_stack([linear, offset])
    image = item.image
    if scale < 0.7:
        # Bilinear sampling alone would alias fine chromatin into noise.
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / scale)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = (
        cv2.warpAffine(source, matrix, (CROP_PX, CROP_PX), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        for source in (image, item.planes)
    )
    crop, planes = warped
    return crop, planes


def _mirror_at_edges(image: Image, planes: Image, rng: np.random.Generator) -> tuple[Image, Image]:
    """Cut the crop at one or two sides and fill the gap with the mirrored rest."""
    is_cut = rng.permutation([True, rng.random() < 0.5, False, False])
    top, bottom, left, right = (rng.integers(8, CROP_PX // 3, 4) * is_cut).tolist()
    kept = np.s_[top : CROP_PX - bottom, left : CROP_PX - right]
    mirrored = (
        cv2.copyMakeBorder(source[kept], top, bottom, left, right, cv2.BORDER_REFLECT_101)
        for source in (image, planes)
    )
    crop, targets = mirrored
    return crop, targets


def _vary_fluorescence(image: Image, planes: Image, rng: np.random.Generator) -> Image:
    if rng.random() < _STAINED_SHARE:
        return render_stained(image, planes, rng)
    grey = image[..., 0].astype(np.float32) / 255.0
    gain = np.exp(rng.uniform(np.log(0.5), np.log(2.5)))
    varied = np.clip(grey * gain + rng.uniform(-0.02, 0.08), 0, 1) ** np.exp(rng.normal(0, 0.2))
    draw = rng.random()
    if draw < 0.12:
        varied = 1.0 - varied * rng.uniform(0.5, 1.0)
    tint = np.ones(3, np.float32)
    if draw > 0.75:
        tint = rng.uniform(0, 1, 3).astype(np.float32)
        tint[rng.integers(3)] = 1.0
    return to_bytes(varied[..., None] * tint)


def _vary_stain(image: Image, rng: np.random.Generator) -> Image:
    """Mix and scale optical densities, shift hue, occasionally convert to grey or invert."""
    density = -np.log(np.maximum(image, 1).astype(np.float32) / 255.0)
    mix = np.eye(3) + rng.normal(0, 0.07, (3, 3))
    mix *= np.exp(rng.normal(0, 0.18, (1, 3))) * np.exp(rng.normal(0, 0.18))
    light = rng.uniform(0.85, 1.04) * rng.uniform(0.93, 1.05, 3)
    varied = np.exp(-np.maximum(density @ mix.astype(np.float32), 0)) * light
    out = to_bytes(varied)
    draw = rng.random()
    if draw < 0.35:
        hsv = cv2.cvtColor(out, cv2.COLOR_RGB2HSV).astype(np.float32)
        hsv[..., 0] = (hsv[..., 0] + rng.normal(0, 8)) % 180
        hsv[..., 1] *= np.exp(rng.normal(0, 0.3))
        out = cv2.cvtColor(hsv.clip(0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB)
    elif draw < 0.45:
        out = cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return 255 - out if rng.random() < 0.04 else out


def _degrade(image: Image, rng: np.random.Generator) -> Image:
    """Blur or sharpen, add sensor noise, compress."""
    draw = rng.random()
    if draw < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.4))
    elif draw < 0.4:
        soft = cv2.GaussianBlur(image, (0, 0), 1.0)
        image = cv2.addWeighted(image, 2.0, soft, -1.0, 0)
    if rng.random() < 0.3:
        noise = rng.normal(0, rng.uniform(1, 10), image.shape)
        image = (image + noise).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        _, coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 90))])
        image = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return image
