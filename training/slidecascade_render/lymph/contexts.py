"""Labelled contexts of rendered lymph nodes: what the classifier of the `tumor-heatmap` pipeline is trained on.

Every window has its own node, stain, scanner and magnification, sampled from its seed. A context is 299 px at
0.25 um/px, and it is positive when its centre 128 px hold tumour.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade_render.lattice import Floats, Noise
from slidecascade_render.lymph.node import RenderedNode, render
from slidecascade_render.lymph.regions import Follicles, regions
from slidecascade_render.lymph.specimen import NodeOptions
from slidecascade_render.window import Window

MPP: Final = 0.25
CONTEXT_PX: Final = 299
STRIDE_PX: Final = 128
KEPT_PX: Final = 112
"""Side of a context as it is kept for training."""

_WINDOW_PX: Final = 1024
_LEAST_TUMOUR_UM2: Final = 4.0
_JITTERED: Final = 40
_GLASS: Final = 0.85
_TRIES: Final = 40


@dataclass(frozen=True, slots=True)
class Contexts:
    """`images` uint8 (N, S, S, 3) RGB; `labels` int64 (N,): 1 where the centre holds tumour."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


def random_options(seed: int) -> NodeOptions:
    """A random node, stain and scanner; two of five have no tumour."""
    generator = np.random.default_rng([seed, 7])

    def draw(low: float, high: float) -> float:
        return float(generator.uniform(low, high))

    return NodeOptions(
        seed=seed,
        mpp=0.5 * draw(0.92, 1.08),
        tumour=draw(0.3, 1.0) if draw(0, 1) < 0.6 else 0.0,
        single_cells=draw(0, 1),
        tumour_size=draw(0.75, 1.35),
        tumour_density=draw(0, 1),
        tumour_basophilia=draw(0, 1) ** 1.5,
        glands=draw(0, 1),
        desmoplasia=draw(0, 1),
        follicles=draw(0, 1.8),
        germinal=draw(0, 1),
        sinuses=draw(0, 1),
        histiocytes=draw(0, 1),
        looseness=draw(0, 1),
        cell_scale=draw(0.88, 1.18),
        fibrosis=draw(0, 1) ** 2,
        outside_is_fat=draw(0, 1) < 0.7,
        edge=draw(0.2, 2.0),
        texture=draw(0.5, 1.6),
        smudge=draw(0, 1),
        haematoxylin=draw(0.6, 1.6),
        eosin=draw(0.5, 1.6),
        hue=draw(-0.9, 0.9),
        background=draw(0.85, 1.0),
        blur_um=draw(0.15, 0.8),
        noise=draw(0.0, 5.0),
        sharpening=draw(0.0, 1.2) if draw(0, 1) < 0.4 else 0.0,
        jpeg_quality=int(draw(45, 96)) if draw(0, 1) < 0.8 else None,
    )


def random_node(seed: int, *, fine: bool) -> RenderedNode:
    """A window as the classifier is given it: at about 0.25 um/px where `fine`, else at about 0.5.

    Of a node with tumour, one that holds some.
    """
    options = random_options(seed)
    x_um, y_um = _place(options)
    side = _WINDOW_PX if fine else _WINDOW_PX // 2
    if fine:
        options = replace(options, mpp=options.mpp / 2)
    x_px, y_px = round(x_um / options.mpp), round(y_um / options.mpp)
    return render(options, x_px=x_px, y_px=y_px, width_px=side, height_px=side)


def _place(options: NodeOptions) -> tuple[float, float]:
    """The corner of a window in um: the first of random ones near whose middle is tumour, if the node has any."""
    generator = np.random.default_rng([options.seed, 9])
    side_um = _WINDOW_PX * MPP
    for _ in range(_TRIES):
        x_um, y_um = generator.uniform(0, 6000, 2)
        x = x_um + side_um * generator.uniform(0, 1, 12)
        y = y_um + side_um * generator.uniform(0, 1, 12)
        at = regions(options, Follicles.around(options, Window(x_um, y_um, x_um, y_um)), x, y, partial(_at, x, y))
        inside = int(at.is_tumour.sum()) if options.tumour else int(at.is_node.sum())
        if inside >= 2:
            break
    return float(x_um), float(y_um)


def _at(x_um: Floats, y_um: Floats, noise: Noise) -> Floats:
    return noise.at(x_um, y_um)


def contexts_of(node: RenderedNode, seed: int, *, fine: bool, side_px: int, at_most_per_class: int) -> Contexts:
    """Contexts at random places, as many of either class as there are, resized to `side_px`."""
    generator = np.random.default_rng([seed, 8])
    scale = 1 if fine else 2
    context, centre = round(CONTEXT_PX / scale), STRIDE_PX // scale
    start = (context - centre) // 2
    corners = generator.integers(0, node.tumour.shape[0] - context, (_JITTERED, 2)).tolist()
    least_px = _LEAST_TUMOUR_UM2 / (MPP * scale) ** 2
    images: list[list[npt.NDArray[np.uint8]]] = [[], []]
    for x, y in corners:
        inner = np.s_[y + start : y + start + centre, x + start : x + start + centre]
        tumour_px = int(node.tumour[inner].sum())
        label = int(tumour_px >= least_px)
        is_glass = (node.image[inner].min(axis=2) > 255 * _GLASS).mean() > 0.97
        if (0 < tumour_px < least_px) or is_glass or len(images[label]) >= at_most_per_class:
            continue
        image = node.image[y : y + context, x : x + context]
        how = cv2.INTER_LINEAR if fine else cv2.INTER_AREA
        images[label].append(np.asarray(cv2.resize(image, (side_px, side_px), interpolation=how), np.uint8))
    found = images[0] + images[1]
    labels = np.repeat([0, 1], [len(images[0]), len(images[1])]).astype(np.int64)
    return Contexts(np.stack(found) if found else np.zeros((0, side_px, side_px, 3), np.uint8), labels)
