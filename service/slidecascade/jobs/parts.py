"""The folder of a slide's fields: for each the files of its kind, and a report with their digests.

==================  =================================================================================
file                content
==================  =================================================================================
``plan.json``       what is analysed; a folder of another plan is begun anew
``attempt``         the attempt of the job that did so last
``00012.SUFFIX``    what field 12 gave; which files there are is up to the kind, see `cells.py`, `patches.py`
``00012.json``      the report: numbers, failed tiles, and the digests of the other files
==================  =================================================================================

Files appear whole or not at all, the report last. A field is done when its report is there and the digests agree;
anything else is as if it had never been begun.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from slidecascade.errors import ModelChangedError, SlideChangedError, UnreadablePartError
from slidecascade.kinds.tile_result import TileFailure
from slidecascade.staging import make_folder, write_file, write_files

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
    """A tile that failed twice: its core in pixels of the grid in which tiles are cut."""

    core: tuple[int, int, int, int]
    reason: str


def failure_records(failures: Sequence[TileFailure]) -> tuple[FailedTileRecord, ...]:
    """Tiles that failed twice, as a report keeps them."""
    return tuple(FailedTileRecord(core=failure.core.as_tuple(), reason=failure.reason) for failure in failures)


class FieldReport(_Record):
    """The numbers of a field that is done; `sha256` has the digests of its files, by suffix.

    `cells`, `vertices` and `counts` are those of its cells, zero and empty for kinds that find none.
    """

    index: int
    cells: int = 0
    vertices: int = 0
    counts: Mapping[str, int] = {}
    tiles: int
    background: int
    failed: tuple[FailedTileRecord, ...]
    seen_px: int
    seconds: Mapping[str, float]
    sha256: Mapping[str, str] = {}


class Parts:
    """The parts in `folder`, which holds those of `plan` only; others are removed.

    Raises:
        UnwritableOutputError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._folder = folder
        self.plan = plan
        if folder.exists() and _read(folder / PLAN) != _text(plan):
            shutil.rmtree(folder)
        make_folder(folder)
        if not (folder / PLAN).exists():
            write_file(folder / PLAN, _text(plan))

    def pin(self, attempt: int) -> None:
        """Note that the parts are of this attempt of a job; see `require_same_plan`."""
        if _read(self._folder / ATTEMPT) != str(attempt).encode():
            write_file(self._folder / ATTEMPT, str(attempt).encode())

    def report(self, index: int) -> FieldReport | None:
        """The report of a field that is done; None: it is to be run."""
        text = _read(self.path(index, "json"))
        try:
            report = None if text is None else FieldReport.model_validate_json(text)
        except ValidationError:
            return None
        if report is None or report.index != index:
            return None
        digests = {suffix: _digest(self.path(index, suffix)) for suffix in report.sha256}
        return report if digests == report.sha256 else None

    def keep(self, report: FieldReport, files: Mapping[str, bytes]) -> FieldReport:
        """Write the files of a field, by suffix, and then `report` with their digests, which is returned.

        Raises:
            UnwritableOutputError: the field is not done.
        """
        digests = {suffix: hashlib.sha256(data).hexdigest() for suffix, data in files.items()}
        kept = report.model_copy(update={"sha256": digests})
        write_files(self._folder, {self.path(kept.index, suffix).name: data for suffix, data in files.items()})
        write_file(self.path(kept.index, "json"), kept.model_dump_json().encode())
        return kept

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def path(self, index: int, suffix: str) -> Path:
        """Where a file of a field is kept."""
        return self._folder / f"{index:05d}.{suffix}"


def require_same_plan(folder: Path, plan: Plan, attempt: int) -> None:
    """Check that the parts in `folder` are of `plan`, unless they are of another attempt of the job.

    Raises:
        SlideChangedError, ModelChangedError: they are of another slide, or of other models.
    """
    kept = _read(folder / PLAN)
    if kept is None or kept == _text(plan) or _read(folder / ATTEMPT) != str(attempt).encode():
        return
    try:
        before = Plan.model_validate_json(kept)
    except ValidationError:
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


def _text(plan: Plan) -> bytes:
    return plan.model_dump_json(indent=1).encode()


def unreadable(index: int) -> UnreadablePartError:
    """The error of a missing or damaged part."""
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
