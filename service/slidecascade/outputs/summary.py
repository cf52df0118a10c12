"""What the summaries of all kinds have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slidecascade import wire
from slidecascade.kinds.result import RegionResult
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.extent import analysed_mm2, block_px_mm2, tissue_mm2
from slidecascade.outputs.heatmap import Heatmap, legend
from slidecascade.outputs.provenance import (
    area_fractions,
    facts,
    model_uses,
    region_box,
    slide_use,
    tile_counts,
    warnings,
)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a kind adds to its summary; areas in mm2, and none where the size of pixels is not known."""

    fractions: dict[str, wire.Share]
    densities_per_mm2: dict[str, float | None]
    cells: int = 0
    patches: wire.PatchFigures | None = None
    areas: dict[str, wire.AreaFigures] | None = None


def summary(
    result: RegionResult,
    figures: Figures,
    heatmaps: Sequence[Heatmap],
    colormap: Colormap,
    *,
    counts: Mapping[str, int] | None = None,
) -> wire.Summary:
    """The summary of `result`, whose `heatmaps` are drawn with `colormap`.

    `counts` are those by class name, where they were counted elsewhere; default: those of `result`.
    """
    return wire.Summary(
        kind=result.kind,
        pipeline=result.pipeline,
        coordinate_space=result.coordinate_space,
        region=region_box(result),
        mpp=result.physical_mpp,
        object_diameter_px=result.object_diameter_px,
        cells=figures.cells,
        counts=result.counts if counts is None else dict(counts),
        fractions=figures.fractions,
        area_fractions=area_fractions(result),
        densities_per_mm2=figures.densities_per_mm2,
        patches=figures.patches,
        areas=figures.areas,
        area_mm2=_stated(result, analysed_mm2(result)),
        tissue_area_mm2=_stated(result, tissue_mm2(result)),
        ink_mm2=_stated(result, block_px_mm2(result, result.flaws.ink_px)),
        out_of_focus_mm2=_stated(result, block_px_mm2(result, result.flaws.blurred_px)),
        thresholds=dict(result.thresholds),
        options=wire.Options(tta=result.tta),
        tiles=tile_counts(result),
        models=model_uses(result),
        slide=slide_use(result),
        facts=facts(result),
        heatmaps=tuple(legend(item, colormap) for item in heatmaps),
        timings_s={stage: round(seconds, 4) for stage, seconds in result.timings_s.items()},
        warnings=warnings(result),
    )


def _stated(result: RegionResult, area_mm2: float) -> float | None:
    """An area as it is written; None where the size of pixels is not known."""
    return None if result.physical_mpp is None else round(area_mm2, 6)


def text(summary: wire.Summary, *, indent: int | None = None) -> bytes:
    """A summary as JSON, without the figures of other kinds."""
    optional = ("patches", "areas", "area_fractions", "object_diameter_px")
    unused = {name for name in optional if getattr(summary, name) is None}
    if summary.kind != "cells":
        unused.add("cells")
    return summary.model_dump_json(indent=indent, exclude=unused).encode()
