"""Paints a layout as concentrations of haematoxylin, eosin and blood for every pixel, and the nuclei's labels.

Every value is a function of the pixel's place in the plane alone, so adjacent windows have no seam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from slidecascade_render.canvas import Canvas, Labels, ramp, texture
from slidecascade_render.lattice import Field, Floats, Noise, between, place_keys, uniform
from slidecascade_render.liver.anatomy import DUCT_WALL_UM, Droplets, Layout, Sites, Terrain
from slidecascade_render.liver.chromatin import paint_nuclei
from slidecascade_render.liver.specimen import BALLOONING, TissueOptions

_FAR_UM: Final = 30.0


@dataclass(frozen=True, slots=True)
class Mosaic:
    """Which cell each pixel belongs to, float32 (H, W) distances in um.

    `membrane_um` is the distance to the outline of the cell, `gap_um` to the middle of the sinusoid.
    """

    cell: Labels
    membrane_um: Field
    gap_um: Field


def paint(options: TissueOptions, layout: Layout, x_um: Floats, y_um: Floats) -> Canvas:
    """The stains at the pixel centres with columns `x_um` (W,) and rows `y_um` (H,)."""
    terrain = Terrain(options.seed)
    size = (y_um.size, x_um.size)
    haematoxylin, eosin, blood, fat = (np.zeros(size, np.float32) for _ in range(4))
    labels = np.zeros(size, np.int32)
    canvas = Canvas(x_um, y_um, options.mpp, haematoxylin, eosin, blood, labels, fat)
    mosaic = _mosaic(canvas, terrain, layout.sites)
    _paint_cytoplasm(canvas, options, layout.sites, mosaic)
    _paint_mallory(canvas, options.seed, layout, mosaic)
    _paint_droplets(canvas, options, layout.droplets, mosaic, fat)
    _paint_sinusoids(canvas, options, terrain, mosaic)
    if options.cracks > 0:
        vacuoles = fat.copy()
        _paint_cracks(canvas, options, mosaic)
        fat[:] = vacuoles  # a cleft is as white as the fat that it runs through
    _paint_vessels(canvas, options.seed, layout)
    paint_nuclei(canvas, options, layout.nuclei)
    if options.glass:
        _clear_glass(canvas, options.seed, terrain, fat)
    return canvas


def _mosaic(canvas: Canvas, terrain: Terrain, sites: Sites) -> Mosaic:
    """Additively weighted Voronoi cells, kept apart by plate so that the gap between two plates is known."""
    size = canvas.labels.shape
    warp_x = 2.4 * terrain.warp_x.over(canvas.x_um, canvas.y_um)
    warp_y = 2.4 * terrain.warp_y.over(canvas.x_um, canvas.y_um)
    warp_x += 0.8 * terrain.ripple_x.over(canvas.x_um, canvas.y_um)
    warp_y += 0.8 * terrain.ripple_y.over(canvas.x_um, canvas.y_um)
    first = [np.full(size, _FAR_UM, np.float32) for _ in range(2)]
    second = [np.full(size, _FAR_UM, np.float32) for _ in range(2)]
    owner = [np.full(size, -1, np.int32) for _ in range(2)]
    for row in range(sites.x_um.size):
        x, y, radius = float(sites.x_um[row]), float(sites.y_um[row]), float(sites.radius_um[row])
        box = canvas.box(x, y, radius + 17.0)
        if box is None:
            continue
        across, down = canvas.offsets(box, x, y)
        beyond = cv2.magnitude(across + warp_x[box], down + warp_y[box]) - np.float32(radius)
        plate = int(sites.plate[row])
        best, next_best = first[plate][box], second[plate][box]
        np.minimum(next_best, np.maximum(best, beyond), out=next_best)
        owner[plate][box][beyond < best] = row
        np.minimum(best, beyond, out=best)
    odd = first[1] < first[0]
    nearest, opposite = np.minimum(*first), np.maximum(*first)
    membrane = np.minimum(np.where(odd, second[1], second[0]), opposite) - nearest
    return Mosaic(np.where(odd, owner[1], owner[0]), 0.5 * membrane, 0.5 * (opposite - nearest))


def _paint_cytoplasm(canvas: Canvas, options: TissueOptions, sites: Sites, mosaic: Mosaic) -> None:
    seed, coarseness = options.seed, np.float32(options.texture)
    tone, pale = _cell_tones(options, sites)
    clumps = texture(canvas, seed, 31, 3.1)
    granules = coarseness * texture(canvas, seed, 32, 1.4)
    grain = coarseness * texture(canvas, seed, 33, 0.8)
    dust = coarseness * texture(canvas, seed, 37, 1.0)
    slow = texture(canvas, seed, 34, 90.0)
    strands = np.square(1.0 - np.abs(texture(canvas, seed, 35, 2.3) + 0.35 * granules))
    pallor = pale[mosaic.cell]
    # Pale cells keep strands of cytoplasm between cleared patches, and a denser rim under the membrane.
    cleared = pallor * np.clip(1.05 + 0.35 * clumps - 0.55 * strands, 0.0, 1.0)
    cleared *= ramp((mosaic.membrane_um - np.float32(0.3)) / np.float32(2.5))
    body = 1.0 + 0.16 * clumps + 0.40 * granules + 0.45 * grain + 0.10 * slow
    np.maximum(body, 0.12, out=body)
    canvas.eosin += tone[mosaic.cell] * body * (1.0 - cleared) + 0.12 * cleared * strands
    basophilia = np.maximum(0.12 + 0.13 * dust + 0.04 * granules, 0.0)
    basophilia *= np.float32(options.basophilia)
    canvas.haematoxylin += basophilia * (1.0 - 0.85 * cleared)
    outline = np.exp(-np.square(mosaic.membrane_um / np.float32(max(0.45, 0.8 * canvas.mpp))))
    outline *= 0.6 + 0.8 * clumps
    canvas.eosin += outline * (0.05 + 0.20 * pallor)
    canvas.haematoxylin += outline * (0.03 + 0.06 * pallor)


def _cell_tones(options: TissueOptions, sites: Sites) -> tuple[Field, Field]:
    """Eosin of each cell's cytoplasm and how much of it is cleared; one more row at the end for no cell."""
    keys = sites.keys
    tone = between(keys, 200, 0.60, 0.76)
    wispy = uniform(keys, 201)
    # Paleness of cytoplasm is independent of fat, so that it does not predict the class.
    usual = 0.45 * wispy**2 + options.glycogen * (0.1 + 0.35 * uniform(keys, 203)) * (1.0 - 0.4 * wispy**2)
    pale = np.where(sites.kind == BALLOONING, between(keys, 202, 0.80, 0.98), usual)
    return np.append(tone, 0.25).astype(np.float32), np.append(pale, 0.5).astype(np.float32)


