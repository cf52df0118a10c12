"""Surveys of cells, and from their parts to files: GeoJSON, GeoParquet, summary, heatmaps, overlay, zip.

One part is in memory at a time. What is kept of all parts together are the cells at the fields' edges (about one
in a hundred), the tissue (a byte for 64 pixels of the segmenter) and the grids of heatmaps.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Final, cast

import numpy as np
from numpy.typing import NDArray

from slidecascade.analysis.analyser import Analyser
from slidecascade.analysis.plan import RegionTask
from slidecascade.cells import cascade, seams
from slidecascade.cells.doubts import Census
from slidecascade.cells.instances import Instances
from slidecascade.cells.result import Analysis, area_shares
from slidecascade.cells.tile import no_cells
from slidecascade.geometry import Box, Grid, Size
from slidecascade.jobs.cells import AT_EDGE, CellsFieldSink, CellsParts
from slidecascade.jobs.fields import FIELD_TILES, Field
from slidecascade.jobs.parts import FieldReport, Plan
from slidecascade.jobs.survey import OUTPUTS, Survey, summed
from slidecascade.kinds.result import TileReport, TissueMap
from slidecascade.kinds.sink import tissue_map, warnings_of
from slidecascade.outputs import archive, heatmap, heatmapfile, overlay, png
from slidecascade.outputs.cells import geojson, geoparquet, summary
from slidecascade.outputs.cells.geoparquet import Table
from slidecascade.outputs.cells.heatmap import Tally, of_tally
from slidecascade.outputs.cells.overlay import shapes_of
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.figure import Overviewed, figures, fitted
from slidecascade.outputs.files import Files, Overview
from slidecascade.outputs.gzipped import gzipped
from slidecascade.outputs.provenance import Provenance, provenance
from slidecascade.outputs.summary import text
from slidecascade.pipelines.cells import CellsPipeline
from slidecascade.slides.flaws import Flaws
from slidecascade.staging import write_file, writing_to

_LIGHT_COLUMNS: Final = ["class", "centroid_x", "centroid_y", "area_px", AT_EDGE]


@dataclass(frozen=True, slots=True)
class _Share:
    """What of a field is in the result: rows of its part, and cells it handed over that no field owns."""

    keep: NDArray[np.bool_]
    adopted: Instances
    adopted_class: NDArray[np.int64]


class Collection:
    """The cells of all fields of a survey, each once; in portions of one field.

    Args:
        reports: of all fields, in order.

    Raises:
        TilesFailedError: all tiles failed.
        UnreadablePartError: a part is gone or damaged.
    """

    def __init__(self, survey: CellsSurvey, reports: Sequence[FieldReport], *, seconds: float) -> None:
        self._parts: CellsParts = survey.parts
        self._reports = tuple(reports)
        self._survey = survey
        account = survey.account(reports)
        edges = [(edge.flaws, edge.unstored_px) for edge in map(self._parts.edge, (r.index for r in reports))]
        flaws, unstored_px = Flaws.total(each for each, _ in edges), sum(pixels for _, pixels in edges)
        tissue = tissue_map(
            (self._parts.edge(report.index) for report in reports), survey.task.region_l0, survey.grid
        )
        doubts = warnings_of(unstored_px=unstored_px, account=account, flaws=flaws, tissue=tissue)
        self.analysis = replace(
            survey.blank,
            tissue=tissue,
            tiles=account.tiles,
            timings_s={**summed(reports), "total": seconds},
            warnings=(*survey.blank.warnings, *doubts),
            flaws=flaws,
            area_shares=area_shares(
                survey.pipeline,
                [self._parts.edge(report.index).coverages for report in reports],
                survey.blank.models,
            ),
        )
        """All but the cells."""
        census = Census(self.analysis, survey.pipeline.object_diameter_um)
        self._shares, self.counts = self._settled(census)
        self.analysis = replace(self.analysis, warnings=(*self.analysis.warnings, *census.warnings()))

    @property
    def cells(self) -> int:
        return sum(self.counts.values())

    def portions(self) -> Iterator[Analysis]:
        """The cells of each field in turn, as an analysis with no others; fields without any are left out."""
        for _, portion in self.fields():
            if len(portion.instances):
                yield portion

    def fields(self) -> Iterator[tuple[int, Analysis]]:
        """The index and the cells of each field in turn, those without any included."""
        for report, share in zip(self._reports, self._shares, strict=True):
            if not share.keep.any() and not len(share.adopted):
                yield report.index, self.analysis
                continue
            cells, classes = geoparquet.cells_of(self._parts.rows(report.index), self.analysis)
            if not share.keep.all():
                cells, classes = cells.take(share.keep), classes[share.keep]
            if len(share.adopted):
                cells = Instances.concatenate([cells, share.adopted])
                classes = np.concatenate([classes, share.adopted_class])
            yield report.index, replace(self.analysis, instances=cells, class_index=classes)

    def geojson(self) -> Iterator[bytes]:
        """The feature collection, in pieces; a feature has the bytes it has in the answer to a region."""
        yield geojson.head(self._provenance(self.analysis))
        follows = False
        for portion in self.portions():
            yield from geojson.features(portion, follows=follows)
            follows = True
        yield geojson.END

    def geoparquet(self) -> Iterator[bytes]:
        """The GeoParquet file, in pieces: a row group for each field. It counts from level 0's corner always."""
        member = self._provenance(replace(self.analysis, origin="slide")).model_dump_json().encode()
        return geoparquet.stream(self._tables(), geoparquet.table(self.analysis), provenance=member)

    def heatmaps(self) -> tuple[heatmap.Heatmap, ...]:
        """All heatmaps of the pipeline."""
        tallies = [Tally(self.analysis, spec) for spec in self.analysis.heatmaps]
        for portion in self.portions() if tallies else ():
            for tally in tallies:
                tally.add(portion)
        return tuple(of_tally(self.analysis, tally) for tally in tallies)

    def overlay(self, overviewed: Overviewed) -> NDArray[np.uint8]:
        """The picture of the region with all outlines, uint8 RGB; see `outputs.overlay`."""
        image, downsample = overviewed.image, overviewed.downsample
        large_px = np.pi * (overlay.LARGE_CELL_PX * downsample / 2) ** 2
        large = sum(int((portion.instances.areas >= large_px).sum()) for portion in self.portions())
        # At least half of them: as when their median is large.
        picture = overlay.Overlay(
            self.analysis, image, downsample=downsample, are_large=0 < self.cells <= 2 * large
        )
        for portion in self.portions():
            picture.add(shapes_of(portion))
        return picture.page([(end.name, end.color, self.counts[end.name]) for end in self.analysis.classes.ends])

    def zip(
        self, overview: Overview, *, colormap: Colormap = Colormap.VIRIDIS, with_overlay: bool = True
    ) -> Iterator[bytes]:
        """The zip that a region is answered with, in pieces."""
        vertices = sum(report.vertices for report in self._reports)
        columns = sum(len(model.classes) for model in self.analysis.classifiers)
        most_bytes = geojson.most_bytes_of(self.cells, vertices=vertices, probabilities=columns)
        small = self._small_files(self.heatmaps(), overview if with_overlay else None, colormap)
        return archive.encode(Files(small, "cells.geojson", self.geojson(), most_bytes))

    def write(
        self,
        folder: Path,
        overview: Overview | None,
        *,
        colormap: Colormap = Colormap.VIRIDIS,
        outputs: Container[str] = OUTPUTS,
        gzip: bool = True,
    ) -> None:
        """See `Results.write`."""
        with writing_to(folder):
            if "geojson" in outputs and gzip:
                write_file(folder / "cells.geojson.gz", gzipped(self.geojson()))
            elif "geojson" in outputs:
                write_file(folder / "cells.geojson", self.geojson())
            if "parquet" in outputs:
                write_file(folder / "cells.parquet", self.geoparquet())
            numbers, maps = b"", self.heatmaps()
            for item in maps if "heatmaps" in outputs else ():
                values = heatmapfile.encode(item, self.analysis.region_l0, self.analysis.mpp)
                write_file(folder / heatmapfile.name_of(item.name), values)
            for name, content in self._small_files(maps, overview, colormap):
                if name == "summary.json":
                    numbers = content
                elif "heatmaps" in outputs or not name.startswith(("heatmaps/", "figures/")):
                    write_file(folder / name, content)
            write_file(folder / "summary.json", numbers)

    def _small_files(
        self, maps: tuple[heatmap.Heatmap, ...], overview: Overview | None, colormap: Colormap
    ) -> Iterator[tuple[str, bytes]]:
        numbers = summary.of_counts(self.analysis, self.counts, maps, colormap=colormap)
        yield "summary.json", text(numbers, indent=2)
        for item in maps:
            yield f"heatmaps/{item.name}.png", heatmap.encode_png(item, colormap)
        if overview is not None:
            base, page, outlined = self._pictures(Overviewed(*overview(overlay.MAX_SIDE_PX)))
            yield "overlay.png", png.encode(page)
            del page  # 50 MB
            ends = self.analysis.classes.ends
            yield from figures(
                self.analysis,
                maps,
                base,
                outlined=outlined,
                counts=[(end.name, end.color, self.counts[end.name]) for end in ends],
                colormaps=[colormap],
            )

    def _pictures(self, overviewed: Overviewed) -> tuple[Overviewed, NDArray[np.uint8], NDArray[np.uint8]]:
        """The overview at the size of figures; the page with all outlines; and their part of it at that size."""
        base = fitted(self.analysis, overviewed)
        page = self.overlay(overviewed)
        height, width = overviewed.image.shape[:2]
        outlined = fitted(self.analysis, Overviewed(page[:height, :width], overviewed.downsample))
        return base, page, outlined.image

    def _tables(self) -> Iterator[Table]:
        for report, share in zip(self._reports, self._shares, strict=True):
            rows = geoparquet.without(self._parts.rows(report.index), AT_EDGE)
            yield rows if share.keep.all() else geoparquet.select(rows, share.keep)
            if len(share.adopted):
                yield geoparquet.table(
                    replace(self.analysis, instances=share.adopted, class_index=share.adopted_class)
                )

    def _provenance(self, analysis: Analysis) -> Provenance:
        return provenance(analysis).model_copy(update={"counts": self.counts})

    def _settled(self, census: Census) -> tuple[tuple[_Share, ...], dict[str, int]]:
        """Each field's share, and the cells by class; `census` counts them all."""
        edges = [self._edge(report, census) for report in self._reports]
        keep = seams.settle(
            np.concatenate([np.zeros((0, 2)), *(edge.centroids for edge in edges)]),
            np.concatenate([np.zeros(0), *(edge.areas for edge in edges)]),
            tile_index=np.repeat(np.arange(len(edges)), [len(edge.areas) for edge in edges]).astype(np.int64),
            owned=np.concatenate([np.zeros(0, np.bool_), *(edge.owned for edge in edges)]),
            near_seam=np.ones(sum(len(edge.areas) for edge in edges), np.bool_),
        )
        totals = np.zeros(len(self.analysis.classes.ends), np.int64)
        shares = []
        start = 0
        for report, edge in zip(self._reports, edges, strict=True):
            kept = keep[start : start + len(edge.areas)]
            start += len(edge.areas)
            share = self._share(report, edge, kept)
            dropped = np.flatnonzero(~kept[: len(edge.rows)])
            census.add(edge.centroids[dropped], edge.areas[dropped], edge.row_class[dropped], times=-1)
            census.add(share.adopted.centroids, share.adopted.areas, share.adopted_class)
            totals += edge.totals - np.bincount(edge.row_class[~kept[: len(edge.rows)]], minlength=len(totals))
            totals += np.bincount(share.adopted_class, minlength=len(totals))
            shares.append(share)
        names = [end.name for end in self.analysis.classes.ends]
        return tuple(shares), dict(zip(names, totals.tolist(), strict=True))

    def _edge(self, report: FieldReport, census: Census) -> _Edge:
        rows = self._parts.rows(report.index, _LIGHT_COLUMNS)
        classes = geoparquet.class_index(rows, self.analysis)
        at_edge = np.flatnonzero(geoparquet.flags_of(rows, AT_EDGE))
        centroids, areas = geoparquet.centroids_and_areas(rows)
        census.add(centroids, areas, classes)
        handed = self._parts.edge(report.index).cells
        return _Edge(
            rows=at_edge,
            row_class=classes[at_edge],
            handed=handed,
            centroids=np.concatenate([centroids[at_edge], handed.centroids]),
            areas=np.concatenate([areas[at_edge], handed.areas]),
            owned=np.arange(len(at_edge) + len(handed)) < len(at_edge),
            totals=np.bincount(classes, minlength=len(self.analysis.classes.ends)),
        )

    def _share(self, report: FieldReport, edge: _Edge, kept: NDArray[np.bool_]) -> _Share:
        keep = np.ones(report.cells, np.bool_)
        keep[edge.rows] = kept[: len(edge.rows)]
        adopted = edge.handed.take(kept[len(edge.rows) :])
        task = self._survey.task
        ends = cascade.final_classes(adopted.probabilities, self._survey.pipeline, task.thresholds, len(adopted))
        return _Share(keep, adopted, ends)


