"""Numbers of a region: counts, fractions with their denominators, densities, areas, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from slidecascade import wire
from slidecascade.cells.result import Analysis
from slidecascade.outputs import heatmap
from slidecascade.outputs.areas import analysed_mm2, tissue_mm2
from slidecascade.outputs.provenance import facts, model_uses, region_box, slide_use, tile_counts, warnings
from slidecascade.pipelines.classes import ClassGroup

ALL_CELLS = "all cells"
"""The denominator of the fractions of top-level classes."""


def summarise(analysis: Analysis, *, colormap: str = heatmap.DEFAULT_COLORMAP) -> wire.Summary:
    """The summary of `analysis`; `colormap` is the one its heatmaps are drawn with.

    Fractions and densities are told for every class and for every class others are derived from: ``Hepatocyte``
    stands for all hepatocytes, as a part of all cells; ``Hepatocyte: Steatosis`` is a part of ``Hepatocyte``.

    Raises:
        InvalidRequestError: when there is no such colormap.
    """
    heatmap.require_colormap(colormap)
    maps = [heatmap.compute(analysis, spec) for spec in analysis.heatmaps]
    return of_counts(analysis, analysis.counts, maps, colormap=colormap)


def of_counts(
    analysis: Analysis, counts: Mapping[str, int], maps: Sequence[heatmap.Heatmap], *, colormap: str
) -> wire.Summary:
    """The summary of cells that were counted by class elsewhere; those of `analysis` itself do not matter."""
    tissue_area_mm2 = tissue_mm2(analysis)
    totals, cells = _totals(analysis, counts), sum(counts.values())
    return wire.Summary(
        pipeline=analysis.pipeline,
        coordinate_space=analysis.coordinate_space,
        region=region_box(analysis),
        mpp=analysis.mpp,
        cells=cells,
        counts=dict(counts),
        fractions={name: _share(group, totals, cells) for name, group in analysis.classes.groups.items()},
        densities_per_mm2={
            name: round(number / tissue_area_mm2, 2) if tissue_area_mm2 > 0 else None
            for name, number in totals.items()
        },
        area_mm2=round(analysed_mm2(analysis), 6),
        tissue_area_mm2=round(tissue_area_mm2, 6),
        thresholds=dict(analysis.thresholds),
        tiles=tile_counts(analysis),
        models=model_uses(analysis),
        slide=slide_use(analysis),
        facts=facts(analysis),
        heatmaps=tuple(heatmap.legend(item, colormap) for item in maps),
        timings_s={stage: round(seconds, 4) for stage, seconds in analysis.timings_s.items()},
        warnings=warnings(analysis),
    )


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
