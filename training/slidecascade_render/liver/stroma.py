"""The small nuclei between hepatocytes: immune cells, lining cells of sinusoids and vessels, fibroblasts."""

from __future__ import annotations

import functools
from typing import Final

import numpy as np

from slidecascade_render.darts import neighbour_slices, places
from slidecascade_render.lattice import Floats, Keys, between, normal, uniform
from slidecascade_render.liver.anatomy import Nuclei, Sites, Terrain, Vessels, joined
from slidecascade_render.liver.specimen import IMMUNE, OTHER, TissueOptions
from slidecascade_render.window import Bools, Window

_DUCT_PITCH_UM: Final = 5.6
_MOST_IN_A_DUCT: Final = 10


def small_nuclei(
    options: TissueOptions, terrain: Terrain, vessels: Vessels, sites: Sites, window: Window
) -> Nuclei:
    """Immune cells, lining cells and fibroblasts, best rank first, none overlapping another."""
    x, y, keys = places(options.seed, 30, window, 7.0)
    shape = x.shape
    x, y, keys = x.ravel(), y.ravel(), keys.ravel()
    depth, lumen = vessels.depth(x, y), vessels.lumen_depth(x, y)
    in_tract = depth > 0.0
    in_lumen = lumen > -0.5
    wall = (lumen > -6.0) & ~in_lumen
    immune, other = _small_odds(options, terrain, x, y, in_tract=in_tract, wall=wall)
    draw = uniform(keys, 60)
    is_immune = draw < immune
    drawn = (draw < immune + other) & ~in_lumen
    if options.glass:
        drawn &= terrain.on_tissue(x, y) > 0.0
    angle = np.pi * uniform(keys, 61) * np.where(in_tract, 0.35, 1.0)
    lobular = ~in_tract & drawn & (~is_immune | (uniform(keys, 62) < 0.6))
    x, y, angle, reached = _onto_sinusoids(terrain, sites, x, y, angle, lobular=lobular)
    drawn &= reached
    x, y, angle = _onto_walls(vessels, x, y, angle, lining=wall & drawn)
    nuclei = _small_shapes(options, x, y, angle, is_immune, keys)
    return nuclei[_apart(nuclei, drawn, shape)]


def _small_odds(
    options: TissueOptions, terrain: Terrain, x: Floats, y: Floats, *, in_tract: Bools, wall: Bools
) -> tuple[Floats, Floats]:
    """Chance of an immune cell and of another small cell in each lattice square of 49 um2."""
    per_square = 49e-6
    focus = np.clip((terrain.focus.at(x, y) - 0.62) / 0.15, 0.0, 1.0)
    inflamed = options.immune_per_mm2 / 220.0
    immune = options.immune_per_mm2 * per_square * 1.3 + np.minimum(0.55, 0.45 * inflamed * focus)
    tract = min(0.45, 0.30 * np.sqrt(inflamed)) * options.inflammation
    immune = np.where(in_tract, min(0.92, tract), np.minimum(immune, 0.92))
    other = np.where(in_tract, 0.22 if tract < 0.7 else 0.06, options.other_per_mm2 * per_square * 2.2)
    return np.where(wall, 0.02, immune), np.where(wall, 0.65, other)


def _onto_sinusoids(
    terrain: Terrain, sites: Sites, x: Floats, y: Floats, angle: Floats, *, lobular: Bools
) -> tuple[Floats, Floats, Floats, Bools]:
    """Move lobular cells onto the line between two plates, turned along it; drop those too far from one."""
    rows = np.flatnonzero(lobular)
    reached = np.ones(x.shape, dtype=np.bool_)
    if rows.size == 0 or np.unique(sites.plate).size < 2:
        reached[rows] = False
        return x, y, angle, reached
    warp_x, warp_y = terrain.warp(x[rows], y[rows])
    at_x, at_y = x[rows] + warp_x, y[rows] + warp_y
    sides = [_nearest_site(sites[sites.plate == plate], at_x, at_y) for plate in (0, 1)]
    for _ in range(3):
        (ux, uy, near), (vx, vy, far) = (_towards(side, at_x, at_y) for side in sides)
        slope_x, slope_y = ux - vx, uy - vy
        step = (near - far) / np.maximum(slope_x**2 + slope_y**2, 0.25)
        at_x, at_y = at_x - step * slope_x, at_y - step * slope_y
    back_x, back_y = terrain.warp(at_x, at_y)
    new_x, new_y = at_x - back_x, at_y - back_y
    reached[rows] = (np.hypot(new_x - x[rows], new_y - y[rows]) < 9.0) & (np.abs(near - far) < 1.0)
    x, y, angle = x.copy(), y.copy(), angle.copy()
    x[rows], y[rows], angle[rows] = new_x, new_y, np.arctan2(slope_x, -slope_y)
    return x, y, angle, reached