@dataclass(frozen=True, slots=True)
class _Edge:
    """The cells of a field that neighbours may have found too: rows of its part, then those it handed over.

    `rows` are places in the part, `row_class` their classes; `totals` counts all cells of the part by class.
    """

    rows: NDArray[np.int64]
    row_class: NDArray[np.int64]
    handed: Instances
    centroids: NDArray[np.float64]
    areas: NDArray[np.float64]
    owned: NDArray[np.bool_]
    totals: NDArray[np.int64]


class CellsSurvey(Survey):
    """The fields of a pipeline that finds cells."""

    writes: ClassVar[frozenset[str]] = frozenset({"geojson", "parquet", "heatmaps", "dicom"})

    parts: CellsParts

    def __init__(
        self,
        analyser: Analyser,
        task: RegionTask,
        folder: Path,
        *,
        field_tiles: int = FIELD_TILES,
        attempt: int | None = None,
    ) -> None:
        super().__init__(analyser, task, folder, field_tiles=field_tiles, attempt=attempt)
        subject = self.subject
        self.blank = Analysis(
            pipeline=subject.pipeline,
            coordinate_space=subject.coordinate_space,
            facts=subject.facts,
            region_l0=subject.region_l0,
            mpp=subject.mpp,
            models=subject.models,
            thresholds=subject.thresholds,
            classes=self.pipeline.classes,
            instances=no_cells(self.pipeline),
            measures=self.pipeline.measures,
            class_index=np.zeros(0, np.int64),
            heatmaps=self.pipeline.heatmaps,
            tissue=TissueMap(np.zeros((1, 1), np.bool_), Grid(0, 0, 1, Size(1, 1), subject.mpp)),
            tiles=TileReport(total=0, background=0, failed=()),
            timings_s={},
            warnings=subject.doubts,
            origin=subject.origin,
            object_diameter_px=subject.object_diameter_px,
            tta=subject.tta,
        )
        """An analysis with everything but cells, tissue and numbers."""

    @property
    def pipeline(self) -> CellsPipeline:
        return cast("CellsPipeline", self.task.pipeline)  # surveys are chosen by kind

    @property
    def recipe(self) -> str:
        return recipe_of(self.pipeline)

    def open_parts(self, folder: Path, plan: Plan) -> CellsParts:
        return CellsParts(folder, plan)

    def sink(self, field: Field, region: Box) -> CellsFieldSink:
        return CellsFieldSink(field, self.pipeline, self.grid, region=region, parts=self.parts, blank=self.blank)

    def collect(self, reports: Sequence[FieldReport], *, seconds: float) -> Collection:
        return Collection(self, reports, seconds=seconds)


def recipe_of(pipeline: CellsPipeline) -> str:
    """What beside its models decides what a pipeline finds; the same in every process."""
    beside = tuple((item.name, item.class_index, item.min_area_um2) for item in pipeline.area_fractions)
    return repr((pipeline.stages, beside))
