"""Jobs on their way in: one, with or without its image, or many; and through BentoML's clients."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from slidecascade import wire
from slidecascade.errors import InvalidRequestError, SlideCascadeError
from slidecascade.jobs.desk import Desk
from slidecascade.jobs.records import JobRecord
from slidecascade.jobs.uploads import Upload
from slidecascade.web.intake import JobIntake, parse, read_job, read_json
from slidecascade.web.jobresults import native_answer
from slidecascade.web.middleware.auth import caller_of
from slidecascade.web.middleware.exchange import Exchange
from slidecascade.web.pool import Pool

MAX_BATCH_BYTES: Final = 4 * 2**20
MAX_BATCH_MEMBERS: Final = 100 * wire.MAX_BATCH
_BATCH_S: Final = 60.0
_UPLOAD_S: Final = 3600.0
"""Most time that a job's body may take to arrive; see `slidecascade.web.body` for how slow it may be."""

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")

Problem = Callable[[SlideCascadeError, str], wire.Problem]
"""The problem that an error is reported as, with the request's id."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job, and whether this request made it."""

    record: JobRecord
    is_new: bool


class Submissions:
    """Takes jobs for `desk`.

    Args:
        lookups: runs what may wait for a disk or a database.
        submitting: runs what may wait for memory, or for the server of a slide, which takes a minute or more.
    """

    def __init__(self, desk: Desk, lookups: Pool, submitting: Pool) -> None:
        self._desk = desk
        self._lookups = lookups
        self._submitting = submitting

    async def accept(self, request: Request) -> Accepted:
        """The job in the body of ``POST /v1/jobs``."""
        key = _key(request)
        order, upload = await self._read(request, wire.JobRequest, is_native=False)
        return await self.enter(request, order, key, upload)

    async def read_native(self, request: Request) -> tuple[wire.JobOrder, Upload | None]:
        """What one of BentoML's clients sends, whose order holds its key."""
        order, upload = await self._read(request, wire.JobOrder, is_native=True)
        assert isinstance(order, wire.JobOrder)  # noqa: S101  # of the type it was parsed as
        return order, upload

    async def enter(
        self, request: Request, order: wire.JobRequest, key: str | None, upload: Upload | None
    ) -> Accepted:
        """Submit `order`; an upload that is not the image of a new job is removed."""
        request_id = Exchange.of(request).request_id
        try:
            record, is_new = await self._submitting.run(
                self._desk.submit, order, caller_of(request), request_id=request_id, key=key, upload=upload
            )
        except Exception:
            await self._discard(upload)
            raise
        if not is_new:
            await self._discard(upload)
        Exchange.of(request).object = record.id
        return Accepted(record, is_new)

    async def show(self, request: Request, job: str) -> JobRecord:
        """A job of the caller; raises what `Desk.show` does."""
        return await self._lookups.run(self._desk.show, job, caller_of(request))

    async def result(self, request: Request, job: str) -> Response:
        """What BentoML's clients receive of a finished job; raises what `Desk.results` does."""
        folders = await self._lookups.run(self._desk.results, job, caller_of(request))
        return await self._lookups.run(native_answer, folders, job)

    async def cancel(self, request: Request, job: str) -> JobRecord:
        """The job, cancelled; raises what `Desk.cancel` does."""
        return await self._lookups.run(self._desk.cancel, job, caller_of(request))

    async def accept_batch(
        self, request: Request, info: Callable[[JobRecord], wire.JobInfo], problem: Problem
    ) -> wire.JobBatchResult:
        """The jobs in the body of ``POST /v1/jobs:batch``, each by itself, in order."""
        document = await read_json(request, max_bytes=MAX_BATCH_BYTES, max_s=_BATCH_S)
        batch = parse(_Batch, document, max_members=MAX_BATCH_MEMBERS)
        if not 1 <= len(batch.jobs) <= wire.MAX_BATCH:
            message = f"give 1 to {wire.MAX_BATCH} jobs"
            raise InvalidRequestError(f"The batch is wrong: {message}.", (("jobs", message),))
        key = _key(request)
        items = []
        for index, fields in enumerate(batch.jobs):
            try:
                order = wire.parse_order(fields)
                own = order.idempotency_key or (None if key is None else f"{key}#{index}")
                accepted = await self.enter(request, order.job, own, None)
                status = 202 if accepted.is_new else 200
                items.append(wire.JobBatchItem(status=status, job=info(accepted.record)))
            except SlideCascadeError as error:
                rejected = problem(error, Exchange.of(request).request_id)
                items.append(wire.JobBatchItem(status=rejected.status, problem=rejected))
        return wire.JobBatchResult(jobs=tuple(items))

    async def _read(
        self, request: Request, model: type[wire.JobRequest], *, is_native: bool
    ) -> tuple[wire.JobRequest, Upload | None]:
        upload: Upload | None = None

        async def take(piece: bytes) -> None:
            nonlocal upload
            if upload is None:
                stated = request.headers.get("content-length", "")
                upload = await self._lookups.run(self._desk.begin_upload, int(stated) if stated.isdigit() else 0)
            await self._lookups.run(upload.write, piece)

        intake = JobIntake(model, is_native=is_native, max_bytes=self._desk.max_upload_bytes, max_s=_UPLOAD_S)
        try:
            order, has_image = await read_job(request, intake, take)
            if has_image and upload is None:
                await take(b"")
            if upload is not None:
                await self._lookups.run(upload.finish)
        except Exception:
            await self._discard(upload)
            raise
        return order, upload

    async def _discard(self, upload: Upload | None) -> None:
        # Not when the task is cancelled: the thread may be making the job at that moment. What is left is swept.
        if upload is not None:
            await self._lookups.run(upload.discard)


class _Batch(wire.WireModel):
    """The jobs are parsed one by one, so that a wrong one does not reject the others."""

    jobs: tuple[dict[str, Any], ...]


def _key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        message = "give 1 to 255 visible ASCII characters"
        raise InvalidRequestError(f"'Idempotency-Key' is wrong: {message}.", (("Idempotency-Key", message),))
    return key
