"""The calls for jobs: requests and parsing of responses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlencode
from uuid import uuid4

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from slidecascade.wire import GEOJSON, JSON, ZIP, JobFileList, JobInfo, JobList, JobRequest
from slidecascade_client.body import json_body
from slidecascade_client.calls import RegionInput, invalid, plain, plain_thresholds, region_box, segment
from slidecascade_client.cells import Cells
from slidecascade_client.exchange import Call
from slidecascade_client.reply import Reply
from slidecascade_client.result import RegionResult

_PATH = "/v1/jobs"


def submit(
    slide: str,
    *,
    pipeline: str,
    mpp: float | None,
    region: RegionInput | None,
    thresholds: Mapping[str, float] | None,
    allow_partial: bool,
    outputs: Sequence[str] | None,
    label: str | None,
    idempotency_key: str | None,
) -> Call[JobInfo]:
    """Submit a job. It always has a key, so that a retry after a lost response creates no second job."""
    fields: dict[str, object] = {
        "pipeline": pipeline,
        "slide": slide,
        "mpp": plain(mpp),
        "region": region_box(region),
        "thresholds": plain_thresholds(thresholds),
        "allow_partial": plain(allow_partial),
        "label": label,
    }
    if outputs is not None:
        fields["outputs"] = tuple(outputs)
    try:
        request = JobRequest.model_validate(fields)
        document = request.model_dump_json(exclude_defaults=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise invalid(".".join(str(part) for part in first["loc"]), first["msg"]) from error
    except PydanticSerializationError as error:
        raise invalid("pipeline, slide or thresholds", "a name holds characters that are not Unicode") from error
    return Call(
        method="POST",
        path=_PATH,
        accept=JSON,
        read=lambda reply: reply.take_json(JobInfo),
        body=json_body(document),
        headers={"idempotency-key": idempotency_key or uuid4().hex},
    )


def jobs(*, status: str | None, label: str | None, cursor: str | None) -> Call[JobList]:
    query = {"status": status, "label": label, "cursor": cursor, "limit": "500"}
    text = urlencode({name: value for name, value in query.items() if value is not None})
    return Call(method="GET", path=f"{_PATH}?{text}", accept=JSON, read=lambda reply: reply.take_json(JobList))


def show(job_id: str) -> Call[JobInfo]:
    return _about(job_id, "GET", "")


def cancel(job_id: str) -> Call[JobInfo]:
    return _about(job_id, "POST", "/cancel")


def retry(job_id: str) -> Call[JobInfo]:
    return _about(job_id, "POST", "/retry")


def delete(job_id: str) -> Call[None]:
    return Call(method="DELETE", path=_path(job_id), accept="*/*", read=lambda reply: reply.body.close())


def result(job_id: str) -> Call[RegionResult]:
    return Call(method="GET", path=f"{_path(job_id)}/result", accept=ZIP, read=RegionResult)


def files(job_id: str) -> Call[JobFileList]:
    return Call(
        method="GET",
        path=f"{_path(job_id)}/files",
        accept=JSON,
        read=lambda reply: reply.take_json(JobFileList),
    )


def file(job_id: str, name: str) -> Call[Reply]:
    """A file in a response, which the caller must close after reading."""
    return Call(
        method="GET",
        path=f"{_path(job_id)}/files/{quote(name, safe='/')}",
        accept="*/*",
        read=lambda reply: reply,
    )


def cells(job_id: str, bbox: tuple[int, int, int, int], class_name: str | None) -> Call[Cells]:
    query = {"bbox": ",".join(map(str, bbox))} | ({} if class_name is None else {"class": class_name})
    return Call(method="GET", path=f"{_path(job_id)}/cells?{urlencode(query)}", accept=GEOJSON, read=_read_cells)


def _read_cells(reply: Reply) -> Cells:
    try:
        return Cells(json.loads(reply.take())["features"])
    except (ValueError, KeyError, TypeError) as error:
        raise reply.unexpected("The response is not the requested GeoJSON") from error


def _about(job_id: str, method: str, action: str) -> Call[JobInfo]:
    return Call(
        method=method, path=_path(job_id) + action, accept=JSON, read=lambda reply: reply.take_json(JobInfo)
    )


def _path(job_id: str) -> str:
    return f"{_PATH}/{segment(job_id)}"
