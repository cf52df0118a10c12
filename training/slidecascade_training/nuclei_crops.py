"""Training crops for the nuclei network: targets, and views that vary geometry, stain, light and noise.

Fluorescence images have the most instances and the sharpest truth, bright-field ones are few. So a part of
the fluorescence crops is shown as rendered haematoxylin and eosin: the nuclei keep their truth and take the
optical densities of a stain over a made-up tissue (Beer-Lambert law; stain vectors around those of Ruifrok and
Johnston, 2001).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade_evaluation.dsb2018 import COLOUR, FLUORESCENCE, GREY, NUCLS, NucleiImage

Image = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float32]

TISSUE = "rendered-tissue"

CROP_PX = 192
# Weights travel in a uint8 plane, in sixteenths.
WEIGHT_UNIT = 16.0

# How often a source is drawn, and the range of scales it is shown at.
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
_HAEMATOXYLIN = np.array([0.65, 0.70, 0.29], np.float32)
_EOSIN = np.array([0.09, 0.95, 0.28], np.float32)


@dataclass(frozen=True)
class TrainingImage:
    """An image with its target planes ``(H, W, 3)`` uint8: foreground, rim distance, weight."""

    kind: str
    image: Image
    planes: Image
    share: float
    scales: tuple[float, float]


@dataclass(frozen=True)
class Batch:
    """Images ``(N, C, C, 3)`` RGB and their planes ``(N, C, C, 3)`` as of `target_planes`, both uint8."""

    images: Image
    planes: Image


def prepare(images: Sequence[NucleiImage]) -> list[TrainingImage]:
    """Compute target planes once per image, and how often each image is to be drawn."""
    prepared = []
    for kind, share in _SHARES.items():
        of_kind = [item for item in images if item.kind == kind]
        # Large images hold more, so the draw goes by the square root of the area.
        sizes = np.array([item.labels.size for item in of_kind], float) ** 0.5
        for item, size in zip(of_kind, sizes, strict=True):
            planes, part = target_planes(item.labels), share * size / sizes.sum()
            prepared.append(TrainingImage(kind, item.image, planes, part, _SCALES[kind]))
    return prepared


def render_tissue(count: int, seed: int, side_px: int = 512) -> list[NucleiImage]:
    """Render liver tissue at 0.5 um per pixel, every window another specimen, stain and scanner."""
    from slidecascade_render.liver.tissue import TissueOptions, render

    rng = np.random.default_rng(seed)
    images = []
    for index in range(count):
        options = TissueOptions(
            seed=seed * 1000 + index,
            mpp=0.5,
            steatosis=rng.uniform(0, 0.6),
            ballooning=rng.uniform(0, 0.25),
            immune_per_mm2=rng.uniform(100, 900),
            haematoxylin=rng.uniform(0.7, 1.3),
            eosin=rng.uniform(0.6, 1.4),
            hue=rng.uniform(-1, 1),
            blur_um=rng.uniform(0.2, 0.6),
            noise=rng.uniform(1, 4),
        )
        tissue = render(options, width_px=side_px, height_px=side_px)
        images.append(NucleiImage(f"tissue-{index}", TISSUE, tissue.image, tissue.nuclei))
    return images


def target_planes(labels: npt.NDArray[np.int32]) -> Image:
    """Foreground (0 or 255), distance to the rim relative to the instance's greatest (0 to 255), and weight.

    The relative distance does not change with scale, so the planes can be warped like the image. Weights (in
    1/16) favour small instances, which count as much as large ones, and seams between touching instances. The
    ground beside an instance weighs as much as the instance, or small ones would come out too large.
    """
    as_float = labels.astype(np.float32)
    square = np.ones((3, 3), np.uint8)
    is_cell = labels > 0
    is_rim = is_cell & ((cv2.dilate(as_float, square) != labels) | (cv2.erode(as_float, square) != labels))
    distance = cv2.distanceTransform((is_cell & ~is_rim).astype(np.uint8), cv2.DIST_L2, 5) + is_cell
    greatest = np.zeros(int(labels.max()) + 1, np.float32)
    np.maximum.at(greatest, labels.ravel(), distance.ravel())
    relative = distance / np.maximum(greatest, 1.0)[labels]
    area = np.bincount(labels.ravel()).astype(np.float32)
    weight = np.where(is_cell, np.clip((300.0 / np.maximum(area, 1)) ** 0.5, 1.0, 2.5)[labels], 1.0)
    wide = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    weight = np.where(is_cell, weight, cv2.dilate(weight, wide))
    lowest = cv2.erode(np.where(is_cell, as_float, 1e6).astype(np.float32), wide)
    is_seam = (cv2.dilate(as_float, wide) != lowest) & (lowest < 1e6) & (cv2.dilate(as_float, wide) > 0)
    weight = np.where(is_seam, np.maximum(weight, 4.0), weight)
    planes = (is_cell * 255.0, relative * 255.0, weight * WEIGHT_UNIT)
    return np.stack(planes, axis=-1).round().clip(0, 255).astype(np.uint8)


def draw_batch(pool: Sequence[TrainingImage], size: int, rng: np.random.Generator) -> Batch:
    """Draw `size` augmented crops, images by their share."""
    shares = np.array([item.share for item in pool])
    chosen = rng.choice(len(pool), size, p=shares / shares.sum())
    crops = [_draw_crop(pool[index], rng) for index in chosen]
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
    scale = np.exp(rng.uniform(*np.log(item.scales)))
    # Keep the crop inside the image where it fits; what sticks out is mirrored.
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
    """Cut the crop at one or two of its sides, and put what is left's mirror image there."""
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
        return _render_stained(image, planes, rng)
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
    return _to_bytes(varied[..., None] * tint)


