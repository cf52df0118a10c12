"""Paints a lymph node as concentrations of haematoxylin, eosin and blood for every pixel, and the tumour's mask.

Every value is a function of the pixel's place in the plane alone, so adjacent windows have no seam.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from slidecascade_render.canvas import Box, Canvas, ramp, texture
from slidecascade_render.darts import places, thinned
from slidecascade_render.lattice import Field, Floats, Noise, between, uniform
from slidecascade_render.lymph.cells import Cells
from slidecascade_render.lymph.regions import CAPSULE_UM, Follicles, Regions, regions
from slidecascade_render.lymph.specimen import NodeOptions
from slidecascade_render.window import Window

FAT_PITCH_UM: Final = 24.0
MOST_FAT_UM: Final = 42.0
_VESSEL_PITCH_UM: Final = 190.0
_MOST_VESSEL_UM: Final = 26.0


def paint(
    options: NodeOptions, follicles: Follicles, cells: Cells, x_um: Floats, y_um: Floats
) -> tuple[Canvas, npt.NDArray[np.bool_]]:
    """The stains at the pixel centres with columns `x_um` (W,) and rows `y_um` (H,), and where tumour is."""
    size = (y_um.size, x_um.size)
    haematoxylin, eosin, blood = (np.zeros(size, np.float32) for _ in range(3))
    canvas = Canvas(x_um, y_um, options.mpp, haematoxylin, eosin, blood, np.zeros(size, np.int32))
    at = regions(options, follicles, x_um[None, :], y_um[:, None], lambda noise: noise.over(x_um, y_um))
    _paint_ground(canvas, options, at)
    if options.outside_is_fat:
        _paint_fat(canvas, options, at)
    _paint_vessels(canvas, options, at)
    tumour = at.is_tumour & (at.lumen < 0.35)
    _paint_cells(canvas, options, cells, tumour)
    _open_gaps(canvas, options, at)
    if not options.outside_is_fat:
        gone = ramp(-at.depth_um.astype(np.float32) / np.float32(6.0) + np.float32(0.5))
        canvas.cover(np.s_[:, :], gone, 0.0, 0.0)
    return canvas, tumour


def _paint_ground(canvas: Canvas, options: NodeOptions, at: Regions) -> None:
    """What lies between cells: reticulum, sinus, collagen, the cytoplasm of nests, lumens."""
    seed, strength = options.seed, np.float32(options.texture)
    fine = strength * texture(canvas, seed, 30, 1.6)
    coarse = strength * texture(canvas, seed, 31, 5.0)
    node = 0.20 + 0.07 * coarse + 0.09 * fine
    eosin = np.where(at.germinal, node + 0.06, node)
    haematoxylin = np.full(eosin.shape, 0.07, np.float32) + 0.05 * np.maximum(coarse, 0)
    sinus = ramp(at.sinus.astype(np.float32) * 3.0)
    eosin = eosin * (1 - sinus) + sinus * (0.09 + 0.05 * coarse)
    haematoxylin = haematoxylin * (1 - 0.7 * sinus)
    fibres = np.maximum(_fibres(canvas, options), 0.0)
    collagen = np.maximum(ramp(at.fibre.astype(np.float32) * 4.0), (at.depth_um < CAPSULE_UM).astype(np.float32))
    eosin = eosin * (1 - collagen) + collagen * fibres
    haematoxylin = haematoxylin * (1 - collagen) + collagen * 0.04
    nest = ramp(at.nest.astype(np.float32) * 5.0 + np.float32(0.5)) * (at.depth_um > 0)
    eosin = eosin * (1 - nest) + nest * (0.42 + 0.10 * coarse + 0.08 * fine)
    haematoxylin = haematoxylin * (1 - nest) + nest * (0.04 + 0.24 * options.tumour_basophilia)
    lumen = ramp(at.lumen.astype(np.float32) * 3.0)
    outside = at.depth_um < 0
    loose = np.where(outside, np.float32(0.16) * (0.6 + fibres), np.float32(1.0))
    canvas.eosin += (eosin * (1 - 0.9 * lumen) * loose).astype(np.float32)
    canvas.haematoxylin += (haematoxylin * (1 - 0.95 * lumen) * np.where(outside, 0.3, 1.0)).astype(np.float32)


def _fibres(canvas: Canvas, options: NodeOptions) -> Field:
    """Wavy strands: ridges of noise that is stretched along a direction."""
    bend = 9.0 * Noise(options.seed, 32, 60.0).over(canvas.x_um, canvas.y_um)
    across = (0.5 * canvas.x_um[None, :] + 0.87 * canvas.y_um[:, None] + bend) / 5.5
    wave = np.sin(across + 1.5 * texture(canvas, options.seed, 33, 9.0))
    strands = 0.46 + 0.22 * wave * np.float32(options.texture) + 0.12 * texture(canvas, options.seed, 34, 2.2)
    return np.asarray(strands, np.float32)


def _paint_fat(canvas: Canvas, options: NodeOptions, at: Regions) -> None:
    """Round empty cells, whose membranes stay."""
    reach = MOST_FAT_UM + FAT_PITCH_UM
    window = Window(canvas.x_um[0], canvas.y_um[0], canvas.x_um[-1], canvas.y_um[-1]).grown(reach)
    x, y, keys = places(options.seed, 50, window, FAT_PITCH_UM)
    radius = between(keys, 51, 14.0, MOST_FAT_UM)
    kept = thinned(x, y, radius, uniform(keys, 52), np.ones(x.shape, np.bool_), pitch_um=FAT_PITCH_UM)
    outside = (at.depth_um < -4).astype(np.float32)
    for cx, cy, size in zip(x[kept].tolist(), y[kept].tolist(), radius[kept].tolist(), strict=True):
        box = canvas.box(cx, cy, size + 3)
        if box is None:
            continue
        dx, dy = canvas.offsets(box, cx, cy)
        inside = ramp((np.float32(size) - np.hypot(dx, dy)) / np.float32(2.0)) * outside[box]
        canvas.cover(box, inside, 0.0, 0.0)


def _paint_vessels(canvas: Canvas, options: NodeOptions, at: Regions) -> None:
    """Small vessels with a pink wall, a lumen, and red cells in it."""
    window = Window(canvas.x_um[0], canvas.y_um[0], canvas.x_um[-1], canvas.y_um[-1]).grown(2 * _MOST_VESSEL_UM)
    grid_x, grid_y, grid_keys = places(options.seed, 53, window, _VESSEL_PITCH_UM)
    x, y, keys = grid_x.ravel(), grid_y.ravel(), grid_keys.ravel()
    chosen = uniform(keys, 54) < 0.5
    red = texture(canvas, options.seed, 35, 5.2)
    for cx, cy, key in zip(x[chosen].tolist(), y[chosen].tolist(), keys[chosen], strict=True):
        one = np.array([key])
        radius = float(between(one, 55, 6.0, _MOST_VESSEL_UM)[0])
        box = canvas.box(cx, cy, 1.6 * radius + 4)
        if box is None:
            continue
        dx, dy = canvas.offsets(box, cx, cy)
        stretch = float(between(one, 56, 0.6, 1.5)[0])
        distance = np.hypot(dx * np.float32(stretch), dy / np.float32(stretch))
        clear = (at.nest[box] < 0) & (at.depth_um[box] > -1)
        wall = ramp((np.float32(radius + 3.5) - distance) / np.float32(2.0)) * clear
        canvas.cover(box, 0.7 * wall, 0.06, 0.5)
        lumen = ramp((np.float32(radius) - distance) / np.float32(1.5)) * clear
        canvas.cover(box, lumen, 0.0, 0.02)
        if float(uniform(one, 57)[0]) < 0.6:
            canvas.blood[box] += lumen * ramp((red[box] + np.float32(0.25)) / np.float32(0.4)) * np.float32(0.75)


def _paint_cells(canvas: Canvas, options: NodeOptions, cells: Cells, tumour: npt.NDArray[np.bool_]) -> None:
    """Bodies first, nuclei over them; tumour cells are added to `tumour`."""
    grain = texture(canvas, options.seed, 36, 1.3) * np.float32(options.texture * (1 - 0.7 * options.smudge))
    foam = texture(canvas, options.seed, 37, 3.0)
    for row in np.flatnonzero(cells.body_um > 0).tolist():
        box = canvas.box(float(cells.x_um[row]), float(cells.y_um[row]), float(cells.body_um[row]) + 1.5)
        if box is not None:
            _paint_body(canvas, cells, row, box, foam[box], tumour)
    for row in range(len(cells)):
        box = canvas.box(float(cells.x_um[row]), float(cells.y_um[row]), 1.3 * float(cells.along_um[row]) + 1.5)
        if box is not None:
            _paint_nucleus(canvas, cells, row, box, grain[box])


def _paint_body(
    canvas: Canvas, cells: Cells, row: int, box: Box, foam: Field, tumour: npt.NDArray[np.bool_]
) -> None:
    dx, dy = canvas.offsets(box, float(cells.x_um[row]), float(cells.y_um[row]))
    inside_um = np.float32(cells.body_um[row]) - np.hypot(dx, dy) - 1.2 * foam
    alpha = np.float32(cells.alpha[row]) * ramp(inside_um / np.float32(2.0))
    canvas.cover(
        box,
        alpha,
        float(cells.haematoxylin[row]),
        np.float32(cells.eosin[row]) * (1 + np.float32(0.35) * foam),
    )
    if cells.is_tumour[row]:
        tumour[box] |= inside_um > 0


def _paint_nucleus(canvas: Canvas, cells: Cells, row: int, box: Box, grain: Field) -> None:
    draw = uniform(cells.keys[row] ^ np.arange(1, 7, dtype=np.uint64), 230).tolist()
    across_um = float(cells.across_um[row])
    dx, dy = canvas.offsets(box, float(cells.x_um[row]), float(cells.y_um[row]))
    cosine, sine = float(np.cos(cells.angle[row])), float(np.sin(cells.angle[row]))
    u = (dx * np.float32(cosine) + dy * np.float32(sine)) / np.float32(cells.along_um[row])
    v = (dy * np.float32(cosine) - dx * np.float32(sine)) / np.float32(across_um)
    reach = np.sqrt(u * u + v * v)
    turn = np.arctan2(v, u)
    lumps = np.float32(0.14 if cells.is_tumour[row] else 0.08)
    reach /= 1.0 + lumps * (
        np.sin(2 * turn + np.float32(6.28 * draw[0])) + np.sin(3 * turn + np.float32(6.28 * draw[1]))
    )
    inside_um = (1.0 - reach) * np.float32(across_um)
    vesicular = np.float32(cells.open[row])
    rim = np.exp(-np.square(inside_um / np.float32(0.6)))
    body = np.float32(cells.dark[row]) * (1 - np.float32(0.35) * vesicular)
    stain: Field = body + (0.20 + 0.22 * vesicular) * grain + (0.06 + 0.30 * vesicular) * rim
    if cells.nucleolus[row] > 0.35:
        spot = np.square(u - np.float32(0.7 * (draw[2] - 0.5))) + np.square(v - np.float32(0.7 * (draw[3] - 0.5)))
        stain = stain + np.float32(0.6 * cells.nucleolus[row]) * np.exp(-spot / np.float32(0.05))
    edge = np.float32(max(0.7, 1.1 * canvas.mpp))
    canvas.cover(box, ramp(inside_um / edge + np.float32(0.5)), np.maximum(stain, 0.1), 0.35)


def _open_gaps(canvas: Canvas, options: NodeOptions, at: Regions) -> None:
    """White gaps between loose cells, and clefts beside nests, where nothing dark lies."""
    noise = texture(canvas, options.seed, 38, 6.5) + 0.5 * texture(canvas, options.seed, 39, 2.6)
    loose = ramp((noise - np.float32(1.05 - 1.0 * options.looseness)) / np.float32(0.3))
    inner = (at.depth_um > CAPSULE_UM) & (at.nest < 0) & (at.fibre < 0)
    cleft = np.exp(-np.square((at.nest + 0.22) / 0.10)) * (texture(canvas, options.seed, 45, 40.0) > 0.25)
    gap = np.maximum(loose * inner, 0.8 * cleft * (at.depth_um > 0)).astype(np.float32)
    gap *= ramp(np.float32(1.6) - 3.5 * canvas.haematoxylin)
    canvas.cover(np.s_[:, :], 0.85 * gap, 0.0, 0.02)