def _paint_mallory(canvas: Canvas, seed: int, layout: Layout, mosaic: Mosaic) -> None:
    """Ropy eosinophilic clumps beside the nucleus of some ballooned cells."""
    nuclei = layout.nuclei
    rows = np.flatnonzero((nuclei.kind == BALLOONING) & (uniform(nuclei.keys, 210) < 0.45))
    for row in rows:
        turn = 2 * np.pi * float(uniform(nuclei.keys[row : row + 1], 211)[0])
        x = float(nuclei.x_um[row]) + 5.0 * np.cos(turn)
        y = float(nuclei.y_um[row]) + 5.0 * np.sin(turn)
        box = canvas.box(x, y, 6.0)
        if box is None:
            continue
        across, down = canvas.offsets(box, x, y)
        rope = 1.0 - np.abs(Noise(seed, 36, 1.7).over(canvas.x_um[box[1]], canvas.y_um[box[0]]))
        near = np.exp(-(across**2 + down**2) / np.float32(7.0))
        inside = ramp((mosaic.membrane_um[box] - np.float32(0.5)) / np.float32(1.0))
        alpha = near * inside * ramp((rope - np.float32(0.5)) / np.float32(0.4))
        canvas.eosin[box] += np.float32(0.75) * alpha
        canvas.haematoxylin[box] += np.float32(0.08) * alpha


