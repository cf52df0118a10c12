"""Whole slides of rendered liver.

Run `python -m slidecascade_render.liver.slides OUT.tiff --width 20000 --height 20000`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from slidecascade_render.liver.tissue import TissueOptions, render
from slidecascade_render.slides import Rgb, write_pyramid


def write_slide(
    path: Path,
    options: TissueOptions,
    width_px: int,
    height_px: int,
    *,
    tile_px: int = 256,
    levels: int | None = None,
    quality: int = 90,
) -> None:
    """Write liver tissue as a pyramidal TIFF of `options.mpp`; see `slidecascade_render.slides.write_pyramid`.

    Raises:
        ValueError: a size or the number of levels is not positive, or the tile no multiple of 16.
    """

    def draw(*, x_px: int, y_px: int, width_px: int, height_px: int) -> Rgb:
        return render(options, x_px=x_px, y_px=y_px, width_px=width_px, height_px=height_px).image

    write_pyramid(
        path, draw, width_px, height_px, mpp=options.mpp, tile_px=tile_px, levels=levels, quality=quality
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a whole slide of rendered tissue."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=20_000)
    parser.add_argument("--height", type=int, default=20_000)
    parser.add_argument("--mpp", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--glass", action="store_true", help="leave blank glass around the tissue")
    given = parser.parse_args(arguments)
    options = TissueOptions(seed=given.seed, mpp=given.mpp, glass=given.glass)
    write_slide(given.out, options, given.width, given.height)
    sys.stdout.write(f"{given.out}: {given.width} x {given.height} px at {given.mpp} um/px\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
