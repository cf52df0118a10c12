"""Hepatocytes with their fat droplets and nuclei."""

from __future__ import annotations

from typing import Final

import numpy as np

from slidecascade_render.darts import ROUNDS, SPACING, places, thinned
from slidecascade_render.lattice import Floats, Keys, between, uniform
from slidecascade_render.liver.anatomy import Droplets, Ints, Nuclei, Sites, Terrain, Vessels, joined
from slidecascade_render.liver.specimen import BALLOONING, NORMAL, STEATOSIS, TissueOptions
from slidecascade_render.window import Window

_PITCH_UM: Final = 11.0
LARGEST_UM: Final = 20.5  # radius

# Fat as a share of a cell's profile (a disc of the cell's radius, overlaps of vacuoles counted twice). A cell is
# called steatotic for vacuoles that show at a glance, not for a speck: together more than the nucleus covers,
# about an eighth of the profile. No cell lies near that line, so that no label is a matter of taste.
MOST_STRAY_FAT: Final = 0.07
LEAST_STEATOTIC_FAT: Final = 0.14
_ONE, _FEW, _MANY = 1, 2, 3  # vacuoles
_MOST_FEW: Final = 6
_MANY_DROPLETS: Final = 26
_MOST_STRAY: Final = 8


def thinning_um(options: TissueOptions) -> float:
    """Maximum distance at which a dart can affect another, in um."""
    return 2 * ROUNDS * 2 * SPACING * LARGEST_UM * options.cell_scale


def _kinds_and_radii(options: TissueOptions, fat: Floats, keys: Keys) -> tuple[Ints, Floats]:
    """Class and radius in um of every candidate, from its key and the slow field `fat` (-1 to 1).

    Fat comes in patches. Large cells are sampled more often, because they lose more darts.
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
    return kind, radius * options.cell_scale


def sites_in(options: TissueOptions, terrain: Terrain, vessels: Vessels, window: Window) -> Sites:
    """The hepatocytes whose centres lie in the window; none in vessels or on glass."""
    pitch_um = _PITCH_UM * options.cell_scale
    x, y, keys = places(options.seed, 10, window.grown(thinning_um(options)), pitch_um)
    flat_x, flat_y, flat_keys = x.ravel(), y.ravel(), keys.ravel()
    kind, radius = _kinds_and_radii(options, terrain.fat.at(flat_x, flat_y), flat_keys)
    open_ground = vessels.depth(flat_x, flat_y) < -3.0
    if options.glass:
        open_ground &= terrain.on_tissue(flat_x, flat_y) > 0.0
    kept = thinned(
        x, y, radius.reshape(x.shape), uniform(keys, 4), open_ground.reshape(x.shape), pitch_um=pitch_um
    ).ravel()
    kept &= window.holds(flat_x, flat_y)
    sites = Sites(flat_x, flat_y, radius, kind, terrain.plate(flat_x, flat_y), flat_keys)
    return sites[kept]


def droplets_of(options: TissueOptions, terrain: Terrain, sites: Sites) -> Droplets:
    """One large vacuole, a few, or many small ones in steatotic cells; a little fat in some others."""
    habit = _fat_habit(options, sites)
    stray = (sites.kind != STEATOSIS) & (uniform(sites.keys, 10) < options.stray_fat)
    parts = [_centred_droplets(sites, np.flatnonzero(habit == _ONE))]
    few = 3 + np.floor((_MOST_FEW - 2) * uniform(sites.keys, 14))
    for index in range(_MOST_FEW):
        parts.append(_few_droplets(sites, np.flatnonzero((habit == _FEW) & (index < few)), index, few))
    parts.extend(_many_droplets(sites, np.flatnonzero(habit == _MANY), index) for index in range(_MANY_DROPLETS))
    count = 1 + np.floor(_MOST_STRAY * uniform(sites.keys, 15) ** 2)
    for index in range(_MOST_STRAY):
        parts.append(_stray_droplets(sites, np.flatnonzero(stray & (index < count)), index, count))
    x, y, radius, owner, keys = (
        np.concatenate([getattr(part, name) for part in parts]) for name in Droplets.__slots__
    )
    warp_x, warp_y = terrain.warp(x, y)
    return Droplets(x - warp_x, y - warp_y, radius, owner, keys)


def fat_shares(sites: Sites, droplets: Droplets) -> Floats:
    """Area of each cell's vacuoles over the area of a disc of the cell's radius; overlaps count twice."""
    squares = np.bincount(droplets.owner, weights=droplets.radius_um**2, minlength=sites.x_um.size)
    return squares / sites.radius_um**2


def _fat_habit(options: TissueOptions, sites: Sites) -> Ints:
    """Distribution of fat in each steatotic cell: `_ONE`, `_FEW` or `_MANY` vacuoles; 0 for other cells."""
    draw = uniform(sites.keys, 10)
    few = options.large_vacuoles + 0.55 * (1.0 - options.large_vacuoles)
    habit = np.select([draw < options.large_vacuoles, draw < few], [_ONE, _FEW], _MANY)
    return np.where(sites.kind == STEATOSIS, habit, 0)


def _central_droplet(sites: Sites) -> tuple[Floats, Floats, Floats]:
    """Offset (x, y) from the cell's centre, and radius, of the one large vacuole each cell would have."""
    share = 0.42 + 0.54 * np.sqrt(uniform(sites.keys, 13))
    turn, off = 2 * np.pi * uniform(sites.keys, 11), (1.05 - share) * 0.6 * uniform(sites.keys, 12)
    return off * sites.radius_um * np.cos(turn), off * sites.radius_um * np.sin(turn), sites.radius_um * share


