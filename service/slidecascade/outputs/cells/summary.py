"""Numbers of a region: counts, fractions with their denominators, densities, areas, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from slidecascade import wire
from slidecascade.cells.result import Analysis
from slidecascade.outputs.cells.heatmap import compute
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.extent import tissue_mm2
from slidecascade.outputs.heatmap import Heatmap
from slidecascade.outputs.summary import Figures, summary
from slidecascade.pipelines.classes import ClassGroup

ALL_CELLS = "all cells"
"""The denominator of the fractions of top-level classes."""


def heatmaps_of(analysis: Analysis) -> tuple[Heatmap, ...]:
    """All heatmaps of `analysis`."""
    return tuple(compute(analysis, spec) for spec in analysis.heatmaps)


def summarise(
    analysis: Analysis,
    heatmaps: Sequence[Heatmap] | None = None,
    colormap: Colormap = Colormap.VIRIDIS,
) -> wire.Summary:
    """The summary of `analysis`; `colormap` is the one its heatmaps are drawn with.

    `heatmaps` are those of `heatmaps_of`, where they have been computed.

    Fractions and densities are stated for every class and for every class others are derived from: ``Hepatocyte``
    stands for all hepatocytes, as a part of all cells; ``Hepatocyte: Steatosis`` is a part of ``Hepatocyte``.
    """
    if heatmaps is None:
        heatmaps = heatmaps_of(analysis)
    return of_counts(analysis, analysis.counts, heatmaps, colormap=colormap)


def of_counts(
    analysis: Analysis, counts: Mapping[str, int], heatmaps: Sequence[Heatmap], *, colormap: Colormap
) -> wire.Summary:
    """The summary of cells that were counted by class elsewhere; the cells in `analysis` itself are ignored."""
    tissue_area_mm2, is_known = tissue_mm2(analysis), analysis.physical_mpp is not None
    totals, cells = _totals(analysis, counts), sum(counts.values())
    figures = Figures(
        cells=cells,
        fractions={name: _share(group, totals, cells) for name, group in analysis.classes.groups.items()},
        densities_per_mm2={
            name: round(number / tissue_area_mm2, 2) if is_known and tissue_area_mm2 > 0 else None
            for name, number in totals.items()
        },
    )
    return summary(analysis, figures, heatmaps, colormap, counts=counts)


def _totals(analysis: Analysis, counts: Mapping[str, int]) -> dict[str, int]:
    """Cells by class name, derived classes included in their parents, parents first."""
    numbers = list(counts.values())
    return {
        name: sum(numbers[index] for index in group.members) for name, group in analysis.classes.groups.items()
    }


def _share(group: ClassGroup, totals: dict[str, int], cells: int) -> wire.Share:
    numerator, denominator = totals[group.name], totals[group.parent] if group.parent else cells
    return wire.Share(
        value=round(numerator / denominator, 6) if denominator else None,
        numerator=numerator,
        denominator=denominator,
        of=group.parent or ALL_CELLS,
    )
