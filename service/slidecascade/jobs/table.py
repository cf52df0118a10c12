"""What jobs know of each kind of pipeline. A further kind is a module with its `Survey`, and a line here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from slidecascade.analysis.analyser import Analyser
from slidecascade.analysis.plan import RegionTask
from slidecascade.errors import InvalidRequestError
from slidecascade.jobs.areas import AreasSurvey
from slidecascade.jobs.collect import CellsSurvey
from slidecascade.jobs.fields import FIELD_TILES
from slidecascade.jobs.patches import PatchesSurvey
from slidecascade.jobs.survey import Survey
from slidecascade.pipelines.spec import Pipeline

SURVEYS: Final[Mapping[str, type[Survey]]] = {
    "cells": CellsSurvey,
    "patches": PatchesSurvey,
    "areas": AreasSurvey,
}
"""The surveys of the kinds that can be analysed by fields, by name of the kind."""


def require_fields(pipeline: Pipeline) -> type[Survey]:
    """The survey of `pipeline`'s kind.

    Raises:
        InvalidRequestError: the kind is not worked on field by field.
    """
    if pipeline.kind not in SURVEYS:
        message = (
            f"Jobs run pipelines of the kinds {', '.join(SURVEYS)}, and {pipeline.name!r} is of the kind "
            f"{pipeline.kind}: analyse regions of the slide with it."
        )
        raise InvalidRequestError(message, (("pipeline", message),))
    return SURVEYS[pipeline.kind]


def require_outputs(pipeline: Pipeline, outputs: Collection[str]) -> None:
    """Reject a job of `pipeline` that would write none of the `outputs` it names.

    Raises:
        InvalidRequestError: the kind has none of them, or is not worked on field by field.
    """
    writes = require_fields(pipeline).writes
    if outputs and writes.isdisjoint(outputs):
        message = (
            f"A job of the pipeline {pipeline.name!r}, of the kind {pipeline.kind}, writes "
            f"{', '.join(sorted(writes))} and has no {', '.join(sorted(set(outputs)))}: choose `outputs` that it "
            "writes."
        )
        raise InvalidRequestError(message, (("outputs", message),))


def open_survey(
    analyser: Analyser,
    task: RegionTask,
    folder: Path,
    *,
    field_tiles: int = FIELD_TILES,
    attempt: int | None = None,
) -> Survey:
    """The fields of `task`, with their parts in `folder`; raises what `Survey` and `require_fields` do."""
    return require_fields(task.pipeline)(analyser, task, folder, field_tiles=field_tiles, attempt=attempt)