def _centred_droplets(sites: Sites, owner: Ints) -> Droplets:
    cells = sites[owner]
    shift_x, shift_y, size = _central_droplet(cells)
    return Droplets(cells.x_um + shift_x, cells.y_um + shift_y, size, owner, cells.keys)


def _few_droplets(sites: Sites, owner: Ints, index: int, count: Floats) -> Droplets:
    """Vacuoles as large as the nucleus or larger, side by side around the cell's centre."""
    keys, radius = sites.keys[owner], sites.radius_um[owner]
    size = radius * between(keys, 200 + 3 * index, 0.24, 0.42)
    turn = 2 * np.pi * (uniform(keys, 16) + (index + 0.5 * uniform(keys, 201 + 3 * index)) / count[owner])
    off = np.maximum(0.0, radius * between(keys, 202 + 3 * index, 0.75, 1.0) - size)
    return _placed(sites, owner, turn, off, size, index)


def _many_droplets(sites: Sites, owner: Ints, index: int) -> Droplets:
    """Vacuoles of a fifteenth to a fourth of the cell, all over it."""
    keys, radius = sites.keys[owner], sites.radius_um[owner]
    channel = 30 + 5 * index
    finest = between(keys, 17, 0.075, 0.11)
    size = radius * (finest + 0.17 * uniform(keys, channel + 2) ** 2)
    turn = 2 * np.pi * uniform(keys, channel)
    return _placed(sites, owner, turn, radius * np.sqrt(uniform(keys, channel + 1)) * 0.85, size, index)


def _stray_droplets(sites: Sites, owner: Ints, index: int, count: Floats) -> Droplets:
    """A share of fat no larger than `MOST_STRAY_FAT`, divided among `count` droplets."""
    keys, radius = sites.keys[owner], sites.radius_um[owner]
    channel = 250 + 4 * index
    share = MOST_STRAY_FAT * between(keys, 18, 0.05, 1.0) / count[owner]
    size = radius * np.sqrt(share) * between(keys, channel + 2, 0.7, 1.0)
    turn, off = 2 * np.pi * uniform(keys, channel), radius * np.sqrt(uniform(keys, channel + 1)) * 0.85
    return _placed(sites, owner, turn, off, size, index)


def _placed(sites: Sites, owner: Ints, turn: Floats, off: Floats, size: Floats, index: int) -> Droplets:
    x, y = sites.x_um[owner] + off * np.cos(turn), sites.y_um[owner] + off * np.sin(turn)
    return Droplets(x, y, size, owner, sites.keys[owner] ^ np.uint64(index + 1))


def nuclei_of(options: TissueOptions, terrain: Terrain, sites: Sites) -> Nuclei:
    """At most two nuclei for each hepatocyte; the section misses some, and vacuoles push theirs aside."""
    shift_x, shift_y, size = _central_droplet(sites)
    large = np.where(_fat_habit(options, sites) == _ONE, size, 0.0)
    keys = sites.keys
    single = _pushed_aside(options, sites, large, shift_x, shift_y)
    present = uniform(keys, 40) < np.where(large > 0, 0.80, 0.9)
    twin = present & (large == 0) & (sites.kind == NORMAL) & (uniform(keys, 41) < 0.14)
    turn = 2 * np.pi * uniform(keys, 42)
    step = np.where(twin, 1.02 * single.along_um, 0.0)
    first = _moved(terrain, single, step * np.cos(turn), step * np.sin(turn), keys)
    second = _moved(terrain, single, -step * np.cos(turn), -step * np.sin(turn), keys ^ np.uint64(0x5EED))
    return joined(first[present], second[twin])


def _pushed_aside(options: TissueOptions, sites: Sites, large: Floats, shift_x: Floats, shift_y: Floats) -> Nuclei:
    keys = sites.keys
    radius = options.nuclear_scale * (between(keys, 50, 3.1, 4.3) + 1.3 * (uniform(keys, 51) > 0.93))
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
