"""The calls for jobs: requests and parsing of responses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode
from uuid import uuid4

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from slidecascade.wire import (
    GEOJSON,
    JSON,
    MAX_BATCH,
    PNG,
    ZIP,
    Averaging,
    JobBatch,
    JobBatchResult,
    JobFileList,
    JobInfo,
    JobList,
    JobOrder,
    JobRequest,
    NotificationInfo,
    NotificationList,
    Summary,
)
from slidecascade_client.body import ImageInput, json_body, region_body
from slidecascade_client.calls import (
    RegionInput,
    invalid,
    plain,
    plain_channels,
    plain_thresholds,
    region_box,
    segment,
)
from slidecascade_client.cells import Cells
from slidecascade_client.download import Download
from slidecascade_client.errors import SlideCascadeClientError, UnknownJobError
from slidecascade_client.exchange import Call
from slidecascade_client.fieldcells import FieldCells
from slidecascade_client.reply import Reply
from slidecascade_client.result import RegionResult

_PATH = "/v1/jobs"


_NOTIFICATIONS = "/v1/notifications"

R = TypeVar("R", bound=JobRequest)


def submit(
    slide: ImageInput,
    *,
    pipeline: str,
    mpp: float | None,
    object_diameter_px: float | None,
    region: RegionInput | None,
    thresholds: Mapping[str, float] | None,
    channels: Mapping[str, int | str] | None,
    stain: str | None,
    tta: Averaging,
    allow_partial: bool,
    outputs: Sequence[str] | None,
    origin: str,
    label: str | None,
    notify: str | None,
    idempotency_key: str | None,
) -> Call[JobInfo]:
    """Submit a job. It always has a key, so that a retry after a lost response creates no second job."""
    slide_id = _slide_id(slide)
    fields: dict[str, object] = {
        "pipeline": pipeline,
        "slide": slide_id,
        "mpp": mpp,
        "object_diameter_px": object_diameter_px,
        "region": region,
        "thresholds": thresholds,
        "channels": channels,
        "stain": stain,
        "tta": tta,
        "allow_partial": allow_partial,
        "outputs": outputs,
        "origin": origin,
        "label": label,
        "notify": notify,
    }
    document = _document(_request(JobRequest, fields))
    return Call(
        method="POST",
        path=_PATH,
        accept=JSON,
        read=lambda reply: reply.take_json(JobInfo),
        body=json_body(document) if slide_id is not None else region_body(slide, document),
        headers={"idempotency-key": idempotency_key or uuid4().hex},
    )


def submit_many(requests: Sequence[Mapping[str, object]]) -> tuple[Call[JobBatchResult], ...]:
    """Submit jobs, `MAX_BATCH` a call; each has a key."""
    orders = [_request(JobOrder, {"idempotency_key": uuid4().hex, **fields}) for fields in requests]
    return tuple(
        Call(
            method="POST",
            path=f"{_PATH}:batch",
            accept=JSON,
            read=lambda reply: reply.take_json(JobBatchResult),
            body=json_body(_document(JobBatch(jobs=tuple(orders[start : start + MAX_BATCH])))),
        )
        for start in range(0, len(orders), MAX_BATCH)
    )


def _slide_id(slide: ImageInput) -> str | None:
    """`slide`, when it is the id of a slide of the service; None: an image, such as a file that exists here."""
    if not isinstance(slide, str):
        return None
    try:
        return None if Path(slide).is_file() else slide
    except (OSError, ValueError):  # a name that no file can have
        return slide


def _request(model: type[R], fields: Mapping[str, object]) -> R:
    """`fields` as a request, checked before anything is sent."""
    plain_fields: dict[str, Any] = {name: plain(value) for name, value in fields.items()}
    plain_fields["region"] = region_box(plain_fields.get("region"))
    plain_fields["thresholds"] = plain_thresholds(plain_fields.get("thresholds"))
    plain_fields["channels"] = plain_channels(plain_fields.get("channels"))
    if isinstance(stain := plain_fields.get("stain"), str):
        plain_fields["stain"] = {"method": stain}
    if (tta := plain_fields.pop("tta", None)) is not None:
        plain_fields["options"] = {"tta": tta}
    if plain_fields.get("outputs") is None:
        plain_fields.pop("outputs", None)
    else:
        plain_fields["outputs"] = tuple(plain_fields["outputs"])
    try:
        return model.model_validate(plain_fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise invalid(".".join(str(part) for part in first["loc"]), first["msg"]) from error


def _document(request: BaseModel) -> str:
    try:
        return request.model_dump_json(exclude_defaults=True)
    except PydanticSerializationError as error:
        raise invalid("pipeline, slide or thresholds", "a name holds characters that are not Unicode") from error


def notifications(*, state: str | None) -> Call[NotificationList]:
    query = "" if state is None else f"?{urlencode({'state': state})}"
    return Call(
        method="GET",
        path=_NOTIFICATIONS + query,
        accept=JSON,
        read=lambda reply: reply.take_json(NotificationList),
    )


def resend(notification_id: str) -> Call[NotificationInfo]:
    return Call(
        method="POST",
        path=f"{_NOTIFICATIONS}/{segment(notification_id)}/resend",
        accept=JSON,
        read=lambda reply: reply.take_json(NotificationInfo),
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
    return Call(
        method="DELETE",
        path=_path(job_id),
        accept="*/*",
        read=lambda reply: reply.body.close(),
        recover=_require_deleted,
    )


def _require_deleted(error: SlideCascadeClientError) -> None:
    """Returns when a try before the one that failed may have deleted the job, and its reply been lost."""
    if not isinstance(error, UnknownJobError) or error.tries == 1:
        raise error


def result(job_id: str) -> Call[RegionResult]:
    return Call(method="GET", path=f"{_path(job_id)}/result", accept=ZIP, read=RegionResult)


def files(job_id: str) -> Call[JobFileList]:
    return Call(
        method="GET",
        path=f"{_path(job_id)}/files",
        accept=JSON,
        read=lambda reply: reply.take_json(JobFileList),
    )


def summary(job_id: str) -> Call[Summary]:
    return Call(
        method="GET",
        path=f"{_path(job_id)}/result",
        accept=JSON,
        read=lambda reply: reply.take_json(Summary),
    )


def download(job_id: str, name: str, into: Download) -> Call[None]:
    """A file, or what `into` has not received of it."""
    return Call(
        method="GET",
        path=f"{_path(job_id)}/files/{quote(name, safe='/')}",
        accept="*/*",
        read=into.finish,
        download=into,
    )


def field(job_id: str, index: int) -> Call[FieldCells]:
    return Call(method="GET", path=f"{_path(job_id)}/fields/{int(index)}", accept="*/*", read=_read_field)


def layer(job_id: str, name: str, level: int, column: int, row: int) -> Call[bytes]:
    return Call(
        method="GET",
        path=f"{_path(job_id)}/layers/{segment(name)}/{int(level)}/{int(column)}_{int(row)}.png",
        accept=PNG,
        read=lambda reply: reply.take(),
    )


def cells(job_id: str, bbox: tuple[int, int, int, int], class_name: str | None) -> Call[Cells]:
    query = {"bbox": ",".join(map(str, bbox))} | ({} if class_name is None else {"class": class_name})
    return Call(method="GET", path=f"{_path(job_id)}/cells?{urlencode(query)}", accept=GEOJSON, read=_read_cells)


def _read_field(reply: Reply) -> FieldCells:
    try:
        return FieldCells.read(reply.take())
    except (ValueError, UnicodeDecodeError) as error:
        raise reply.unexpected("The answer is not the field that was asked for") from error


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
