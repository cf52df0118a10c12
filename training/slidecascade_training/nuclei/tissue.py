"""Rendered liver as training images of nuclei."""

from __future__ import annotations

from typing import Final

import numpy as np

from slidecascade_evaluation.dsb2018 import NucleiImage

TISSUE: Final = "rendered-tissue"


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
