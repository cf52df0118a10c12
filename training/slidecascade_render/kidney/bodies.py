"""Glomeruli and vessels: where they are, and their paint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from slidecascade_render.canvas import ramp
from slidecascade_render.darts import ROUNDS, SPACING, places, thinned
from slidecascade_render.kidney.section import Section
from slidecascade_render.kidney.tubules import Cells
from slidecascade_render.lattice import Field, Floats, normal, uniform
from slidecascade_render.window import Bools, Window

_PITCH_UM: Final = 150.0
_MOST_UM: Final = 140.0
"""Radius of the largest body."""

_FROM_UM: Final = ROUNDS * 2 * SPACING * (1.12 * _MOST_UM + 8.0) + 2 * _PITCH_UM
"""How far away a body can be that decides on whether there is another: each round looks at neighbours."""


@dataclass(frozen=True, slots=True)
class Bodies:
    """Round bodies: middles and radii in um, and the uniform numbers that their looks follow from, ``(N, 20)``."""

    x_um: Floats
    y_um: Floats
    radius_um: Floats
    is_vessel: Bools
    chances: Floats

    def __len__(self) -> int:
        return len(self.x_um)


def bodies(seed: int, section: Section, window: Window) -> Bodies:
    """All that touch `window`, in a fixed order."""
    margin = window.grown(_FROM_UM + 2 * _MOST_UM)
    x, y, keys = places(seed, 301, margin, _PITCH_UM)
    is_vessel = uniform(keys, 10) < 0.2
    # What a section shows of a sphere is often not its middle.
    cut = np.sqrt(1.0 - (uniform(keys, 11) * 0.86) ** 2)
    radius = section.glomerulus_um * (1.0 + 0.12 * normal(keys, 12)).clip(0.7, 1.35) * cut
    radius = np.where(is_vessel, 12.0 + 95.0 * uniform(keys, 13) ** 3, radius).clip(12.0, _MOST_UM)
    exists = uniform(keys, 14) < np.where(is_vessel, 0.65, section.crowding)
    kept = thinned(x, y, radius * 1.12 + 8.0, uniform(keys, 15), exists, pitch_um=_PITCH_UM)
    kept &= window.grown(2 * _MOST_UM).holds(x, y)
    chances = np.stack([uniform(keys[kept], 20 + index) for index in range(20)], axis=-1)
    return Bodies(x[kept], y[kept], radius[kept], is_vessel[kept], chances.reshape(-1, 20))


@dataclass(frozen=True, slots=True)
class Paint:
    """Layers of a body over the pixels of its box, float32 (h, w): opacity and three stains; for glomeruli the
    depth below Bowman's capsule, positive inside, in um.
    """

    alpha: Field
    haematoxylin: Field
    pas: Field
    cytoplasm: Field
    depth_um: Field


def outline(across: Field, down: Field, radius_um: float, chances: Floats) -> tuple[Field, Field]:
    """Depth below a wavy ellipse in um, and the angle, for distances (1, w) and (h, 1) from its middle."""
    turn, squeeze = 2 * np.pi * chances[0], 1.0 + 0.5 * chances[1] ** 2
    along = across * np.float32(np.cos(turn)) + down * np.float32(np.sin(turn))
    aside = (down * np.float32(np.cos(turn)) - across * np.float32(np.sin(turn))) * np.float32(squeeze)
    angle = np.arctan2(aside, along)
    wave = sum(
        (0.10 / order) * (chances[2 + order] - 0.3) * np.cos(order * angle + 6.28 * chances[5 + order])
        for order in (2, 3, 4)
    )
    away = np.hypot(along, aside) / np.float32(np.sqrt(squeeze))
    return (np.float32(radius_um) * (1.0 + wave) - away).astype(np.float32), angle


@dataclass(frozen=True, slots=True)
class Grain:
    """What a tuft is made of, over the pixels of its box: noise in -1 to 1 and the cells of its lobules."""

    fine: Field
    coarse: Field
    lobes: Cells


def glomerulus(
    across: Field, down: Field, radius_um: float, chances: Floats, section: Section, grain: Grain
) -> Paint:
    """A lobulated tuft in its capsule."""
    depth, angle = outline(across, down, radius_um, chances)
    fine, coarse, lobes = grain.fine, grain.coarse, grain.lobes
    if chances[12] < section.sclerosed:
        return _sclerosed(depth, fine, coarse, chances)
    is_closed = chances[18] < section.closed
    space = np.float32(0.0 if is_closed else section.space_um * 2.2 * chances[10] ** 1.5)
    order = 4 + int(5 * chances[19])
    scallops = (0.02 + 0.05 * chances[13]) * radius_um * np.abs(np.cos(0.5 * order * angle + 6.28 * chances[11]))
    lopsided = space * (1.0 + 0.9 * np.cos(angle + 6.28 * chances[11])) + (0.0 if is_closed else 1.5)
    tuft_depth = depth - lopsided - (0.0 if is_closed else 1.0) * scallops + 3.5 * coarse - 2.0
    in_tuft = ramp(tuft_depth / 5.0 + 0.5)
    contrast = np.float32(section.contrast)
    # Between lobules lie clefts, in them capillaries and what is PAS-positive: the mesangium.
    cleft = (1.0 - ramp((lobes.border - 0.02) / 0.18)) * (0.08 + 0.6 * chances[15] ** 2)
    mesangium = ramp(0.5 + contrast * (0.8 * coarse + 0.9 * (0.42 - lobes.nearest)))
    grains = ramp(0.5 + contrast * 1.8 * (fine + 0.05))
    nuclei = (0.20 + 0.36 * section.tuft + 0.16 * chances[13]) * (0.35 + 1.1 * grains)
    capillaries = ramp((-coarse - 0.5 + 0.35 * (chances[14] - 0.5)) * 4.0) * (0.2 + 0.6 * chances[15])
    solid = 1.0 - np.maximum(capillaries, cleft)
    wall = np.exp(-((depth - 1.5) ** 2) / 14.0)
    return Paint(
        alpha=ramp(depth / 4.0 + 0.5),
        haematoxylin=in_tuft * nuclei * solid * (0.7 + 0.6 * lobes.sort) + 0.12 * wall,
        pas=in_tuft * (0.16 + 0.22 * section.tuft + 0.34 * mesangium) * solid + (0.2 + 0.55 * chances[9]) * wall,
        cytoplasm=in_tuft * (0.26 + 0.25 * grains) * solid + 0.06 * (1.0 - in_tuft),
        depth_um=depth,
    )


def _sclerosed(depth: Field, fine: Field, coarse: Field, chances: Floats) -> Paint:
    """A glomerulus that has become a solid, PAS-positive ball; its depth is not that of a glomerulus."""
    return Paint(
        alpha=ramp(depth / 4.0 + 0.5),
        haematoxylin=0.06 + 0.12 * chances[14] + 0.12 * ramp(2.0 * fine),
        pas=0.45 + 0.55 * chances[13] + 0.18 * coarse,
        cytoplasm=0.35 + 0.1 * coarse,
        depth_um=np.full_like(depth, -1e3),
    )


def vessel(across: Field, down: Field, radius_um: float, chances: Floats, fine: Field, coarse: Field) -> Paint:
    """An artery with a wall of smooth muscle, or a vein: a thin wall around an open lumen."""
    depth, angle = outline(across, down, radius_um, chances)
    is_artery = chances[12] < 0.6
    thickness = radius_um * (0.35 + 0.45 * chances[13]) if is_artery else 4.0 + 0.06 * radius_um
    wall = 1.0 - ramp((depth - thickness * (1.0 + 0.2 * np.cos(2 * angle))) / 5.0 + 0.5)
    rings = 0.5 + 0.5 * np.sin(depth / 3.2 + 3.0 * coarse)
    blood = 0.5 * (chances[14] > 0.8)
    return Paint(
        alpha=ramp(depth / 4.0 + 0.5),
        haematoxylin=wall * (0.16 + 0.25 * ramp(2.0 * fine)),
        pas=wall * (0.45 + 0.5 * chances[15] + 0.2 * rings),
        cytoplasm=wall * 0.4 + (1.0 - wall) * (0.04 + blood),
        depth_um=np.full_like(depth, -1e3),
    )


def aggregate(across: Field, down: Field, radius_um: float, chances: Floats, fine: Field, coarse: Field) -> Paint:
    """Lymphocytes, close to each other and without an outline."""
    depth, _ = outline(across, down, 1.1 * radius_um, chances)
    dense = 0.4 + 0.5 * chances[13]
    return Paint(
        alpha=(0.5 + 0.4 * chances[14]) * ramp((depth + 9.0 * coarse) / (0.5 * np.float32(radius_um)) + 0.3),
        haematoxylin=dense * ramp(0.6 + 1.5 * fine) + 0.1 * coarse,
        pas=0.14 + 0.05 * coarse,
        cytoplasm=0.22 + 0.1 * fine,
        depth_um=np.full_like(depth, -1e3),
    )