def _paint_droplets(
    canvas: Canvas, options: TissueOptions, droplets: Droplets, mosaic: Mosaic, fat: Field
) -> None:
    """Fat is dissolved by processing: empty round holes inside their cells; a few lie out of focus."""
    sharp = max(0.40, 0.8 * canvas.mpp)
    soft = np.where(uniform(droplets.keys, 220) < options.soft_fat, between(droplets.keys, 221, 1.0, 3.5), sharp)
    for row in range(droplets.x_um.size):
        x, y, radius = (float(column[row]) for column in (droplets.x_um, droplets.y_um, droplets.radius_um))
        box = canvas.box(x, y, radius * 1.08 + 3.0)
        if box is None:
            continue
        across, down = canvas.offsets(box, x, y)
        bulge = np.float32(1.0 + 0.08 * (float(soft[row]) % 1.0))
        outside = np.sqrt(np.square(across * bulge) + np.square(down / bulge)) - np.float32(radius)
        own = mosaic.cell[box] == droplets.owner[row]
        held = np.maximum(outside, np.float32(0.7) - mosaic.membrane_um[box])
        outside = np.where(own, held, np.float32(9.0))
        rim = np.exp(-np.square((outside - np.float32(0.5)) / np.float32(0.55)))
        canvas.eosin[box] += np.float32(0.13) * rim
        canvas.haematoxylin[box] += np.float32(0.06) * rim
        edge = np.float32(max(sharp, min(float(soft[row]), 0.4 * radius)))
        hole = ramp(np.float32(0.5) - outside / edge)
        shown = np.maximum(fat[box], hole)
        canvas.cover(box, hole, 0.004, 0.012)
        fat[box] = shown


def _paint_sinusoids(canvas: Canvas, options: TissueOptions, terrain: Terrain, mosaic: Mosaic) -> None:
    seed = options.seed
    width = np.float32(options.sinusoid_um) + 2.3 * terrain.gap.over(canvas.x_um, canvas.y_um)
    width += 0.8 * texture(canvas, seed, 40, 7.0)
    inside = width - mosaic.gap_um
    edge = np.float32(max(0.5, canvas.mpp))
    wall = np.exp(-np.square((inside + np.float32(0.3)) / np.float32(0.5))) * ramp(width)
    canvas.eosin += 0.12 * wall
    canvas.haematoxylin += 0.07 * wall
    open_gap = ramp(inside / edge + np.float32(0.5))
    plasma = 0.06 + 0.05 * texture(canvas, seed, 41, 4.0)
    everywhere = (slice(None), slice(None))
    canvas.cover(everywhere, open_gap, 0.02, plasma)
    cells = texture(canvas, seed, 42, 4.3) + 0.9 * texture(canvas, seed, 43, 37.0)
    crowd = ramp((cells - np.float32(0.35 + 1.5 * (1.0 - options.blood))) * np.float32(5.0))
    canvas.blood += (0.80 + 0.30 * texture(canvas, seed, 44, 1.9)) * open_gap * crowd


def _paint_cracks(canvas: Canvas, options: TissueOptions, mosaic: Mosaic) -> None:
    """Clear clefts of shrinkage: between cells where they came apart, and long tears across them."""
    seed, share = options.seed, np.float32(options.cracks)
    apart = np.float32(3.2) * (texture(canvas, seed, 45, 28.0) + share - np.float32(0.9))
    apart += 0.5 * texture(canvas, seed, 46, 3.0)
    tear = np.abs(texture(canvas, seed, 47, 55.0) + 0.12 * texture(canvas, seed, 48, 6.0))
    wide = np.float32(0.10) * (texture(canvas, seed, 49, 80.0) + share - np.float32(0.9))
    edge = np.float32(max(0.5, canvas.mpp))
    cleft = np.maximum((apart - mosaic.membrane_um) / edge, (wide - tear) * np.float32(25.0) / edge)
    canvas.cover((slice(None), slice(None)), ramp(cleft + np.float32(0.5)), 0.01, 0.02)


