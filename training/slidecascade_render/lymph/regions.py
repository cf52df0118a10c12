"""Which part of a lymph node a place belongs to: smooth random fields, the same for pixels and for cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from slidecascade_render.darts import places
from slidecascade_render.lattice import Floats, Noise, between, uniform
from slidecascade_render.lymph.specimen import NodeOptions
from slidecascade_render.window import Window

Values = npt.NDArray[np.floating[Any]]
Sample = Callable[[Noise], Values]
"""A field at some places: over a grid of pixels, or at points."""

EDGE_UM: Final = 260.0
CAPSULE_UM: Final = 26.0
SUBCAPSULAR_UM: Final = 20.0
FOLLICLE_PITCH_UM: Final = 430.0
MOST_FOLLICLE_UM: Final = 210.0


@dataclass(frozen=True, slots=True)
class Follicles:
    """Round clusters of B cells; `germinal_um` is the radius of the pale centre, 0 where there is none."""

    x_um: Floats
    y_um: Floats
    radius_um: Floats
    germinal_um: Floats

    @staticmethod
    def around(options: NodeOptions, window: Window) -> Follicles:
        """Those that reach into the window."""
        grid_x, grid_y, grid_keys = places(options.seed, 40, window.grown(2 * MOST_FOLLICLE_UM), FOLLICLE_PITCH_UM)
        x, y, keys = grid_x.ravel(), grid_y.ravel(), grid_keys.ravel()
        radius = between(keys, 41, 80.0, MOST_FOLLICLE_UM)
        germinal = np.where(uniform(keys, 42) < options.germinal, radius * between(keys, 43, 0.45, 0.75), 0.0)
        chosen = uniform(keys, 44) < 0.55 * options.follicles
        return Follicles(x[chosen], y[chosen], radius[chosen], germinal[chosen])


@dataclass(frozen=True, slots=True)
class Regions:
    """Fields at some places.

    `depth_um` is how deep in the node a place lies, negative outside; `sinus`, `fibre` and `nest` are positive in
    a sinus, a band of collagen, a nest of tumour, and grow inwards by about one in 30 um; `lumen` likewise in a
    gland of a nest; `mantle` and `germinal` are true in the parts of a follicle; `near` is positive where single
    tumour cells may lie.
    """

    depth_um: Values
    sinus: Values
    fibre: Values
    nest: Values
    lumen: Values
    near: Values
    mantle: npt.NDArray[np.bool_]
    germinal: npt.NDArray[np.bool_]

    @property
    def is_node(self) -> npt.NDArray[np.bool_]:
        """Inside of the capsule."""
        inside: npt.NDArray[np.bool_] = self.depth_um > CAPSULE_UM
        return inside

    @property
    def is_tumour(self) -> npt.NDArray[np.bool_]:
        """In a nest: the capsule and fat are invaded where a nest reaches them."""
        inside: npt.NDArray[np.bool_] = (self.nest > 0) & (self.depth_um > 0)
        return inside


def regions(options: NodeOptions, follicles: Follicles, x_um: Values, y_um: Values, sample: Sample) -> Regions:
    """The fields at ``x_um, y_um``, which broadcast to the shape of what `sample` returns."""
    seed = options.seed
    wobble = sample(Noise(seed, 1, 60.0))
    depth = EDGE_UM * (2.0 * sample(Noise(seed, 2, 1100.0)) + options.edge) + 14.0 * wobble
    broad = 0.62 * sample(Noise(seed, 3, 640.0)) + 0.38 * sample(Noise(seed, 4, 210.0))
    # A node without tumour has none anywhere; one that is full of it has stroma only.
    reach = broad - (0.62 - 1.35 * options.tumour) if options.tumour > 0 else np.full_like(broad, -9.0)
    septa = sample(Noise(seed, 5, 58.0)) + 0.35 * sample(Noise(seed, 6, 23.0))
    nest = np.minimum(6.0 * reach, 2.2 * (septa + 0.35 + 0.5 * np.clip(2.0 * reach, 0.0, 1.0)))
    lumen = 3.0 * (np.abs(sample(Noise(seed, 7, 34.0))) - (1.02 - 0.55 * options.glands))
    sinus_width = 0.02 + 0.16 * options.sinuses
    sinus = 6.0 * (sinus_width - np.abs(sample(Noise(seed, 8, 170.0)) + 0.25 * wobble))
    subcapsular = 1.0 - np.abs(depth - CAPSULE_UM - 0.5 * SUBCAPSULAR_UM) / (0.5 * SUBCAPSULAR_UM)
    sinus = np.maximum(sinus, (0.2 + options.sinuses) * subcapsular)
    fibre = 5.0 * (0.15 * options.fibrosis - 0.01 - np.abs(sample(Noise(seed, 9, 230.0)) + 0.2 * wobble))
    around = np.where(reach > -0.06, (0.9 * options.desmoplasia - 0.2) - 0.6 * np.maximum(-nest, 0.0), -1.0)
    mantle, germinal = _in_follicles(follicles, x_um + 12.0 * wobble, y_um - 9.0 * wobble)
    return Regions(
        depth, sinus, np.maximum(fibre, around), nest, np.minimum(lumen, nest), reach + 0.5, mantle, germinal
    )


def _in_follicles(
    follicles: Follicles, x_um: Values, y_um: Values
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    shape = np.broadcast_shapes(x_um.shape, y_um.shape)
    mantle, germinal = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    for x, y, radius, centre in zip(
        follicles.x_um, follicles.y_um, follicles.radius_um, follicles.germinal_um, strict=True
    ):
        squared = (x_um - x) ** 2 + (y_um - y) ** 2
        mantle |= squared < radius**2
        germinal |= squared < centre**2
    return mantle & ~germinal, germinal
