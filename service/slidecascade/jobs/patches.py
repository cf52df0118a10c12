"""Fields of the kind `patches`.

A field is kept as one large tile: the squares of its core with their probabilities, and its tissue, in
``00012.npz`` (`patches/npz.py`). All fields together make the lattice that a region has: a few bytes for each
square of the slide, which is held in memory; what is written of it is made in pieces.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import ClassVar, cast

import numpy as np

from slidecascade.errors import ModelFailedError
from slidecascade.geometry import Box
from slidecascade.jobs.fields import Field
from slidecascade.jobs.onetile import OneTileSink, decoded, write_files
from slidecascade.jobs.parts import FieldReport
from slidecascade.jobs.survey import OUTPUTS, Survey
from slidecascade.jobs.whole import collected
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.encoders import Drawing
from slidecascade.outputs.files import Overview
from slidecascade.outputs.patches.encoders import ANSWERS, GRID_FILES, files
from slidecascade.patches import npz
from slidecascade.patches.result import PatchesResult
from slidecascade.patches.sink import PatchesSink, joined
from slidecascade.patches.tile_result import PatchesTileResult
from slidecascade.pipelines.patches import PatchesPipeline


class PatchesResults:
    """The lattice of all fields, and its files."""

    def __init__(self, survey: PatchesSurvey, reports: Sequence[FieldReport], *, seconds: float) -> None:
        sink = PatchesSink(survey.pipeline, survey.task.region_l0, survey.grid)
        self.analysis: PatchesResult = collected(survey, sink, survey.part, reports, seconds=seconds)

    @property
    def counts(self) -> dict[str, int]:
        return self.analysis.counts

    def write(
        self,
        folder: Path,
        overview: Overview,
        *,
        colormap: Colormap = Colormap.VIRIDIS,
        outputs: Container[str] = OUTPUTS,
        gzip: bool = True,
    ) -> None:
        """See `Results.write`."""
        made = files(self.analysis, overview, Drawing(colormap=colormap))
        maps = ANSWERS.heatmap_files(self.analysis)
        write_files(folder, made, maps, outputs=outputs, own=dict.fromkeys(GRID_FILES, "grid"), gzip=gzip)


class PatchesSurvey(Survey):
    """The fields of a pipeline over a lattice."""

    writes: ClassVar[frozenset[str]] = frozenset({"geojson", "heatmaps", "grid", "dicom"})

    @property
    def pipeline(self) -> PatchesPipeline:
        return cast("PatchesPipeline", self.task.pipeline)  # surveys are chosen by kind

    @property
    def recipe(self) -> str:
        pipeline = self.pipeline
        return repr((pipeline.stride_px, pipeline.context_px, pipeline.mpp, pipeline.edge))

    def sink(self, field: Field, region: Box) -> OneTileSink[PatchesTileResult]:
        def encode(results: Sequence[PatchesTileResult]) -> bytes:
            whole = joined(results, field.index, field.core, self.pipeline)
            if np.isinf(whole.probabilities).any():
                raise ModelFailedError("The classifier returned infinite probabilities: verify its package.")
            return npz.encode(whole)

        return OneTileSink(field, region=region, parts=self.parts, encode=encode)

    def part(self, index: int) -> PatchesTileResult:
        """What a field gave; raises UnreadablePartError."""
        return decoded(self.parts, index, npz.decode)

    def collect(self, reports: Sequence[FieldReport], *, seconds: float) -> PatchesResults:
        return PatchesResults(self, reports, seconds=seconds)
