"""Hooks of Schemathesis: most of the requests that it generates name what the server has.

Loaded by its command line (SCHEMATHESIS_HOOKS); a job to ask for is in the variable `JOB`.
"""

from __future__ import annotations

import os
import zlib
from typing import Any, Final

import schemathesis

JOB: Final = "GENERATED_REQUESTS_JOB"
SLIDE: Final = "generated.tif"
PIPELINES: Final = ("toy", "toy-areas", "toy-patches")
MODELS: Final = ("toy-segmenter", "toy-classifier")
FILES: Final = ("cells.geojson.gz", "summary.json")


@schemathesis.hook
def map_body(_context: Any, body: Any) -> Any:
    """A slide and a pipeline of the server in three of four bodies that have any; no target: it has none."""
    if not isinstance(body, dict):
        return body
    choice = _choice(body)
    inner = body.get("request", body)
    if isinstance(inner, dict) and isinstance(inner.get("notify"), str):
        inner["notify"] = None
    if isinstance(inner, dict) and choice % 4 and isinstance(inner.get("pipeline"), str):
        inner["pipeline"] = PIPELINES[choice // 4 % len(PIPELINES)]
        if isinstance(inner.get("slide"), str):
            inner["slide"] = SLIDE
            inner.setdefault("mpp", 0.5)
    return body


@schemathesis.hook
def map_path_parameters(context: Any, parameters: Any) -> Any:
    """Names of the server in three of four paths that have any."""
    choice = _choice(parameters)
    path = context.operation.path
    if not isinstance(parameters, dict) or choice % 4 == 0:
        return parameters
    if "job_id" in parameters and context.operation.method.lower() != "delete":
        parameters["job_id"] = os.environ[JOB]
    if "slide_id" in parameters:
        parameters["slide_id"] = SLIDE
    if "name" in parameters:
        names = PIPELINES if "/pipelines/" in path else FILES if "/files/" in path else MODELS
        parameters["name"] = names[choice // 4 % len(names)]
    if "version" in parameters and choice % 8:
        parameters["version"] = "1"
    return parameters


def _choice(generated: Any) -> int:
    """A number that depends on what was generated alone, so that a run can be repeated."""
    return zlib.crc32(repr(generated).encode())
