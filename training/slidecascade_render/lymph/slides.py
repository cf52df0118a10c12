"""Whole slides of rendered lymph nodes, and the masks of their tumour.

Run `python -m slidecascade_render.lymph.slides OUT.tiff --width 20000 --height 20000`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slidecascade_render.lymph.node import render
from slidecascade_render.lymph.specimen import NodeOptions
from slidecascade_render.slides import Rgb, write_pyramid

MASK_SUFFIX = "_mask.tif"
"""Of the file with the mask of ``NAME.tiff``: ``NAME_mask.tif``, as in CAMELYON16."""


def write_slide(
    path: Path, options: NodeOptions, width_px: int, height_px: int, *, levels: int | None = None
) -> None:
    """Write a lymph node as a pyramidal TIFF of `options.mpp`; see `slidecascade_render.slides.write_pyramid`.

    Raises:
        ValueError: a size or the number of levels is not positive.
    """

    def draw(*, x_px: int, y_px: int, width_px: int, height_px: int) -> Rgb:
        return render(options, x_px=x_px, y_px=y_px, width_px=width_px, height_px=height_px).image

    write_pyramid(path, draw, width_px, height_px, mpp=options.mpp, levels=levels)


def write_mask(
    path: Path, options: NodeOptions, width_px: int, height_px: int, *, levels: int | None = None
) -> None:
    """Write the mask of the slide that `write_slide` makes, as large as it: white where tumour is, else black.

    Its JPEG compression moves grey levels by a few: compare them with 128.
    """

    def draw(*, x_px: int, y_px: int, width_px: int, height_px: int) -> Rgb:
        node = render(options, x_px=x_px, y_px=y_px, width_px=width_px, height_px=height_px)
        return np.repeat(np.where(node.tumour, np.uint8(255), np.uint8(0))[:, :, None], 3, axis=2)

    write_pyramid(path, draw, width_px, height_px, mpp=options.mpp, levels=levels, quality=98)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a whole slide of a rendered lymph node, and the mask of its tumour beside it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=20_000)
    parser.add_argument("--height", type=int, default=20_000)
    parser.add_argument("--mpp", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tumour", type=float, default=0.4)
    given = parser.parse_args(arguments)
    options = NodeOptions(seed=given.seed, mpp=given.mpp, tumour=given.tumour)
    write_slide(given.out, options, given.width, given.height)
    write_mask(given.out.with_name(given.out.stem + MASK_SUFFIX), options, given.width, given.height)
    sys.stdout.write(f"{given.out}: {given.width} x {given.height} px at {given.mpp} um/px\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
