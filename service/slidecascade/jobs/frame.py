"""What the cells of a finished job were found with: enough to encode them when slide and models have gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from pydantic import TypeAdapter

from slidecascade.cells.instances import Instances
from slidecascade.cells.result import Analysis, classifiers_of
from slidecascade.geometry import Box, Grid, Mpp, Size
from slidecascade.kinds.result import AreaShare, CoordinateSpace, Origin, TileReport, TissueMap, UsedModel
from slidecascade.pipelines.classes import CellClass, ClassTree
from slidecascade.slides.facts import SlideFacts
from slidecascade.warning import AnswerWarning
from slidecascade.wire.fields import Averaging

NAME: Final = "frame.json"


@dataclass(frozen=True, slots=True)
class Frame:
    """An `Analysis` less its cells, heatmaps and tissue."""

    pipeline: str
    coordinate_space: CoordinateSpace
    facts: SlideFacts
    region_l0: Box
    mpp: Mpp
    models: tuple[UsedModel, ...]
    thresholds: Mapping[str, float]
    ends: tuple[CellClass, ...]
    tiles: TileReport
    warnings: tuple[AnswerWarning, ...] = ()
    origin: Origin = "slide"
    measures: tuple[str, ...] = ()
    tta: Averaging = "none"
    area_shares: tuple[AreaShare, ...] = ()
    object_diameter_px: float | None = None

    @classmethod
    def of(cls, analysis: Analysis) -> Frame:
        return cls(
            pipeline=analysis.pipeline,
            coordinate_space=analysis.coordinate_space,
            facts=analysis.facts,
            region_l0=analysis.region_l0,
            mpp=analysis.mpp,
            models=analysis.models,
            thresholds=dict(analysis.thresholds),
            ends=analysis.classes.ends,
            measures=analysis.measures,
            tiles=analysis.tiles,
            warnings=analysis.warnings,
            origin=analysis.origin,
            tta=analysis.tta,
            area_shares=analysis.area_shares,
            object_diameter_px=analysis.object_diameter_px,
        )

    def analysis(self) -> Analysis:
        """The analysis, without cells."""
        return Analysis(
            pipeline=self.pipeline,
            coordinate_space=self.coordinate_space,
            facts=self.facts,
            region_l0=self.region_l0,
            mpp=self.mpp,
            models=self.models,
            thresholds=self.thresholds,
            classes=ClassTree(self.ends),
            instances=Instances.empty(
                [len(model.classes) for model in classifiers_of(self.models)], measures=len(self.measures)
            ),
            measures=self.measures,
            class_index=np.zeros(0, np.int64),
            heatmaps=(),
            tissue=TissueMap(np.zeros((1, 1), np.bool_), Grid(0, 0, 1, Size(1, 1), self.mpp)),
            tiles=self.tiles,
            timings_s={},
            warnings=self.warnings,
            origin=self.origin,
            tta=self.tta,
            area_shares=self.area_shares,
            object_diameter_px=self.object_diameter_px,
        )

    def encode(self) -> bytes:
        return _adapter().dump_json(self)

    @staticmethod
    def decode(text: bytes) -> Frame:
        return _adapter().validate_json(text)


@cache
def _adapter() -> TypeAdapter[Frame]:
    """Made once: that takes longer than to read a frame."""
    return TypeAdapter(Frame)