def _nearest_site(sites: Sites, x: Floats, y: Floats) -> Sites:
    gaps = np.hypot(x[:, None] - sites.x_um, y[:, None] - sites.y_um) - sites.radius_um
    return sites[np.argmin(gaps, axis=1)]


def _towards(sites: Sites, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Unit vector from each site to its point, and the distance beyond the site's radius."""
    dx, dy = x - sites.x_um, y - sites.y_um
    distance = np.maximum(np.hypot(dx, dy), 1e-6)
    return dx / distance, dy / distance, distance - sites.radius_um


def _onto_walls(
    vessels: Vessels, x: Floats, y: Floats, angle: Floats, *, lining: Bools
) -> tuple[Floats, Floats, Floats]:
    """Lay the cells next to a lumen flat against its wall."""
    rows = np.flatnonzero(lining)
    if rows.size == 0:
        return x, y, angle
    dx, dy = x[rows, None] - vessels.lumen_x_um, y[rows, None] - vessels.lumen_y_um
    nearest = np.argmin(np.hypot(dx, dy) - vessels.lumen_um, axis=1)
    radius = vessels.lumen_um[nearest] + 1.4
    turn = np.arctan2(dy[np.arange(rows.size), nearest], dx[np.arange(rows.size), nearest])
    x, y, angle = x.copy(), y.copy(), angle.copy()
    x[rows] = vessels.lumen_x_um[nearest] + radius * np.cos(turn)
    y[rows] = vessels.lumen_y_um[nearest] + radius * np.sin(turn)
    angle[rows] = turn + np.pi / 2
    return x, y, angle


def _small_shapes(
    options: TissueOptions, x: Floats, y: Floats, angle: Floats, is_immune: Bools, keys: Keys
) -> Nuclei:
    plump = uniform(keys, 70) < 0.25
    along = options.nuclear_scale * np.where(
        is_immune, between(keys, 71, 2.2, 3.2), np.where(plump, 3.6, between(keys, 71, 3.6, 7.0))
    )
    ratio = np.where(is_immune, between(keys, 72, 0.82, 1.0), between(keys, 72, 0.24, 0.38) + 0.12 * plump)
    kind = np.where(is_immune, IMMUNE, OTHER)
    turned = angle + 0.15 * normal(keys, 73)
    return Nuclei(x, y, along, along * ratio, turned, kind, keys)


def duct_nuclei(options: TissueOptions, vessels: Vessels) -> Nuclei:
    """The round nuclei of bile ducts, side by side on a ring."""
    rings = []
    for index in range(_MOST_IN_A_DUCT):
        rows = np.flatnonzero(index < np.floor(2 * np.pi * vessels.duct_um / _DUCT_PITCH_UM))
        keys, radius = vessels.keys[rows] ^ np.uint64(index + 1), vessels.duct_um[rows]
        count = np.floor(2 * np.pi * radius / _DUCT_PITCH_UM)
        turn = 2 * np.pi * (index + 0.3 * uniform(keys, 74)) / count
        along = options.nuclear_scale * between(keys, 75, 2.6, 3.2)
        across = along * between(keys, 76, 0.72, 0.95)
        x, y = vessels.duct_x_um[rows] + radius * np.cos(turn), vessels.duct_y_um[rows] + radius * np.sin(turn)
        rings.append(Nuclei(x, y, along, across, turn, np.full(rows.size, OTHER), keys))
    return functools.reduce(joined, rings)


def _apart(nuclei: Nuclei, drawn: Bools, shape: tuple[int, ...]) -> Bools:
    """Of cells that would overlap, the one with the best rank stays."""
    rank = np.where(drawn, uniform(nuclei.keys, 80), -1.0).reshape(shape)
    x, y = nuclei.x_um.reshape(shape), nuclei.y_um.reshape(shape)
    size = np.sqrt(nuclei.along_um * nuclei.across_um).reshape(shape)
    kept = rank >= 0.0
    for here, there in neighbour_slices(shape, 3):
        limit = size[here] + size[there] + 0.3
        clash = (x[here] - x[there]) ** 2 + (y[here] - y[there]) ** 2 < limit**2
        kept[here] &= ~(clash & (rank[there] > rank[here]))
    return kept.ravel()


def clearance(small: Nuclei, own: Nuclei) -> Floats:
    """Room between each small nucleus and the nearest hepatocyte nucleus, in um, both taken as discs."""
    if own.x_um.size == 0:
        return np.full(small.x_um.shape, 1e3)
    distance = np.hypot(small.x_um[:, None] - own.x_um, small.y_um[:, None] - own.y_um)
    room = distance - own.along_um - np.maximum(small.across_um, 0.6 * small.along_um)[:, None]
    nearest: Floats = room.min(axis=1)
    return nearest
