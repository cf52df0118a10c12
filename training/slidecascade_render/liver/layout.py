"""Layout of cells, droplets, nuclei and vessels in the tissue plane, in micrometres.

The objects in a window depend on its neighbourhood only, so any window can be laid out independently.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from slidecascade_render.darts import places
from slidecascade_render.lattice import between, uniform
from slidecascade_render.liver.anatomy import DUCT_WALL_UM, Layout, Terrain, Vessels, deepest, joined
from slidecascade_render.liver.hepatocytes import droplets_of, nuclei_of, sites_in, thinning_um
from slidecascade_render.liver.specimen import TissueOptions
from slidecascade_render.liver.stroma import clearance, duct_nuclei, small_nuclei
from slidecascade_render.window import Window

_REACH_UM: Final = 50.0  # maximum extent of an object
_VESSEL_PITCH_UM: Final = 430.0


def lay_out(options: TissueOptions, window: Window) -> Layout:
    """All that can touch `window`. Two windows agree on everything that touches both."""
    terrain = Terrain(options.seed)
    wide = window.grown(2 * _REACH_UM)
    vessels = _vessels(options, wide.grown(thinning_um(options)))
    sites = sites_in(options, terrain, vessels, wide)
    droplets = droplets_of(options, terrain, sites)
    own = nuclei_of(options, terrain, sites)
    small = small_nuclei(options, terrain, vessels, sites, wide.grown(-_REACH_UM))
    free = clearance(small, own) > 0.6
    ducts = np.where(vessels.duct_um > 0, vessels.duct_um + DUCT_WALL_UM + 2.0, -1e3)
    free &= deepest(small.x_um, small.y_um, vessels.duct_x_um, vessels.duct_y_um, ducts) < 0.0
    free &= deepest(small.x_um, small.y_um, droplets.x_um, droplets.y_um, droplets.radius_um) < -0.5
    nuclei = joined(joined(own, small[free]), duct_nuclei(options, vessels))
    near = window.grown(20.0)
    return Layout(sites, droplets, nuclei[near.holds(nuclei.x_um, nuclei.y_um)], vessels)


def _vessels(options: TissueOptions, window: Window) -> Vessels:
    """Portal tracts with a vein at one side, and central veins with a thin wall."""
    grid_x, grid_y, grid_keys = places(options.seed, 20, window.grown(150.0), _VESSEL_PITCH_UM)
    x, y, keys = grid_x.ravel(), grid_y.ravel(), grid_keys.ravel()
    draw = uniform(keys, 1)
    portal = draw < 0.28 * options.vessels
    kept = draw < 0.62 * options.vessels
    lumen = np.where(portal, between(keys, 2, 9.0, 30.0), between(keys, 2, 14.0, 42.0))
    radius = np.where(portal, lumen + between(keys, 3, 22.0, 45.0), lumen + between(keys, 3, 2.0, 6.0))
    turn = 2 * np.pi * uniform(keys, 4)
    shift = np.where(portal, 0.55 * (radius - lumen), 0.0)
    lumen_x, lumen_y = x + shift * np.cos(turn), y + shift * np.sin(turn)
    # In the middle of the part without the vein, which is at least 34 um wide.
    duct_off = 0.225 * radius + 0.775 * lumen
    duct = np.where(portal & (uniform(keys, 5) < 0.7), between(keys, 6, 4.5, 9.0), 0.0)
    return Vessels(
        x_um=x[kept],
        y_um=y[kept],
        radius_um=radius[kept],
        portal=portal[kept],
        lumen_x_um=lumen_x[kept],
        lumen_y_um=lumen_y[kept],
        lumen_um=lumen[kept],
        duct_x_um=(x - duct_off * np.cos(turn))[kept],
        duct_y_um=(y - duct_off * np.sin(turn))[kept],
        duct_um=duct[kept],
        keys=keys[kept],
    )
