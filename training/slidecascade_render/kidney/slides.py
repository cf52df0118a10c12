"""Whole slides of rendered kidney.

Run `python -m slidecascade_render.kidney.slides OUT.tiff --width 20000 --height 20000`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from slidecascade_render.kidney.tissue import render
from slidecascade_render.slides import Rgb, write_pyramid


def write_slide(path: Path, seed: int, width_px: int, height_px: int, *, mpp: float) -> None:
    """Write kidney as a pyramidal TIFF of `mpp` um per pixel; see `slidecascade_render.slides.write_pyramid`.

    Raises:
        ValueError: a size is not positive.
    """

    def draw(*, x_px: int, y_px: int, width_px: int, height_px: int) -> Rgb:
        return render(seed, mpp=mpp, x_px=x_px, y_px=y_px, width_px=width_px, height_px=height_px).image

    write_pyramid(path, draw, width_px, height_px, mpp=mpp)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a whole slide of rendered kidney."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=20_000)
    parser.add_argument("--height", type=int, default=20_000)
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    write_slide(given.out, given.seed, given.width, given.height, mpp=given.mpp)
    sys.stdout.write(f"{given.out}: {given.width} x {given.height} px at {given.mpp} um/px\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
