"""What an answer was made from: the part that GeoJSON and summary share."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from slidecascade import wire
from slidecascade.kinds.result import RegionResult
from slidecascade.outputs.extent import UM2_PER_MM2


class Provenance(wire.Answer):
    """The member ``slidecascade`` of a feature collection."""

    research_use_only: str = wire.RESEARCH_USE_ONLY
    coordinate_space: Literal["level0-pixels", "image-pixels"]
    origin: Literal["slide", "bounds"]
    region: wire.RegionBox
    mpp: float | None
    object_diameter_px: float | None = None
    pipeline: str
    kind: str = "cells"
    models: tuple[wire.ModelUse, ...]
    thresholds: dict[str, float]
    options: wire.Options = wire.Options()
    slide: wire.SlideUse | None = None
    facts: wire.Facts | None = None
    tiles: wire.Tiles
    counts: dict[str, int]
    area_fractions: dict[str, wire.AreaShare] | None = None
    warnings: tuple[wire.AnswerWarning, ...]


def provenance(analysis: RegionResult) -> Provenance:
    """Where what was found came from."""
    return Provenance(
        coordinate_space=analysis.coordinate_space,
        origin=analysis.origin,
        region=region_box(analysis),
        mpp=analysis.physical_mpp,
        object_diameter_px=analysis.object_diameter_px,
        pipeline=analysis.pipeline,
        kind=analysis.kind,
        models=model_uses(analysis),
        thresholds=dict(analysis.thresholds),
        options=wire.Options(tta=analysis.tta),
        slide=slide_use(analysis),
        facts=facts(analysis),
        tiles=tile_counts(analysis),
        counts=analysis.counts,
        area_fractions=area_fractions(analysis),
        warnings=warnings(analysis),
    )


def area_fractions(analysis: RegionResult) -> dict[str, wire.AreaShare] | None:
    """What companions cover, by name; None for a pipeline that has none."""
    return {
        share.name: wire.AreaShare(
            title=share.title,
            value=None if share.value is None else round(share.value, 6),
            numerator_mm2=_mm2(analysis, share.covered_um2),
            denominator_mm2=_mm2(analysis, share.tissue_um2),
            class_name=share.class_name,
            model=share.model,
        )
        for share in analysis.area_shares
    } or None


def _mm2(analysis: RegionResult, area_um2: float) -> float | None:
    """An area as it is written; None where the size of pixels is not known."""
    return None if analysis.physical_mpp is None else round(area_um2 / UM2_PER_MM2, 6)


def region_box(analysis: RegionResult) -> wire.RegionBox:
    """The analysed region, level-0 pixels."""
    return wire.RegionBox.of(*analysis.region_l0.as_tuple())


def slide_use(analysis: RegionResult) -> wire.SlideUse:
    """The slide."""
    bounds = analysis.facts.bounds_l0
    return wire.SlideUse(
        content_id=analysis.facts.content_id,
        bounds=None if bounds is None else wire.RegionBox.of(*bounds.as_tuple()),
    )


def facts(analysis: RegionResult) -> wire.Facts:
    """What was computed once for the slide."""
    found = analysis.facts
    return wire.Facts(
        field="dark" if found.dark_field else "bright",
        glass_minimum=found.glass_min,
        glass_spread=found.glass_spread,
        channels={
            use.meaning: wire.ChannelUse(
                index=use.index,
                name=use.intensity.name,
                low=use.intensity.low,
                high=use.intensity.high,
                signal=use.intensity.signal,
            )
            for use in found.channels
        },
        stain=None if found.stain is None else wire.StainFacts.model_validate(asdict(found.stain)),
    )


def model_uses(analysis: RegionResult) -> tuple[wire.ModelUse, ...]:
    """The models in the order in which they ran."""
    return tuple(
        wire.ModelUse(
            name=model.name,
            version=model.version,
            sha256=model.sha256,
            role=model.role,
            mpp=model.grid.mpp,
            downsample=model.grid.downsample,
        )
        for model in analysis.models
    )


def warnings(analysis: RegionResult) -> tuple[wire.AnswerWarning, ...]:
    """What makes the answer doubtful."""
    return tuple(wire.AnswerWarning(code=item.code, message=item.message) for item in analysis.warnings)


def tile_counts(analysis: RegionResult) -> wire.Tiles:
    """Every tile accounted for; the failed ones by place and reason."""
    report = analysis.tiles
    failed = tuple(
        wire.FailedTile(
            x=tile.core_l0.x,
            y=tile.core_l0.y,
            width=tile.core_l0.width,
            height=tile.core_l0.height,
            reason=tile.reason,
        )
        for tile in report.failed
    )
    return wire.Tiles(total=report.total, background=report.background, failed=failed)
