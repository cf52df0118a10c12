"""The kinds of pipeline there are.

A kind is: what its file says (`slidecascade.pipelines`), the work on a tile, what becomes of the tiles' results
(both in a room of its own), and its encoders (`slidecascade.outputs`). A further kind is a module of each and a
line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from slidecascade.analysis.footprint import (
    AREAS_FOOTPRINT,
    CELLS_FOOTPRINT,
    PATCHES_FOOTPRINT,
    Footprint,
)
from slidecascade.areas.sink import AreasSink
from slidecascade.areas.tile import AreasWork
from slidecascade.cells.sink import CellsSink
from slidecascade.cells.tile import CellsWork
from slidecascade.kinds.sink import MemorySink
from slidecascade.kinds.work import TileWork
from slidecascade.outputs.areas.encoders import ENCODERS as AREAS_ENCODERS
from slidecascade.outputs.cells.encoders import ENCODERS as CELLS_ENCODERS
from slidecascade.outputs.encoders import Encoders
from slidecascade.outputs.patches.encoders import ENCODERS as PATCHES_ENCODERS
from slidecascade.patches.sink import PatchesSink
from slidecascade.patches.tile import PatchesWork
from slidecascade.pipelines import areas, cells, patches
from slidecascade.pipelines.spec import FileKind


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of pipeline.

    Attributes:
        file: what its files say.
        work: makes the work on tiles, from the fields of `TileWork`.
        sink: makes what takes a region's tiles, from pipeline, region and grid.
        encoders: of its results.
        footprint: the memory of what it finds.
    """

    file: FileKind[Any]
    work: Callable[..., TileWork[Any, Any]]
    sink: Callable[..., MemorySink[Any, Any]]
    encoders: Encoders[Any]
    footprint: Footprint

    @property
    def name(self) -> str:
        return self.file.name


def table(*kinds: Kind) -> Mapping[str, Kind]:
    """`kinds` by name."""
    return {kind.name: kind for kind in kinds}


KINDS: Final = table(
    Kind(cells.FILE, CellsWork, CellsSink, CELLS_ENCODERS, CELLS_FOOTPRINT),
    Kind(patches.FILE, PatchesWork, PatchesSink, PATCHES_ENCODERS, PATCHES_FOOTPRINT),
    Kind(areas.FILE, AreasWork, AreasSink, AREAS_ENCODERS, AREAS_FOOTPRINT),
)


def offers(kinds: Mapping[str, Kind]) -> tuple[str, ...]:
    """Every media type that one of `kinds` can be answered in, the default first."""
    return tuple(dict.fromkeys(offer for kind in kinds.values() for offer in kind.encoders.offers))
