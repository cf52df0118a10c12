"""H&E-like liver tissue with exact truth, on an unbounded plane.

Any window of the plane can be rendered by itself and equals the same part of a larger rendering. The centre of
pixel (x, y) lies at ((x + 0.5) * mpp, (y + 0.5) * mpp) um, so renderings at different mpp show the same cells.
Run `python -m slidecascade_render.liver.tissue OUT.png` for a picture.
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
from slidecascade_render.liver.layout import lay_out
from slidecascade_render.liver.paint import paint
from slidecascade_render.liver.specimen import CLASS_NAMES, TissueOptions
from slidecascade_render.stain import margin_px, scan, transmit
from slidecascade_render.window import Window

__all__ = ["CLASS_NAMES", "RenderedTissue", "TissueOptions", "main", "render"]

# Side of blocks; bounds the memory of pixel fields, and of cell tables at low magnification.
_BLOCK_PX: Final = 1024
_BLOCK_UM: Final = 1024.0


@dataclass(frozen=True, slots=True)
class RenderedTissue:
    """A window of tissue and its truth.

    `image` uint8 (H, W, 3) RGB. `nuclei` int32 (H, W): 0 background, 1..n instances. `classes` uint8 (n + 1,):
    index into `CLASS_NAMES` of each label. `centroids` float64 (n, 2): mean (x, y) of each label's pixels, in
    pixels of this window with pixel centres at integers. `fat` uint8 (H, W): 255 times the part of a pixel that
    shows a vacuole of fat. `keys` uint64 (n + 1,): the same nucleus has the same
    key in every window of the same seed. Nuclei cut by the window's edge are included.
    """

    image: npt.NDArray[np.uint8]
    nuclei: npt.NDArray[np.int32]
    classes: npt.NDArray[np.uint8]
    centroids: npt.NDArray[np.float64]
    keys: npt.NDArray[np.uint64]
    fat: npt.NDArray[np.uint8]


def render(
    options: TissueOptions, *, x_px: int = 0, y_px: int = 0, width_px: int, height_px: int
) -> RenderedTissue:
    """Render the window whose upper left pixel is (x_px, y_px), in pixels of `options.mpp`."""
    image = np.empty((height_px, width_px, 3), np.uint8)
    nuclei = np.zeros((height_px, width_px), np.int64)
    fat = np.zeros((height_px, width_px), np.uint8)
    known_keys: list[npt.NDArray[np.uint64]] = [np.zeros(1, np.uint64)]
    known_kinds: list[npt.NDArray[np.int64]] = [np.zeros(1, np.int64)]
    used = 0
    block = min(_BLOCK_PX, int(_BLOCK_UM / options.mpp))
    for top in range(0, height_px, block):
        for left in range(0, width_px, block):
            box = np.s_[top : min(top + block, height_px), left : min(left + block, width_px)]
            height, width = nuclei[box].shape
            pixels, labels, fat[box], kinds, keys = _render_block(options, x_px + left, y_px + top, width, height)
            image[box] = pixels
            nuclei[box] = np.where(labels > 0, labels + used, 0)
            used += kinds.size
            known_kinds.append(kinds)
            known_keys.append(keys)
    return _with_truth(image, nuclei, fat, np.concatenate(known_kinds), np.concatenate(known_keys))


def _render_block(
    options: TissueOptions, x_px: int, y_px: int, width_px: int, height_px: int
) -> tuple[
    npt.NDArray[np.uint8],
    npt.NDArray[np.int32],
    npt.NDArray[np.uint8],
    npt.NDArray[np.int64],
    npt.NDArray[np.uint64],
]:
    """Pixels, labels (row + 1), fat, and the class and key of each row, of one block."""
    margin = margin_px(options)
    left, top = x_px - margin, y_px - margin
    x_um: Floats = (np.arange(left, left + width_px + 2 * margin) + 0.5) * options.mpp
    y_um: Floats = (np.arange(top, top + height_px + 2 * margin) + 0.5) * options.mpp
    layout = lay_out(options, Window(float(x_um[0]), float(y_um[0]), float(x_um[-1]), float(y_um[-1])))
    canvas = paint(options, layout, x_um, y_um)
    light = transmit(options, canvas.haematoxylin, canvas.eosin, canvas.blood)
    pixels = scan(options, light, x_px=left, y_px=top)
    inner = np.s_[margin : margin + height_px, margin : margin + width_px]
    fat = np.zeros(pixels.shape[:2], np.float32) if canvas.fat is None else canvas.fat
    part = np.rint(255.0 * fat[inner]).astype(np.uint8)
    return pixels[inner], canvas.labels[inner], part, layout.nuclei.kind, layout.nuclei.keys


def _with_truth(
    image: npt.NDArray[np.uint8],
    nuclei: npt.NDArray[np.int64],
    fat: npt.NDArray[np.uint8],
    kinds: npt.NDArray[np.int64],
    keys: npt.NDArray[np.uint64],
) -> RenderedTissue:
    """Number the visible nuclei 1..n; one nucleus seen from two blocks is one nucleus."""
    visible = np.zeros(keys.size, np.bool_)
    visible[nuclei] = True
    visible[0] = False
    rows = np.flatnonzero(visible)
    _, first, number = np.unique(keys[rows], return_index=True, return_inverse=True)
    relabel = np.zeros(keys.size, np.int32)
    relabel[rows] = number.astype(np.int32) + 1
    labels = relabel[nuclei]
    classes = np.append(0, kinds[rows[first]]).astype(np.uint8)
    found = np.append(np.uint64(0), keys[rows[first]])
    return RenderedTissue(image, labels, classes, _centroids(labels, classes.size - 1), found, fat)


def _centroids(labels: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.float64]:
    rows, columns = np.nonzero(labels)
    at = labels[rows, columns]
    area = np.bincount(at, minlength=count + 1)[1:]
    sums = [np.bincount(at, weights=axis, minlength=count + 1)[1:] for axis in (columns, rows)]
    return np.stack([total / np.maximum(area, 1) for total in sums], axis=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a picture of rendered tissue."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--mpp", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steatosis", type=float, default=0.25)
    parser.add_argument("--ballooning", type=float, default=0.10)
    parser.add_argument("--glass", action="store_true")
    given = parser.parse_args(arguments)
    options = TissueOptions(
        seed=given.seed,
        mpp=given.mpp,
        steatosis=given.steatosis,
        ballooning=given.ballooning,
        glass=given.glass,
    )
    tissue = render(options, width_px=given.width, height_px=given.height)
    if not cv2.imwrite(str(given.out), tissue.image[..., ::-1]):
        raise OSError(f"could not write {given.out}")
    sys.stdout.write(f"{given.out}: {given.width} x {given.height} px, {tissue.classes.size - 1} nuclei\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
