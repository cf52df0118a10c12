"""What an answer was made from: the part that GeoJSON and summary share."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from slidecascade import wire
from slidecascade.kinds.result import RegionResult


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
        warnings=warnings(analysis),
    )


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
