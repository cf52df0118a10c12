"""The folder of a slide's fields: a GeoParquet part each, its edge beside it, and a report that vouches for both.

==================  =================================================================================
file                content
==================  =================================================================================
``plan.json``       what is analysed; a folder of another plan is begun anew
``attempt``         the attempt of the job that did so last
``00012.parquet``   the cells that field 12 owns, see `outputs/geoparquet.py`, and ``at_edge``
``00012.edge``      an Arrow stream of `cells/arrow.py`: the field's tissue, and cells just outside of it
``00012.json``      the report: numbers, failed tiles, and the digests of the other two
==================  =================================================================================

Files appear whole or not at all, the report last. A field is done when its report is there and the digests agree;
anything else is as if it had never been begun.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from slidecascade.cells import arrow
from slidecascade.cells.result import Analysis
from slidecascade.cells.tile_result import TileResult
from slidecascade.errors import ModelChangedError, SlideChangedError, UnreadablePartError
from slidecascade.jobs.fields import FieldResult
from slidecascade.outputs.cells import geoparquet
from slidecascade.staging import make_folder, write_file, write_files

AT_EDGE: Final = "at_edge"
PLAN: Final = "plan.json"
ATTEMPT: Final = "attempt"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Plan(_Record):
    """What makes two analyses the same: then the parts of one are parts of the other.

    `edition` digests everything else that the cells depend on: models, head options, the pipeline, the program.
    """

    content_id: str
    pipeline: str
    region_l0: tuple[int, int, int, int]
    mpp: float
    thresholds: Mapping[str, float]
    tile_px: int
    field_tiles: int
    fields: int
    edition: str


class FailedTileRecord(_Record):
    """A tile that failed twice: its core in pixels of the segmenter's grid."""

    core: tuple[int, int, int, int]
    reason: str


class FieldReport(_Record):
    """The numbers of a field that is done."""

    index: int
    cells: int
    vertices: int
    counts: Mapping[str, int]
    tiles: int
    background: int
    failed: tuple[FailedTileRecord, ...]
    seen_px: int
    seconds: Mapping[str, float]
    part_sha256: str
    edge_sha256: str


class Parts:
    """The parts in `folder`, which holds those of `plan` only; others are removed.

    Args:
        attempt: of a job. The parts of the same attempt must be of the same plan: none are removed.

    Raises:
        SlideChangedError, ModelChangedError: they are of another slide, or of other models.
        UnwritableOutputError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, plan: Plan, *, attempt: int | None = None) -> None:
        self._folder = folder
        self.plan = plan
        text = plan.model_dump_json(indent=1).encode()
        kept = _read(folder / PLAN)
        if folder.exists() and kept != text:
            if attempt is not None and kept is not None:
                _require_newer(kept, plan, folder / ATTEMPT, attempt)
            shutil.rmtree(folder)
        make_folder(folder)
        if not (folder / PLAN).exists():
            write_file(folder / PLAN, text)
        if attempt is not None and _read(folder / ATTEMPT) != str(attempt).encode():
            write_file(folder / ATTEMPT, str(attempt).encode())

    def report(self, index: int) -> FieldReport | None:
        """The report of a field that is done; None: it is to be run."""
        text = _read(self._path(index, "json"))
        try:
            report = None if text is None else FieldReport.model_validate_json(text)
        except ValidationError:
            return None
        if report is None or report.index != index:
            return None
        part, edge = _digest(self._path(index, "parquet")), _digest(self._path(index, "edge"))
        return report if (part, edge) == (report.part_sha256, report.edge_sha256) else None

    def write(self, result: FieldResult, analysis: Analysis, seconds: Mapping[str, float]) -> FieldReport:
        """Keep a field; `analysis` holds its cells.

        Raises:
            UnwritableOutputError: nothing of the field was written.
            ModelFailedError: a number is not finite.
        """
        rows = geoparquet.with_flags(geoparquet.table(analysis), AT_EDGE, result.at_edge)
        part, edge = geoparquet.encode(rows), arrow.encode(result.edge)
        report = FieldReport(
            index=result.field.index,
            cells=len(result.cells),
            vertices=len(result.cells.vertices),
            counts=analysis.counts,
            tiles=len(result.field.tiles),
            background=result.background,
            failed=tuple(
                FailedTileRecord(core=failure.core.as_tuple(), reason=failure.reason)
                for failure in result.failures
            ),
            seen_px=result.seen_px,
            seconds=dict(seconds),
            part_sha256=hashlib.sha256(part).hexdigest(),
            edge_sha256=hashlib.sha256(edge).hexdigest(),
        )
        names = {suffix: self._path(report.index, suffix).name for suffix in ("parquet", "edge", "json")}
        write_files(self._folder, {names["parquet"]: part, names["edge"]: edge})
        write_file(self._folder / names["json"], report.model_dump_json().encode())
        return report

    def rows(self, index: int, columns: list[str] | None = None) -> geoparquet.Table:
        """The cells of a field.

        Raises:
            UnreadablePartError: the part is gone or damaged.
        """
        try:
            return geoparquet.read(self._path(index, "parquet"), columns)
        except ValueError as error:
            raise _unreadable(index) from error

    def edge(self, index: int) -> TileResult:
        """The tissue of a field and the cells it handed over.

        Raises:
            UnreadablePartError: the file is gone or damaged.
        """
        try:
            return arrow.decode(self._path(index, "edge").read_bytes())
        except (ValueError, OSError) as error:
            raise _unreadable(index) from error

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, index: int, suffix: str) -> Path:
        return self._folder / f"{index:05d}.{suffix}"


def _require_newer(kept: bytes, plan: Plan, path: Path, attempt: int) -> None:
    """Raises unless `attempt` is another one than that of the parts, whose plan is `kept`."""
    try:
        before = Plan.model_validate_json(kept)
    except ValidationError:
        return
    if _read(path) != str(attempt).encode():
        return
    if before.content_id != plan.content_id:
        raise SlideChangedError(
            "The slide was replaced after the job began: retry the job to analyse the new one, or put the first "
            "one back before."
        )
    raise ModelChangedError(
        "Models, pipeline or program were replaced after the job began: retry the job to start again with the "
        "new ones, or put the first ones back before."
    )


def _unreadable(index: int) -> UnreadablePartError:
    return UnreadablePartError(
        f"Part {index} of the analysis cannot be read: start the analysis again, which redoes what is missing."
    )


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
