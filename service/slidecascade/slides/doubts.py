"""What a source states about itself that cannot be true, or contradicts itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from slidecascade.geometry import Mpp
from slidecascade.warning import AnswerWarning

MIN_MPP: Final = 0.05
"""Micrometres per pixel: an immersion lens of 100x with a camera of 5 um pixels. No slide scanner is finer."""

POWER_UM: Final = (4.0, 16.0)
"""What the pixel size times the power of the objective is, about 10: 20x of MIRAX with an adapter has 4.6."""

MAX_ANISOTROPY: Final = 1.05
"""Pixels longer one way than this factor have no single size."""

_MIN_STAINED: Final = 2000
"""Fewest stained pixels in a sample that say something about its colours."""

_STAINED_OD: Final = 0.5
"""Least sum of the three optical densities of a stained pixel."""

_BLACK: Final = 30
"""Pixels without a channel above this are ink, a fold or the edge of a scan."""

_UNSTAINED: Final = 240.0
_COLOURED_OD: Final = 0.4
_BLUE_OF_HE: Final = -0.225
_BLUE_WITH_RED: Final = -0.3
_LEAST_SPREAD: Final = 0.01
"""Chosen on the same images: see docs/warnings.md for the rates."""

_SWAPPED_SLOPE: Final = -0.08
_SWAPPED_LIGHT: Final = -0.05
"""Chosen on the 170 bright-field images and slides of the tests: no false alarm, 31 of 38 exchanged are found."""


@dataclass(frozen=True, slots=True)
class Stated:
    """What a source states beside its pixels: sides of a pixel in micrometres, and the power of the objective."""

    sides_um: tuple[float, float] | None = None
    objective_power: float | None = None


def doubts_of(stated: Stated, mpp: Mpp | None) -> tuple[AnswerWarning, ...]:
    """The doubts about an answer for a source that states `stated`; `mpp` is None where none is taken for true."""
    found = []
    power = stated.objective_power
    if mpp is not None and power is not None and not POWER_UM[0] <= mpp * power <= POWER_UM[1]:
        found.append(
            AnswerWarning(
                "mpp-contradicts-objective",
                f"A pixel of {mpp:g} um contradicts the objective of {power:g}x, with which it has about "
                f"{10 / power:g} um: find out which is right and send `mpp`; the wrong size changes the cells.",
            )
        )
    if stated.sides_um is not None:
        width, height = stated.sides_um
        if max(width, height) > MAX_ANISOTROPY * min(width, height):
            found.append(
                AnswerWarning(
                    "anisotropic-pixels",
                    f"The slide states pixels of {width:g} x {height:g} um and is read as if they were square: "
                    "shapes and areas are distorted; resample it to square pixels.",
                )
            )
    return tuple(found)


def looks_swapped(sample: NDArray[np.uint8]) -> bool:
    """Whether red and blue look exchanged in `sample`, uint8 RGB ``(..., 3)`` of a stained bright-field slide.

    Nuclei, the darkest part, take away more of red than what is around them does (hematoxylin absorbs orange), so
    that with darkness the density of red grows against that of blue; exchanged, it falls. Darkness itself is
    measured by both alike. Brown nuclei on tissue that absorbs more of blue are another stain, and not doubted.
    """
    pixels = sample.reshape(-1, 3)
    pixels = pixels[pixels.max(axis=1) > _BLACK].astype(np.float32)
    density = -np.log((pixels + 1) / 256)
    stained = density[density.sum(axis=1) > _STAINED_OD]
    if len(stained) < _MIN_STAINED:
        return False
    both = stained[:, 0] + stained[:, 2]
    balance = (stained[:, 0] - stained[:, 2]) / (both + 0.05)
    light, dark = np.quantile(both, [0.5, 0.9])
    around = float(balance[both <= light].mean())
    slope = float(balance[both >= dark].mean()) - around
    return slope < _SWAPPED_SLOPE and around > _SWAPPED_LIGHT


def is_unlike_he(sample: NDArray[np.uint8]) -> bool:
    """Whether `sample`, uint8 RGB ``(..., 3)`` of a bright-field slide, has colours that H&E does not have.

    Aniline and light-green dyes of trichromes absorb next to no blue where they absorb red, beside red structures
    that absorb blue. So there are pixels whose density of blue is far below that of the others, and the more of
    red a pixel absorbs than of green, the less it absorbs of blue. In H&E the first occurs with bluish stains,
    where the second is the other way round: dark nuclei take away more of both.
    """
    pixels = sample.reshape(-1, 3)
    pixels = pixels[pixels.max(axis=1) > _BLACK].astype(np.float32)
    density = -np.log((pixels + 1) / _UNSTAINED)
    density = density[density.sum(axis=1) > _COLOURED_OD]
    if len(density) < _MIN_STAINED:
        return False
    total = density.sum(axis=1)
    red = (density[:, 0] - density[:, 1]) / total
    blue = (density[:, 2] - density[:, :2].mean(axis=1)) / total
    if red.std() < _LEAST_SPREAD or blue.std() < _LEAST_SPREAD:
        return False
    return bool(np.quantile(blue, 0.02) < _BLUE_OF_HE and np.corrcoef(red, blue)[0, 1] < _BLUE_WITH_RED)


NOT_HE: Final = AnswerWarning(
    "not-this-stain",
    "The colours of the slide are not those of H&E, for which this pipeline is meant: choose a pipeline for its "
    "stain; classes found with this one are not to be relied on.",
)

SWAPPED: Final = AnswerWarning(
    "channels-swapped",
    "Red and blue look exchanged: nuclei are not bluer than what is around them; if the file was written as BGR, "
    "write it as RGB.",
)