def _paint_vessels(canvas: Canvas, seed: int, layout: Layout) -> None:
    vessels = layout.vessels
    depth, lumen = (np.full(canvas.labels.shape, -_FAR_UM, np.float32) for _ in range(2))
    for row in range(vessels.x_um.size):
        _raise_depth(canvas, depth, vessels.x_um[row], vessels.y_um[row], vessels.radius_um[row])
        _raise_depth(canvas, lumen, vessels.lumen_x_um[row], vessels.lumen_y_um[row], vessels.lumen_um[row])
    if float(depth.max(initial=-_FAR_UM)) <= -_FAR_UM:
        return
    ragged = depth + 5.0 * texture(canvas, seed, 53, 15.0) + 2.5 * texture(canvas, seed, 50, 5.0)
    lobes = 0.65 * texture(canvas, seed, 51, 5.5) + 0.35 * texture(canvas, seed, 52, 1.6)
    fibres = np.square(1.0 - np.abs(lobes))
    everywhere = (slice(None), slice(None))
    collagen = 0.10 + 0.62 * fibres
    canvas.cover(everywhere, ramp(ragged / np.float32(2.0)), 0.05 + 0.03 * fibres, collagen)
    wall = np.exp(-np.square((lumen + np.float32(1.0)) / np.float32(1.0)))
    canvas.eosin += 0.22 * wall
    canvas.haematoxylin += 0.06 * wall
    canvas.cover(everywhere, ramp(lumen / np.float32(max(0.6, canvas.mpp))), 0.0, 0.01)
    _paint_ducts(canvas, layout)
    _paint_red_cells(canvas, seed, layout)


def _paint_ducts(canvas: Canvas, layout: Layout) -> None:
    """Bile ducts: a ring of pale pink epithelium; its nuclei are laid out with the other small ones."""
    vessels = layout.vessels
    for row in np.flatnonzero(vessels.duct_um > 0):
        radius = float(vessels.duct_um[row])
        x, y = float(vessels.duct_x_um[row]), float(vessels.duct_y_um[row])
        box = canvas.box(x, y, radius + DUCT_WALL_UM + 1.0)
        if box is None:
            continue
        across, down = canvas.offsets(box, x, y)
        distance = cv2.magnitude(*np.broadcast_arrays(across, down))
        canvas.cover(box, ramp(np.float32(radius + DUCT_WALL_UM) - distance), 0.09, 0.34)
        canvas.cover(box, ramp(np.float32(radius - 0.8 * DUCT_WALL_UM) - distance), 0.02, 0.06)


def _raise_depth(canvas: Canvas, depth: Field, x_um: float, y_um: float, radius_um: float) -> None:
    box = canvas.box(x_um, y_um, radius_um + _FAR_UM)
    if box is None:
        return
    across, down = canvas.offsets(box, x_um, y_um)
    np.maximum(depth[box], np.float32(radius_um) - np.sqrt(across**2 + down**2), out=depth[box])


def _paint_red_cells(canvas: Canvas, seed: int, layout: Layout) -> None:
    """Red cells lie in heaps inside some lumens."""
    pitch = 4.6
    columns = np.arange(np.floor((canvas.x_um[0] - 5) / pitch), np.floor((canvas.x_um[-1] + 5) / pitch) + 1)
    rows = np.arange(np.floor((canvas.y_um[0] - 5) / pitch), np.floor((canvas.y_um[-1] + 5) / pitch) + 1)
    column, row = (grid.ravel().astype(np.int64) for grid in np.meshgrid(columns, rows))
    keys = place_keys(seed, 55, column, row)
    x, y = (column + uniform(keys, 1)) * pitch, (row + uniform(keys, 2)) * pitch
    heaped = Noise(seed, 56, 26.0).at(x, y) > 0.15
    shown = heaped & (layout.vessels.lumen_depth(x, y) > 3.2)
    for key, cx, cy in zip(keys[shown], x[shown].tolist(), y[shown].tolist(), strict=True):
        box = canvas.box(cx, cy, 4.0)
        if box is None:
            continue
        across, down = canvas.offsets(box, cx, cy)
        radius = np.float32(2.5 + 0.6 * float(int(key) % 97) / 97.0)
        alpha = ramp((radius - np.sqrt(across**2 + down**2)) / np.float32(max(0.5, canvas.mpp)))
        canvas.blood[box] += alpha * (np.float32(0.7) - canvas.blood[box])


def _clear_glass(canvas: Canvas, seed: int, terrain: Terrain, fat: Field) -> None:
    """Nothing is stained, and nothing labelled, where there is no tissue."""
    ground = 2.0 * terrain.glass.over(canvas.x_um, canvas.y_um) + np.float32(0.35)
    ground += 0.012 * texture(canvas, seed, 70, 9.0) + 0.006 * texture(canvas, seed, 71, 2.2)
    alpha = ramp(ground / np.float32(0.010) + np.float32(0.5))
    for plane in (canvas.haematoxylin, canvas.eosin, canvas.blood, fat):
        np.multiply(plane, alpha, out=plane)
    canvas.labels[alpha < 0.5] = 0
