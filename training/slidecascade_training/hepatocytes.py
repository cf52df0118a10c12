"""Hepatocytes with their fat droplets and nuclei."""

from __future__ import annotations

from typing import Final

import numpy as np

from slidecascade_training.anatomy import (
    Bools,
    Droplets,
    Ints,
    Nuclei,
    Sites,
    Terrain,
    Vessels,
    Window,
    joined,
)
from slidecascade_training.darts import ROUNDS, SPACING, places, thinned
from slidecascade_training.lattice import Floats, Keys, between, uniform
from slidecascade_training.specimen import BALLOONING, NORMAL, STEATOSIS, TissueOptions

_PITCH_UM: Final = 11.0
LARGEST_UM: Final = 20.5  # radius
THINNING_UM: Final = 2 * ROUNDS * 2 * SPACING * LARGEST_UM  # how far off a dart can decide about another


def _kinds_and_radii(options: TissueOptions, fat: Floats, keys: Keys) -> tuple[Ints, Floats]:
    """Class and radius in um of every candidate, from its key and the slow field `fat` (-1 to 1).

    Fat comes in patches. Large cells are drawn more often than wanted, because they lose more darts.
    """
    patch = np.clip(1.0 + 1.5 * fat * (1.0 - options.steatosis), 0.05, 2.2)
    steatosis = np.minimum(options.steatosis * patch, 1.0 - options.ballooning)
    odds = 1.0 + 0.75 * steatosis + 0.8 * options.ballooning
    steatosis, ballooning = 1.75 * steatosis / odds, 1.8 * options.ballooning / odds
    draw = uniform(keys, 2)
    kind = np.where(draw < steatosis, STEATOSIS, np.where(draw < steatosis + ballooning, BALLOONING, NORMAL))
    size = uniform(keys, 3)
    radius = np.select(
        [kind == STEATOSIS, kind == BALLOONING],
        [10.5 + 10.0 * size**1.3, 14.5 + 6.0 * size],
        10.2 + 3.0 * size,
    )
    return kind, radius


def sites_in(options: TissueOptions, terrain: Terrain, vessels: Vessels, window: Window) -> Sites:
    """The hepatocytes whose centres lie in the window; none in vessels or on glass."""
    x, y, keys = places(options.seed, 10, window.grown(THINNING_UM), _PITCH_UM)
    flat_x, flat_y, flat_keys = x.ravel(), y.ravel(), keys.ravel()
    kind, radius = _kinds_and_radii(options, terrain.fat.at(flat_x, flat_y), flat_keys)
    open_ground = vessels.depth(flat_x, flat_y) < -3.0
    if options.glass:
        open_ground &= terrain.on_tissue(flat_x, flat_y) > 0.0
    kept = thinned(
        x, y, radius.reshape(x.shape), uniform(keys, 4), open_ground.reshape(x.shape), pitch_um=_PITCH_UM
    ).ravel()
    kept &= window.holds(flat_x, flat_y)
    sites = Sites(flat_x, flat_y, radius, kind, terrain.plate(flat_x, flat_y), flat_keys)
    return sites[kept]


def droplets_of(options: TissueOptions, terrain: Terrain, sites: Sites) -> Droplets:
    """One large vacuole or a dozen small ones in steatotic cells; a stray droplet in some others."""
    fatty = sites.kind == STEATOSIS
    large = _holds_one_droplet(sites)
    small = fatty & ~large
    stray = ~fatty & (uniform(sites.keys, 10) < 0.6 * options.steatosis + 0.15)
    parts = [_centred_droplets(sites, np.flatnonzero(large))]
    for index in range(18):
        parts.append(_scattered_droplets(sites, np.flatnonzero(small), index))
    parts.extend(_scattered_droplets(sites, np.flatnonzero(stray), 20 + index) for index in range(3))
    x, y, radius, owner, keys = (
        np.concatenate([getattr(part, name) for part in parts]) for name in Droplets.__slots__
    )
    warp_x, warp_y = terrain.warp(x, y)
    return Droplets(x - warp_x, y - warp_y, radius, owner, keys)


