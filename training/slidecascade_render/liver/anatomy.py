"""Records of what lies where in the tissue plane, in micrometres, and the slow fields that bend it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from slidecascade_render.lattice import Floats, Keys, Noise
from slidecascade_render.window import Bools

Ints = npt.NDArray[np.int64]
DUCT_WALL_UM: Final = 4.0  # from the ring of a bile duct's nuclei to either side of its epithelium


@dataclass(frozen=True, slots=True)
class Sites:
    """Hepatocytes, one row each. `plate` (0 or 1) distinguishes neighbouring liver plates."""

    x_um: Floats
    y_um: Floats
    radius_um: Floats
    kind: Ints
    plate: Ints
    keys: Keys

    def __getitem__(self, which: Bools | Ints) -> Sites:
        return Sites(*(getattr(self, name)[which] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Droplets:
    """Fat vacuoles, one row each; `owner` is the row of the hepatocyte in `Sites`."""

    x_um: Floats
    y_um: Floats
    radius_um: Floats
    owner: Ints
    keys: Keys


@dataclass(frozen=True, slots=True)
class Nuclei:
    """Ellipses with half axes `along_um` and `across_um`, turned by `angle` (radians from x to y)."""

    x_um: Floats
    y_um: Floats
    along_um: Floats
    across_um: Floats
    angle: Floats
    kind: Ints
    keys: Keys

    def __getitem__(self, which: Bools | Ints) -> Nuclei:
        return Nuclei(*(getattr(self, name)[which] for name in self.__slots__))


def joined(first: Nuclei, second: Nuclei) -> Nuclei:
    """The rows of both, those of the first in front."""
    return Nuclei(*(np.concatenate([getattr(first, name), getattr(second, name)]) for name in Nuclei.__slots__))


@dataclass(frozen=True, slots=True)
class Vessels:
    """Portal tracts (`portal` true) and central veins: outer radius, and an open lumen inside.

    `duct_um` is the radius of the ring of nuclei of a portal tract's bile duct, 0 where there is none.
    """

    x_um: Floats
    y_um: Floats
    radius_um: Floats
    portal: Bools
    lumen_x_um: Floats
    lumen_y_um: Floats
    lumen_um: Floats
    duct_x_um: Floats
    duct_y_um: Floats
    duct_um: Floats
    keys: Keys

    def depth(self, x_um: Floats, y_um: Floats) -> Floats:
        """How deep each point (N,) lies inside the nearest vessel, in um; negative outside."""
        return deepest(x_um, y_um, self.x_um, self.y_um, self.radius_um)

    def lumen_depth(self, x_um: Floats, y_um: Floats) -> Floats:
        """How deep each point (N,) lies inside a lumen, in um; negative outside."""
        return deepest(x_um, y_um, self.lumen_x_um, self.lumen_y_um, self.lumen_um)


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that lies in or near a window."""

    sites: Sites
    droplets: Droplets
    nuclei: Nuclei
    vessels: Vessels


class Terrain:
    """The slow random fields that bend outlines and group cells; shared by layout and paint."""

    __slots__ = (
        "fat",
        "focus",
        "gap",
        "glass",
        "plate_x",
        "plate_y",
        "ripple_x",
        "ripple_y",
        "warp_x",
        "warp_y",
    )

    def __init__(self, seed: int) -> None:
        self.warp_x = Noise(seed, 1, 17.0)
        self.warp_y = Noise(seed, 2, 17.0)
        self.plate_x = Noise(seed, 3, 150.0)
        self.plate_y = Noise(seed, 4, 61.0)
        self.gap = Noise(seed, 5, 43.0)
        self.focus = Noise(seed, 6, 70.0)
        self.fat = Noise(seed, 7, 240.0)
        self.glass = Noise(seed, 8, 900.0)
        self.ripple_x = Noise(seed, 9, 5.5)
        self.ripple_y = Noise(seed, 10, 5.5)

    def warp(self, x_um: Floats, y_um: Floats) -> tuple[Floats, Floats]:
        """Displacement of cell outlines at the points, in um."""
        return 2.4 * self.warp_x.at(x_um, y_um), 2.4 * self.warp_y.at(x_um, y_um)

    def plate(self, x_um: Floats, y_um: Floats) -> Ints:
        """Which of two alternating liver plates each point belongs to."""
        bend = 62.0 * self.plate_x.at(x_um, y_um) + 20.0 * self.plate_y.at(x_um, y_um)
        phase = (0.8 * x_um + 0.6 * y_um + bend) / 33.0
        return np.floor(phase).astype(np.int64) & 1

    def gap_um(self, x_um: Floats, y_um: Floats) -> Floats:
        """Half the width of the sinusoid at the points, in um; negative where it is collapsed."""
        return 0.6 + 2.3 * self.gap.at(x_um, y_um)

    def on_tissue(self, x_um: Floats, y_um: Floats) -> Floats:
        """Positive on tissue, negative on glass, about one unit per 300 um."""
        return 2.0 * self.glass.at(x_um, y_um) + 0.35


def deepest(x_um: Floats, y_um: Floats, cx: Floats, cy: Floats, radius: Floats) -> Floats:
    if cx.size == 0:
        return np.full(x_um.shape, -1e3)
    distance = np.hypot(x_um[:, None] - cx, y_um[:, None] - cy)
    depth: Floats = np.max(radius - distance, axis=1)
    return depth
