"""H&E-like lymph nodes with metastases and an exact mask of these, on an unbounded plane.

Any window of the plane can be rendered by itself and equals the same part of a larger rendering. The centre of
pixel (x, y) lies at ((x + 0.5) * mpp, (y + 0.5) * mpp) um.
Run `python -m slidecascade_render.lymph.node OUT.png` for a picture.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade_render.lattice import Floats
from slidecascade_render.lymph.cells import lay_out
from slidecascade_render.lymph.paint import paint
from slidecascade_render.lymph.regions import Follicles
from slidecascade_render.lymph.specimen import NodeOptions
from slidecascade_render.stain import margin_px, scan, transmit
from slidecascade_render.window import Window

_BLOCK_PX: Final = 1024


@dataclass(frozen=True, slots=True)
class RenderedNode:
    """A window of a lymph node: `image` uint8 (H, W, 3) RGB, and where `tumour` is, bool (H, W)."""

    image: npt.NDArray[np.uint8]
    tumour: npt.NDArray[np.bool_]


def render(options: NodeOptions, *, x_px: int = 0, y_px: int = 0, width_px: int, height_px: int) -> RenderedNode:
    """Render the window whose upper left pixel is (x_px, y_px), in pixels of `options.mpp`."""
    image = np.empty((height_px, width_px, 3), np.uint8)
    tumour = np.zeros((height_px, width_px), np.bool_)
    for top in range(0, height_px, _BLOCK_PX):
        for left in range(0, width_px, _BLOCK_PX):
            box = np.s_[top : min(top + _BLOCK_PX, height_px), left : min(left + _BLOCK_PX, width_px)]
            height, width = tumour[box].shape
            image[box], tumour[box] = _render_block(options, x_px + left, y_px + top, width, height)
    return RenderedNode(image, tumour)


def _render_block(
    options: NodeOptions, x_px: int, y_px: int, width_px: int, height_px: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    margin = margin_px(options)
    left, top = x_px - margin, y_px - margin
    x_um: Floats = (np.arange(left, left + width_px + 2 * margin) + 0.5) * options.mpp
    y_um: Floats = (np.arange(top, top + height_px + 2 * margin) + 0.5) * options.mpp
    window = Window(float(x_um[0]), float(y_um[0]), float(x_um[-1]), float(y_um[-1]))
    follicles = Follicles.around(options, window.grown(100.0))
    canvas, tumour = paint(options, follicles, lay_out(options, follicles, window), x_um, y_um)
    light = transmit(options, canvas.haematoxylin, canvas.eosin, canvas.blood)
    inner = np.s_[margin : margin + height_px, margin : margin + width_px]
    return scan(options, light, x_px=left, y_px=top)[inner], tumour[inner]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a picture of a rendered lymph node."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tumour", type=float, default=0.3)
    given = parser.parse_args(arguments)
    options = NodeOptions(seed=given.seed, mpp=given.mpp, tumour=given.tumour)
    node = render(options, width_px=given.width, height_px=given.height)
    if not cv2.imwrite(str(given.out), node.image[..., ::-1]):
        raise OSError(f"could not write {given.out}")
    sys.stdout.write(f"{given.out}: {given.width} x {given.height} px, {node.tumour.mean():.1%} tumour\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
