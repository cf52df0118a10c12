"""Fields of the kind `patches`.

A field is kept as one large tile: the squares of its core with their probabilities, and its tissue, in
``00012.npz`` (`patches/npz.py`). All fields together make the lattice that a region has: a few bytes for each
square of the slide, which is held in memory; what is written of it is made in pieces.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from slidecascade.errors import ModelFailedError
from slidecascade.geometry import Box
from slidecascade.jobs.fields import Field
from slidecascade.jobs.parts import FieldReport, Parts, failure_records, unreadable
from slidecascade.jobs.survey import OUTPUTS, Survey, summed
from slidecascade.kinds.tile_result import TileFailure
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.encoders import Drawing
from slidecascade.outputs.files import Overview
from slidecascade.outputs.gzipped import gzipped
from slidecascade.outputs.patches.encoders import GRID_FILES, files
from slidecascade.patches import npz
from slidecascade.patches.result import PatchesResult
from slidecascade.patches.sink import PatchesSink, joined
from slidecascade.patches.tile_result import PatchesTileResult
from slidecascade.pipelines.patches import PatchesPipeline
from slidecascade.staging import write_file, writing_to

SUFFIX = "npz"


class PatchesFieldSink:
    """Takes the tiles of one field; `region` is what is analysed, in pixels of the grid."""

    def __init__(self, field: Field, pipeline: PatchesPipeline, *, region: Box, parts: Parts) -> None:
        self._field = field
        self._pipeline = pipeline
        self._region = region
        self._parts = parts
        self._results: list[PatchesTileResult] = []
        self._failures: list[TileFailure] = []

    def take(self, result: PatchesTileResult, /) -> None:
        self._results.append(result)

    def fail(self, failure: TileFailure, /) -> None:
        self._failures.append(failure)

    def keep(self, seconds: Mapping[str, float]) -> FieldReport:
        """Write the field's part; see `survey.FieldSink`."""
        whole = joined(self._results, self._field.index, self._field.core, self._pipeline)
        if np.isinf(whole.probabilities).any():
            raise ModelFailedError("The classifier returned infinite probabilities: verify its package.")
        report = FieldReport(
            index=self._field.index,
            tiles=len(self._field.tiles),
            background=sum(result.is_background for result in self._results),
            failed=failure_records(self._failures),
            seen_px=sum(result.core.clipped(self._region).area for result in self._results),
            seconds=dict(seconds),
        )
        return self._parts.keep(report, {SUFFIX: npz.encode(whole)})


class PatchesResults:
    """The lattice of all fields, and its files."""

    def __init__(self, survey: PatchesSurvey, reports: Sequence[FieldReport], *, seconds: float) -> None:
        sink = PatchesSink(survey.pipeline, survey.task.region_l0, survey.grid)
        unstored_px = 0.0
        for report in reports:
            part = survey.part(report.index)
            unstored_px += part.unstored_px
            sink.take(part)
        self.analysis: PatchesResult = replace(
            sink.finish(survey.subject),
            tiles=survey.tile_report(reports),
            timings_s={**summed(reports), "total": seconds},
            warnings=survey.warnings(reports, unstored_px=unstored_px, flaws=sink.flaws()),
        )

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
        with writing_to(folder):
            if "geojson" in outputs:
                name = f"{made.large_name}.gz" if gzip else made.large_name
                write_file(folder / name, gzipped(made.large) if gzip else made.large)
            summary = b""
            for name, content in made.small:
                if name == "summary.json":
                    summary = content
                elif ("grid" in outputs or name not in GRID_FILES) and (
                    "heatmaps" in outputs or not name.startswith(("heatmaps/", "figures/"))
                ):
                    write_file(folder / name, content)
            write_file(folder / "summary.json", summary)


class PatchesSurvey(Survey):
    """The fields of a pipeline over a lattice."""

    @property
    def pipeline(self) -> PatchesPipeline:
        return cast("PatchesPipeline", self.task.pipeline)  # surveys are chosen by kind

    @property
    def recipe(self) -> str:
        pipeline = self.pipeline
        return repr((pipeline.stride_px, pipeline.context_px, pipeline.mpp, pipeline.edge))

    def sink(self, field: Field, region: Box) -> PatchesFieldSink:
        return PatchesFieldSink(field, self.pipeline, region=region, parts=self.parts)

    def part(self, index: int) -> PatchesTileResult:
        """What a field gave.

        Raises:
            UnreadablePartError: the part is gone or damaged.
        """
        try:
            return npz.decode(self.parts.path(index, SUFFIX).read_bytes())
        except (ValueError, OSError) as error:
            raise unreadable(index) from error

    def collect(self, reports: Sequence[FieldReport], *, seconds: float) -> PatchesResults:
        return PatchesResults(self, reports, seconds=seconds)