def _vary_stain(image: Image, rng: np.random.Generator) -> Image:
    """Mix and scale optical densities, shift hue, turn grey or invert now and then."""
    density = -np.log(np.maximum(image, 1).astype(np.float32) / 255.0)
    mix = np.eye(3) + rng.normal(0, 0.07, (3, 3))
    mix *= np.exp(rng.normal(0, 0.18, (1, 3))) * np.exp(rng.normal(0, 0.18))
    light = rng.uniform(0.85, 1.04) * rng.uniform(0.93, 1.05, 3)
    varied = np.exp(-np.maximum(density @ mix.astype(np.float32), 0)) * light
    out = _to_bytes(varied)
    draw = rng.random()
    if draw < 0.35:
        hsv = cv2.cvtColor(out, cv2.COLOR_RGB2HSV).astype(np.float32)
        hsv[..., 0] = (hsv[..., 0] + rng.normal(0, 8)) % 180
        hsv[..., 1] *= np.exp(rng.normal(0, 0.3))
        out = cv2.cvtColor(hsv.clip(0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB)
    elif draw < 0.45:
        out = cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return 255 - out if rng.random() < 0.04 else out


def _render_stained(image: Image, planes: Image, rng: np.random.Generator) -> Image:
    """Show a fluorescence crop as haematoxylin and eosin over a made-up tissue."""
    cell = cv2.GaussianBlur(planes[..., 0], (0, 0), rng.uniform(0.5, 1.0)).astype(np.float32) / 255.0
    depth = planes[..., 1].astype(np.float32) / 255.0
    texture = image[..., 0].astype(np.float32)
    texture = np.clip(texture / max(float(np.percentile(texture, 99)), 8.0), 0, 1)
    grain = _noise(rng, rng.uniform(0.7, 2.0))
    vesicular = rng.uniform(0, 0.6) * (rng.random() < 0.6)
    nuclear = rng.uniform(0.6, 1.6) * (0.55 + 0.45 * texture) * (1 + 0.12 * grain) * (1 - vesicular * depth)
    cytoplasm = 0.5 + 0.25 * _noise(rng, 12.0) + 0.15 * _noise(rng, 3.0) + 0.07 * grain
    cytoplasm = cytoplasm.clip(0, 1.5) * _vacuoles(rng)
    haematoxylin = cell * nuclear + (1 - cell) * cytoplasm * rng.uniform(0, 0.45)
    eosin = cytoplasm * rng.uniform(0.2, 1.0) * (1 - cell * rng.uniform(0.3, 0.9))
    stains = [vector + rng.normal(0, 0.06, 3) for vector in (_HAEMATOXYLIN, _EOSIN)]
    density = haematoxylin[..., None] * stains[0] + eosin[..., None] * stains[1]
    return _to_bytes(np.exp(-density.clip(0)) * rng.uniform(0.88, 1.02) * rng.uniform(0.96, 1.02, 3))


def _noise(rng: np.random.Generator, radius: float) -> Field:
    """A smooth random field of about unit spread whose grains have the given radius in pixels."""
    coarse = max(1, int(radius))
    side = -(-CROP_PX // coarse) + 2
    field = rng.normal(0, 1, (side, side)).astype(np.float32)
    size = side * coarse
    grown: Field = cv2.resize(field, (size, size), interpolation=cv2.INTER_CUBIC)
    return grown[:CROP_PX, :CROP_PX]


def _vacuoles(rng: np.random.Generator) -> Field:
    """1 in tissue, near 0 in round holes, which stained nuclei may lie beside or over."""
    tissue = np.ones((CROP_PX, CROP_PX), np.float32)
    if rng.random() < 0.5:
        for _ in range(rng.integers(1, 40)):
            x, y = rng.integers(0, CROP_PX, 2).tolist()
            cv2.circle(tissue, (x, y), int(rng.uniform(2, 22)), rng.uniform(0, 0.15), -1, cv2.LINE_AA)
        tissue = cv2.GaussianBlur(tissue, (0, 0), 0.8)
    return tissue


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


def _to_bytes(image: npt.NDArray[np.floating]) -> Image:
    """0 to 1 floats to uint8."""
    return (image * 255.0).round().clip(0, 255).astype(np.uint8)
