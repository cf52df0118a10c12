"""All fields of a slide as one result in memory, made as that of a region is made of its tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from slidecascade.jobs.parts import FieldReport
from slidecascade.jobs.survey import Survey, summed
from slidecascade.kinds.result import Account, RegionResult, Subject
from slidecascade.kinds.tile_result import AnyTileResult

T = TypeVar("T", bound=AnyTileResult)
T_contra = TypeVar("T_contra", bound=AnyTileResult, contravariant=True)
R = TypeVar("R", bound=RegionResult)
R_co = TypeVar("R_co", bound=RegionResult, covariant=True)


class WholeSink(Protocol[T_contra, R_co]):
    """The sink of a region, which takes fields for tiles."""

    def take(self, result: T_contra, /) -> None: ...

    def finish(self, subject: Subject, account: Account) -> R_co: ...


def collected(
    survey: Survey,
    sink: WholeSink[T, R],
    part: Callable[[int], T],
    reports: Sequence[FieldReport],
    *,
    seconds: float,
) -> R:
    """The result of all fields, by the account and the times of their reports.

    Args:
        sink: a new one.
        part: what the field of an index gave.
        seconds: since the analysis began.

    Raises:
        TilesFailedError: all tiles failed.
        UnreadablePartError: a part is gone or damaged.
    """
    account = survey.account(reports)
    for report in reports:
        sink.take(part(report.index))
    result = sink.finish(survey.subject, account)
    return replace(result, timings_s={**summed(reports), "total": seconds})