def _holds_one_droplet(sites: Sites) -> Bools:
    large: Bools = (sites.kind == STEATOSIS) & (uniform(sites.keys, 10) < 0.72)
    return large


def _central_droplet(sites: Sites) -> tuple[Floats, Floats, Floats]:
    """Offset (x, y) from the cell's centre, and radius, of the one large vacuole each cell would have."""
    turn, off = 2 * np.pi * uniform(sites.keys, 11), 0.10 * sites.radius_um * uniform(sites.keys, 12)
    return off * np.cos(turn), off * np.sin(turn), sites.radius_um * between(sites.keys, 13, 0.70, 0.96)


def _centred_droplets(sites: Sites, owner: Ints) -> Droplets:
    cells = sites[owner]
    shift_x, shift_y, size = _central_droplet(cells)
    return Droplets(cells.x_um + shift_x, cells.y_um + shift_y, size, owner, cells.keys)


def _scattered_droplets(sites: Sites, owner: Ints, index: int) -> Droplets:
    keys, radius = sites.keys[owner], sites.radius_um[owner]
    channel = 30 + 5 * index
    turn = 2 * np.pi * uniform(keys, channel)
    off = radius * np.sqrt(uniform(keys, channel + 1)) * 0.85
    biggest = 1.1 if index >= 20 else 2.6
    size = 0.8 + biggest * uniform(keys, channel + 2) ** 2
    x, y = sites.x_um[owner] + off * np.cos(turn), sites.y_um[owner] + off * np.sin(turn)
    return Droplets(x, y, size, owner, keys ^ np.uint64(index + 1))


def nuclei_of(terrain: Terrain, sites: Sites) -> Nuclei:
    """At most two nuclei for each hepatocyte; the section misses some, and vacuoles push theirs aside."""
    shift_x, shift_y, size = _central_droplet(sites)
    large = np.where(_holds_one_droplet(sites), size, 0.0)
    keys = sites.keys
    single = _pushed_aside(sites, large, shift_x, shift_y)
    present = uniform(keys, 40) < np.where(large > 0, 0.80, 0.9)
    twin = present & (large == 0) & (sites.kind == NORMAL) & (uniform(keys, 41) < 0.14)
    turn = 2 * np.pi * uniform(keys, 42)
    step = np.where(twin, 1.02 * single.along_um, 0.0)
    first = _moved(terrain, single, step * np.cos(turn), step * np.sin(turn), keys)
    second = _moved(terrain, single, -step * np.cos(turn), -step * np.sin(turn), keys ^ np.uint64(0x5EED))
    return joined(first[present], second[twin])


def _pushed_aside(sites: Sites, large: Floats, shift_x: Floats, shift_y: Floats) -> Nuclei:
    keys = sites.keys
    radius = between(keys, 50, 3.1, 4.3) + 1.3 * (uniform(keys, 51) > 0.93)
    shrunken = np.select([sites.kind == BALLOONING, large > 0], [0.88, between(keys, 55, 0.82, 1.0)], 1.0)
    flat = np.where(large > 0, between(keys, 52, 0.45, 1.0), between(keys, 52, 0.88, 1.0))
    along = radius * shrunken * np.where(large > 0, 1.02, 1.0)
    across = along * flat
    turn = 2 * np.pi * uniform(keys, 53)
    off = np.where(large > 0, large + 0.30 * across, 0.22 * sites.radius_um * uniform(keys, 54))
    x = sites.x_um + np.where(large > 0, shift_x, 0.0) + off * np.cos(turn)
    y = sites.y_um + np.where(large > 0, shift_y, 0.0) + off * np.sin(turn)
    return Nuclei(x, y, along, across, turn + np.pi / 2, sites.kind, keys)


def _moved(terrain: Terrain, nuclei: Nuclei, dx: Floats, dy: Floats, keys: Keys) -> Nuclei:
    """The same nuclei, shifted, and carried along with the bent outlines of their cells."""
    x, y = nuclei.x_um + dx, nuclei.y_um + dy
    warp_x, warp_y = terrain.warp(x, y)
    return Nuclei(x - warp_x, y - warp_y, nuclei.along_um, nuclei.across_um, nuclei.angle, nuclei.kind, keys)
