"""The options of the renderer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CLASS_NAMES: Final = (
    "background",
    "hepatocyte-normal",
    "hepatocyte-ballooning",
    "hepatocyte-steatosis",
    "immune",
    "other",
)
NORMAL, BALLOONING, STEATOSIS, IMMUNE, OTHER = 1, 2, 3, 4, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TissueOptions:
    """One specimen, one stain, one scanner. Equal options always give equal pixels.

    Tissue: `steatosis` and `ballooning` are the target fractions of hepatocytes (together at most 1);
    `immune_per_mm2` counts lymphocytes scattered in the lobule (portal tracts and inflamed foci hold more);
    `other_per_mm2` counts lining cells of sinusoids; `vessels` scales the number of portal tracts and veins;
    `glass` leaves blank glass around irregular pieces of tissue; `texture` scales the granularity of cytoplasm and
    chromatin. `cell_scale` and `nuclear_scale` are factors on sizes; `nuclear_density` is haematoxylin added to
    the nuclei of hepatocytes, which are open at 0 and as dark as a lymphocyte's at 0.45; `basophilia` scales the
    haematoxylin of cytoplasm; `glycogen` in [0, 1] pales the cytoplasm of normal hepatocytes;
    `large_vacuoles` is the share of steatotic cells with one vacuole (the others have a few, or many small ones);
    `stray_fat` is the share of other hepatocytes with a little fat; `soft_fat` the share of vacuoles out of focus,
    as a thick section has; `sinusoid_um` is half the usual width of sinusoids, `blood` in [0, 1] how much of them
    red cells fill; `cracks` in [0, 1] opens white clefts; `inflammation` scales the crowd in portal tracts.
    Stain: `haematoxylin` and `eosin` scale the two optical densities, `hue` in [-1, 1] turns the colours from
    reddish to bluish, `background` is the transmitted light of blank glass in [0, 1].
    Scanner: `mpp` micrometres per pixel, `blur_um` the standard deviation of the point spread, `noise` the
    standard deviation of the pixel noise in grey levels, `sharpening` the strength of an unsharp mask,
    `jpeg_quality` an optional JPEG round trip.
    """

    seed: int = 0
    mpp: float = 0.25
    steatosis: float = 0.25
    ballooning: float = 0.10
    immune_per_mm2: float = 220.0
    other_per_mm2: float = 450.0
    vessels: float = 1.0
    glass: bool = False
    texture: float = 1.0
    cell_scale: float = 1.0
    nuclear_scale: float = 1.0
    nuclear_density: float = 0.0
    basophilia: float = 1.0
    glycogen: float = 0.0
    large_vacuoles: float = 0.6
    stray_fat: float = 0.3
    soft_fat: float = 0.14
    sinusoid_um: float = 0.6
    blood: float = 1.0
    cracks: float = 0.0
    inflammation: float = 1.0
    haematoxylin: float = 1.0
    eosin: float = 1.0
    hue: float = 0.0
    background: float = 0.95
    blur_um: float = 0.25
    noise: float = 2.0
    sharpening: float = 0.0
    jpeg_quality: int | None = None

    def __post_init__(self) -> None:
        """Validate the options; raises ValueError."""
        if not 0.05 <= self.mpp <= 4.0:
            raise ValueError(f"mpp must be between 0.05 and 4 um/px, got {self.mpp}")
        if self.steatosis < 0 or self.ballooning < 0 or self.steatosis + self.ballooning > 1:
            raise ValueError("steatosis and ballooning are fractions that add up to at most 1")
