"""All fields of a slide as one result in memory, made as that of a region is made of its tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from slidecascade.jobs.parts import FieldReport
from slidecascade.jobs.survey import Survey, summed
from slidecascade.kinds.result import RegionResult, Subject
from slidecascade.kinds.tile_result import AnyTileResult
from slidecascade.slides.flaws import Flaws

T = TypeVar("T", bound=AnyTileResult)
T_contra = TypeVar("T_contra", bound=AnyTileResult, contravariant=True)
R = TypeVar("R", bound=RegionResult)
R_co = TypeVar("R_co", bound=RegionResult, covariant=True)


class WholeSink(Protocol[T_contra, R_co]):
    """The sink of a region, which takes fields for tiles."""

    def take(self, result: T_contra, /) -> None: ...

    def flaws(self) -> Flaws: ...

    def finish(self, subject: Subject) -> R_co: ...


def collected(
    survey: Survey,
    sink: WholeSink[T, R],
    part: Callable[[int], T],
    reports: Sequence[FieldReport],
    *,
    seconds: float,
) -> R:
    """The result of all fields. Tiles, times and warnings are those of the reports: a field counts as one tile.

    Args:
        sink: a new one.
        part: what the field of an index gave.
        seconds: since the analysis began.

    Raises:
        TilesFailedError: all tiles failed.
        UnreadablePartError: a part is gone or damaged.
    """
    unstored_px = 0.0
    for report in reports:
        field = part(report.index)
        unstored_px += field.unstored_px
        sink.take(field)
    return replace(
        sink.finish(survey.subject),
        tiles=survey.tile_report(reports),
        timings_s={**summed(reports), "total": seconds},
        warnings=survey.warnings(reports, unstored_px=unstored_px, flaws=sink.flaws()),
    )
