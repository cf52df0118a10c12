"""How one section of kidney looks: stain, scanner, and what of the organ it shows. All follows from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Optical densities of one unit of stain at (R, G, B): haematoxylin, PAS-positive matter, pale cytoplasm.
_HAEMATOXYLIN = (0.62, 0.70, 0.30)
_PAS = (0.22, 0.72, 0.28)
_CYTOPLASM = (0.30, 0.56, 0.20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Properties of a slide, each drawn from the seed by `draw`.

    Attributes:
        densities: float32 ``(3, 3)``, optical density of haematoxylin, PAS and cytoplasm (rows) at R, G and B.
        background_rgb: light through glass, 0 to 255.
        blur_um, noise: the scanner's; noise in grey levels.
        tubule_um: distance between the middles of tubules.
        glomerulus_um: typical radius of a glomerulus in its middle section.
        warp: how far their places are moved, in distances.
        crowding: 0 to 1, the share of places that have a glomerulus in cortex.
        space_um: mean width of Bowman's space.
        medulla: -1 (none) to 1 (everywhere).
        rays: -1 to 1, how much of the tubules run along the section.
        angle: their direction, radians.
        inflammation, fibrosis: 0 to 1.
        lumen: 0 to 1, how open tubules are.
        filled: 0 to 1, how much debris and brush border lie in them.
        slits: 0 to 1, how far the lumens of tubules are slits rather than round.
        variety: 0 to 1, how much tubules differ in colour.
        tuft: 0 to 1, how much darker than tubules the tufts of glomeruli are.
        closed: 0 to 1, the share of glomeruli whose tuft fills the capsule.
        sclerosed: 0 to 1, the share of globally sclerosed glomeruli.
        aggregates: 0 to 1, the share of vessels that lymphocytes have replaced.
        edge_um: how far the tissue reaches beyond a wavy line; large values leave no glass.
        capsule_um: width of the fibrous capsule along the edge.
        contrast: of nuclei and granules against their surroundings.
    """

    densities: npt.NDArray[np.float32]
    background_rgb: tuple[float, float, float]
    blur_um: float
    noise: float
    tubule_um: float
    warp: float
    glomerulus_um: float
    crowding: float
    space_um: float
    medulla: float
    rays: float
    angle: float
    inflammation: float
    fibrosis: float
    lumen: float
    filled: float
    slits: float
    variety: float
    tuft: float
    closed: float
    sclerosed: float
    aggregates: float
    edge_um: float
    capsule_um: float
    contrast: float


def draw(seed: int) -> Section:
    """The section of a seed."""
    chance = np.random.default_rng([seed % 2**63, 4711])
    stains = np.array([_HAEMATOXYLIN, _PAS, _CYTOPLASM])
    stains = stains * chance.normal(1.0, 0.12, (3, 3)).clip(0.6, 1.4) * chance.uniform(0.75, 1.3, (3, 1))
    grey = chance.uniform(205, 242)
    tint = chance.normal(0.0, 3.0, 3)
    return Section(
        densities=(stains * chance.uniform(0.42, 1.0)).astype(np.float32),
        background_rgb=(float(grey + tint[0]), float(grey + tint[1]), float(grey + tint[2])),
        blur_um=float(chance.uniform(1.0, 6.0)),
        noise=float(chance.uniform(0.3, 2.5)),
        tubule_um=float(chance.uniform(30, 64)),
        warp=float(chance.uniform(0.08, 0.36)),
        glomerulus_um=float(chance.uniform(50, 102)),
        crowding=float(0.06 + 0.64 * chance.uniform(0, 1) ** 1.3),
        space_um=float(chance.uniform(0.5, 12.0)),
        medulla=float(chance.uniform(-1.3, 0.6)),
        rays=float(chance.uniform(-1.0, 1.0)),
        angle=float(chance.uniform(0, np.pi)),
        inflammation=float(chance.uniform(0, 1) ** 2),
        fibrosis=float(chance.uniform(0, 1) ** 1.5),
        lumen=float(chance.uniform(0, 1)),
        filled=float(chance.uniform(0, 0.95)),
        slits=float(chance.uniform(0, 1)),
        variety=float(chance.uniform(0, 1)),
        tuft=float(chance.uniform(0, 1) ** 1.6),
        closed=float(0.6 * chance.uniform(0, 1) ** 2),
        sclerosed=float(0.3 * chance.uniform(0, 1) ** 2),
        aggregates=float(0.5 * chance.uniform(0, 1) ** 2),
        edge_um=float(chance.choice([chance.uniform(-250, 500), 5000.0])),
        capsule_um=float(chance.choice([0.0, chance.uniform(20, 220)])),
        contrast=float(chance.uniform(0.7, 1.5)),
    )
