"""Numbers of a region: counts, fractions with their denominators, densities, areas, provenance."""

from __future__ import annotations

from slidecascade import wire
from slidecascade.cells.result import Analysis
from slidecascade.outputs import heatmap
from slidecascade.outputs.areas import analysed_mm2, tissue_mm2
from slidecascade.outputs.provenance import model_uses, region_box, tile_counts, warnings

ALL_CELLS = "all cells"
"""The denominator of the fractions of top-level classes."""

_DERIVED = ": "


def summarise(analysis: Analysis, *, colormap: str = heatmap.DEFAULT_COLORMAP) -> wire.Summary:
    """The summary of `analysis`; `colormap` is the one its heatmaps are drawn with.

    Fractions and densities are told for every class and for every class others are derived from: ``Hepatocyte``
    stands for all hepatocytes, as a part of all cells; ``Hepatocyte: Steatosis`` is a part of ``Hepatocyte``.

    Raises:
        InvalidRequestError: when there is no such colormap.
    """
    heatmap.require_colormap(colormap)
    counts = analysis.counts
    tissue_area_mm2 = tissue_mm2(analysis)
    totals = _totals(counts)
    return wire.Summary(
        pipeline=analysis.pipeline,
        coordinate_space=analysis.coordinate_space,
        region=region_box(analysis),
        mpp=analysis.mpp,
        cells=len(analysis.instances),
        counts=counts,
        fractions={name: _share(name, totals, len(analysis.instances)) for name in totals},
        densities_per_mm2={
            name: round(number / tissue_area_mm2, 2) if tissue_area_mm2 > 0 else None
            for name, number in totals.items()
        },
        area_mm2=round(analysed_mm2(analysis), 6),
        tissue_area_mm2=round(tissue_area_mm2, 6),
        thresholds=dict(analysis.thresholds),
        tiles=tile_counts(analysis),
        models=model_uses(analysis),
        heatmaps=tuple(heatmap.legend(heatmap.compute(analysis, spec), colormap) for spec in analysis.heatmaps),
        timings_s={stage: round(seconds, 4) for stage, seconds in analysis.timings_s.items()},
        warnings=warnings(analysis),
    )


def _totals(counts: dict[str, int]) -> dict[str, int]:
    """Cells by class name, derived classes included in their parents, parents first."""
    totals: dict[str, int] = {}
    for name, number in counts.items():
        parts = name.split(_DERIVED)
        for depth in range(1, len(parts) + 1):
            ancestor = _DERIVED.join(parts[:depth])
            totals[ancestor] = totals.get(ancestor, 0) + number
    return totals


def _share(name: str, totals: dict[str, int], cells: int) -> wire.Share:
    parent = name.rpartition(_DERIVED)[0]
    numerator, denominator = totals[name], totals[parent] if parent else cells
    return wire.Share(
        value=round(numerator / denominator, 6) if denominator else None,
        numerator=numerator,
        denominator=denominator,
        of=parent or ALL_CELLS,
    )
