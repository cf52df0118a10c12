"""Where the cells of a lymph node lie, and what they look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from slidecascade_render.darts import places, thinned
from slidecascade_render.lattice import Floats, Keys, between, uniform
from slidecascade_render.lymph.regions import CAPSULE_UM, Follicles, Regions, regions
from slidecascade_render.lymph.specimen import NodeOptions
from slidecascade_render.window import Bools, Window

REACH_UM: Final = 40.0
"""How far beyond a window cells are laid out: what is thinned depends on its neighbours."""


@dataclass(frozen=True, slots=True)
class Cells:
    """One row a cell; lengths in um.

    `along_um` and `across_um` are the half axes of the nucleus, turned by `angle`; `body_um` is the radius of the
    cytoplasm, with `eosin` and `haematoxylin` as its stain and `alpha` as its opacity. `dark` is the stain of the
    nucleus, `open` in [0, 1] how vesicular it is, `nucleolus` in [0, 1] how large. `is_tumour`: the truth.
    """

    x_um: Floats
    y_um: Floats
    along_um: Floats
    across_um: Floats
    angle: Floats
    body_um: Floats
    alpha: Floats
    eosin: Floats
    haematoxylin: Floats
    dark: Floats
    open: Floats
    nucleolus: Floats
    is_tumour: Bools
    keys: Keys

    def __len__(self) -> int:
        return len(self.x_um)


@dataclass(frozen=True, slots=True)
class _Sites:
    x: Floats
    y: Floats
    keys: Keys
    at: Regions


def lay_out(options: NodeOptions, follicles: Follicles, window: Window) -> Cells:
    """All cells in or near the window, in the order in which they are painted."""
    populations = (_histiocytes, _tumour, _centroblasts, _spindles, _lymphocytes)
    return _joined([population(options, follicles, window.grown(REACH_UM)) for population in populations])


def _joined(parts: list[Cells]) -> Cells:
    return Cells(*(np.concatenate([getattr(part, name) for part in parts]) for name in Cells.__slots__))


def _sites(
    options: NodeOptions, follicles: Follicles, window: Window, channel: int, pitch_um: float, radius_um: float
) -> tuple[_Sites, Any]:
    """Lattice places with the regions they lie in, and what thins them where `wanted`."""
    x, y, keys = places(options.seed, channel, window, pitch_um)
    at = regions(options, follicles, x, y, lambda noise: noise.at(x, y))
    radius = radius_um * between(keys, 1, 0.85, 1.2)

    def chosen(probability: npt.NDArray[Any]) -> _Sites:
        kept = thinned(x, y, radius, uniform(keys, 2), uniform(keys, 3) < probability, pitch_um=pitch_um)
        return _Sites(x[kept], y[kept], keys[kept], _taken(at, kept))

    return _Sites(x, y, keys, at), chosen


def _taken(at: Regions, kept: Bools) -> Regions:
    return Regions(*(getattr(at, name)[kept] for name in Regions.__slots__))


def _cells(sites: _Sites, *, half_um: Floats, aspect: Floats, **look: Any) -> Cells:
    """Cells at `sites`; what is not stated is 0."""
    count, keys = len(sites.x), sites.keys
    fields: dict[str, Any] = dict.fromkeys(Cells.__slots__, np.zeros(count))
    fields |= {
        "x_um": sites.x,
        "y_um": sites.y,
        "along_um": half_um * np.sqrt(aspect),
        "across_um": half_um / np.sqrt(aspect),
        "angle": between(keys, 10, 0.0, np.pi),
        "is_tumour": np.zeros(count, np.bool_),
        "keys": keys,
    }
    return Cells(**(fields | look))


def _lymphocytes(options: NodeOptions, follicles: Follicles, window: Window) -> Cells:
    scale = options.cell_scale
    sites, chosen = _sites(options, follicles, window, 60, 6.1 * scale, 3.35 * scale)
    at = sites.at
    crowd = np.where(at.mantle, 0.98, np.where(at.germinal, 0.18, 0.78 - 0.35 * options.looseness))
    crowd = np.where(at.sinus > 0, 0.16, crowd)
    crowd = np.where(at.fibre > 0, 0.10, crowd)
    crowd = np.where(at.nest > -0.1, np.where(at.nest > 0, 0.03, 0.35), crowd)
    crowd = np.where(at.is_node, crowd, np.where(at.depth_um > 0, 0.04, 0.004))
    found = chosen(crowd)
    keys = found.keys
    plasma = uniform(keys, 20) < 0.12
    return _cells(
        found,
        half_um=between(keys, 11, 2.5, 3.5) * scale,
        aspect=between(keys, 12, 1.0, 1.35),
        body_um=np.where(plasma, 5.2, between(keys, 13, 3.2, 4.3)) * scale,
        alpha=np.where(plasma, 0.7, 0.35),
        eosin=np.where(plasma, 0.45, 0.18),
        haematoxylin=np.where(plasma, 0.30, 0.10),
        dark=between(keys, 14, 0.80, 1.25),
        open=0.25 * uniform(keys, 15),
    )


def _centroblasts(options: NodeOptions, follicles: Follicles, window: Window) -> Cells:
    """Larger cells with open chromatin: most of a germinal centre, a few elsewhere."""
    scale = options.cell_scale
    sites, chosen = _sites(options, follicles, window, 61, 8.4 * scale, 4.7 * scale)
    at = sites.at
    crowd = np.where(at.germinal, 0.9, 0.045)
    found = chosen(np.where(at.is_node & (at.nest < 0) & (at.fibre < 0) & (at.sinus < 0), crowd, 0.0))
    keys = found.keys
    return _cells(
        found,
        half_um=between(keys, 11, 3.3, 4.7) * scale,
        aspect=between(keys, 12, 1.0, 1.5),
        body_um=between(keys, 13, 5.0, 6.4) * scale,
        alpha=np.full(len(keys), 0.5),
        eosin=between(keys, 16, 0.15, 0.34),
        haematoxylin=between(keys, 17, 0.10, 0.24),
        dark=between(keys, 14, 0.45, 0.85),
        open=between(keys, 15, 0.3, 0.9),
        nucleolus=0.5 * uniform(keys, 18),
    )


def _histiocytes(options: NodeOptions, follicles: Follicles, window: Window) -> Cells:
    """Macrophages: pale, with much cytoplasm; in sinuses and germinal centres, and scattered."""
    scale = options.cell_scale
    sites, chosen = _sites(options, follicles, window, 62, 13.0 * scale, 7.2 * scale)
    at = sites.at
    crowd = np.where(at.sinus > 0, 0.25 + 0.7 * options.histiocytes, 0.02 + 0.06 * options.histiocytes)
    crowd = np.where(at.germinal, 0.14, crowd)
    found = chosen(np.where((at.depth_um > CAPSULE_UM) & (at.nest < -0.05) & (at.fibre < 0), crowd, 0.0))
    keys = found.keys
    return _cells(
        found,
        half_um=between(keys, 11, 2.9, 4.2) * scale,
        aspect=between(keys, 12, 1.1, 2.0),
        body_um=between(keys, 13, 7.0, 12.0) * scale,
        alpha=between(keys, 19, 0.5, 0.9),
        eosin=between(keys, 16, 0.16, 0.42),
        haematoxylin=between(keys, 17, 0.01, 0.06),
        dark=between(keys, 14, 0.30, 0.62),
        open=between(keys, 15, 0.3, 0.9),
        nucleolus=0.25 * uniform(keys, 18),
    )


def _spindles(options: NodeOptions, follicles: Follicles, window: Window) -> Cells:
    """Fibroblasts and lining cells: capsule, collagen, sinuses, and between the cells of fat."""
    scale = options.cell_scale
    sites, chosen = _sites(options, follicles, window, 63, 11.0 * scale, 5.0 * scale)
    at = sites.at
    crowd = np.where((at.fibre > 0) | ((at.depth_um > 0) & ~at.is_node), 0.5, 0.03)
    crowd = np.where(at.depth_um < 0, 0.02 if options.outside_is_fat else 0.0, crowd)
    found = chosen(np.where(at.nest < 0, crowd, 0.02))
    keys = found.keys
    return _cells(
        found,
        half_um=between(keys, 11, 2.2, 3.4) * scale,
        aspect=between(keys, 12, 3.0, 7.0),
        angle=0.5 * np.pi * np.round(uniform(keys, 21)) + between(keys, 10, -0.5, 0.5),
        body_um=np.zeros(len(keys)),
        dark=between(keys, 14, 0.55, 1.0),
        open=0.4 * uniform(keys, 15),
    )


def _tumour(options: NodeOptions, follicles: Follicles, window: Window) -> Cells:
    """Large cells of uneven size and shape: packed in nests, and some alone."""
    scale = options.cell_scale * options.tumour_size
    sites, chosen = _sites(options, follicles, window, 64, 10.4 * scale, 6.9 * scale)
    at = sites.at
    alone = (
        np.where(at.is_node & (at.near > 0), 0.03 * options.single_cells**2, 0.0) if options.tumour > 0 else 0.0
    )
    found = chosen(np.where(at.is_tumour & (at.lumen < 0), 0.95, alone))
    keys = found.keys
    odd = uniform(keys, 22) ** 3
    return _cells(
        found,
        half_um=between(keys, 11, 3.7, 5.6) * scale * (1.0 + 0.7 * odd),
        aspect=between(keys, 12, 1.0, 1.9),
        body_um=between(keys, 13, 8.0, 11.0) * scale * (1.0 + 0.5 * odd),
        alpha=between(keys, 19, 0.6, 0.95),
        eosin=between(keys, 16, 0.34, 0.62),
        haematoxylin=(0.03 + 0.30 * options.tumour_basophilia) * between(keys, 17, 0.7, 1.3),
        dark=np.clip(
            0.34 + 0.45 * options.tumour_density + 0.30 * (uniform(keys, 14) - 0.4) + 0.3 * odd, 0.25, 1.2
        ),
        open=np.clip(0.9 - 0.7 * options.tumour_density + 0.3 * (uniform(keys, 15) - 0.5), 0.0, 1.0),
        nucleolus=uniform(keys, 18),
        is_tumour=np.ones(len(keys), np.bool_),
    )
