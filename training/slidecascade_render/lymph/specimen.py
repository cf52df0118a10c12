"""The options of the renderer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """One lymph node, one stain, one scanner. Equal options always give equal pixels.

    Tissue: `tumour` in [0, 1] is how much of the node nests of tumour take; `single_cells` in [0, 1] how often a
    tumour cell lies alone near them; `tumour_size` scales these cells, `tumour_density` in [0, 1] darkens their
    nuclei, `tumour_basophilia` in [0, 1] their cytoplasm; `glands` in [0, 1] opens lumens in nests; `desmoplasia`
    in [0, 1] puts collagen around them. `follicles` scales the number of follicles, `germinal` the share of them
    with a germinal centre; `sinuses` in [0, 1] widens sinuses, `histiocytes` in [0, 1] fills them; `looseness` in
    [0, 1] parts lymphocytes by white gaps; `cell_scale` is a factor on all cells; `fibrosis` in [0, 1] lays bands
    of collagen; `outside_is_fat` puts fat around the node rather than glass; `edge` shifts it:
    -1 shows mostly what lies outside, 2 the inner node alone; `texture` scales chromatin and fibres; `smudge` in
    [0, 1] blurs chromatin.
    Stain and scanner: as `slidecascade_render.liver.specimen.TissueOptions`.
    """

    seed: int = 0
    mpp: float = 0.5
    tumour: float = 0.3
    single_cells: float = 0.2
    tumour_size: float = 1.0
    tumour_density: float = 0.3
    tumour_basophilia: float = 0.3
    glands: float = 0.2
    desmoplasia: float = 0.4
    follicles: float = 1.0
    germinal: float = 0.6
    sinuses: float = 0.4
    histiocytes: float = 0.4
    looseness: float = 0.4
    cell_scale: float = 1.0
    fibrosis: float = 0.2
    outside_is_fat: bool = True
    edge: float = 0.6
    texture: float = 1.0
    smudge: float = 0.2
    haematoxylin: float = 1.0
    eosin: float = 1.0
    hue: float = 0.0
    background: float = 0.95
    blur_um: float = 0.3
    noise: float = 2.0
    sharpening: float = 0.0
    jpeg_quality: int | None = None

    def __post_init__(self) -> None:
        """Validate the options; raises ValueError."""
        if not 0.05 <= self.mpp <= 4.0:
            raise ValueError(f"mpp must be between 0.05 and 4 um/px, got {self.mpp}")
        if not 0 <= self.tumour <= 1:
            raise ValueError(f"tumour must be between 0 and 1, got {self.tumour}")
