"""Fields of the kind `areas`.

A field is kept as one large tile: the pieces of its tiles, as runs, and its tissue, in ``00012.npz``
(`areas/npz.py`). All fields together make what the tiles of a region make, by the same steps: pieces that touch
are joined, over seams of tiles and of fields alike. A few bytes for each run of the slide are held in memory,
never the mask.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import ClassVar, cast

from slidecascade.areas import npz
from slidecascade.areas.result import AreasResult
from slidecascade.areas.sink import AreasSink, joined
from slidecascade.areas.tile_result import AreasTileResult
from slidecascade.geometry import Box
from slidecascade.jobs.fields import Field
from slidecascade.jobs.onetile import OneTileSink, decoded, write_files
from slidecascade.jobs.parts import FieldReport
from slidecascade.jobs.survey import OUTPUTS, Survey
from slidecascade.jobs.whole import collected
from slidecascade.outputs.areas.encoders import ANSWERS, MASK, RLE, files
from slidecascade.outputs.areas.rle import rle_csv
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.encoders import Drawing
from slidecascade.outputs.files import Overview
from slidecascade.pipelines.areas import AreasPipeline
from slidecascade.staging import write_file, writing_to


class AreasResults:
    """The areas of all fields, and their files."""

    def __init__(self, survey: AreasSurvey, reports: Sequence[FieldReport], *, seconds: float) -> None:
        sink = AreasSink(survey.pipeline, survey.task.region_l0, survey.grid)
        self.analysis: AreasResult = collected(survey, sink, survey.part, reports, seconds=seconds)

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
        made = files(self.analysis, overview, Drawing(colormap=colormap), with_rle=False)
        if "rle" in outputs:
            with writing_to(folder):
                write_file(folder / RLE, rle_csv(self.analysis))
        maps = ANSWERS.heatmap_files(self.analysis)
        write_files(folder, made, maps, outputs=outputs, own={MASK: "mask"}, gzip=gzip)


class AreasSurvey(Survey):
    """The fields of a pipeline with a semantic network."""

    writes: ClassVar[frozenset[str]] = frozenset({"geojson", "heatmaps", "mask", "rle", "dicom"})

    @property
    def pipeline(self) -> AreasPipeline:
        return cast("AreasPipeline", self.task.pipeline)  # surveys are chosen by kind

    @property
    def recipe(self) -> str:
        return repr(self.pipeline.min_area_um2)

    def sink(self, field: Field, region: Box) -> OneTileSink[AreasTileResult]:
        def encode(results: Sequence[AreasTileResult]) -> bytes:
            return npz.encode(joined(results, field.index, field.core))

        return OneTileSink(field, region=region, parts=self.parts, encode=encode)

    def part(self, index: int) -> AreasTileResult:
        """What a field gave; raises UnreadablePartError."""
        return decoded(self.parts, index, npz.decode)

    def collect(self, reports: Sequence[FieldReport], *, seconds: float) -> AreasResults:
        return AreasResults(self, reports, seconds=seconds)
