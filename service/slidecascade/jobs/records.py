"""Records of jobs: a row for each job, and one for each finished field.

Every method is one transaction, which raises what `transaction` does; a job's row is changed only where its state
still allows it, so that two processes cannot both end a job.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

import sqlalchemy as sa

from slidecascade.access.limits import exceeded
from slidecascade.errors import (
    NotReadyError,
    OverloadedError,
    StorageFullError,
    UnknownJobError,
)
from slidecascade.jobs import outbox
from slidecascade.jobs.database import FIELDS, JOBS, TAKE_OVERS, TALLIES, Database, create_tables, transaction
from slidecascade.jobs.idempotency import digest_of, job_with, owned_key
from slidecascade.wire import JobRequest, JobStatus

ACTIVE: Final = ("queued", "running")
ENDED: Final = ("succeeded", "failed", "cancelled")
NO_SUCH_JOB: Final = "There is no such job: GET /v1/jobs lists all jobs."
_MOST_PARAMETERS: Final = 500
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job failed: the name, title and detail of a problem."""

    problem: str
    title: str
    detail: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """Numbers of all jobs that are kept; `take_overs` since the database was created.

    `waiting` are the fields of unfinished jobs that are not done; `oldest_s` is the age of the oldest of these
    jobs in seconds.
    """

    fields: int
    cells: int
    waiting: int
    oldest_s: float
    take_overs: int


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it is now; times in seconds since 1970.

    `content_id` is that of the slide when the job was accepted.
    `attempt` counts from 1, and grows with every retry. `owner` is the caller that submitted it; None: submitted
    without authentication. `is_upload`: its image was sent with the request.
    `fields_total` is None until the slide was cut into
    fields; `fields_before` are those that were done when this attempt began. `has_cells`: the cells of its result
    can be listed; True also of jobs that an earlier version ended, of which it is not known.
    """

    id: str
    attempt: int
    status: JobStatus
    request: JobRequest
    request_id: str
    owner: str | None
    is_upload: bool
    created_at: float
    started_at: float | None
    finished_at: float | None
    fields_total: int | None
    fields_before: int
    fields_done: int
    cells: int
    failure: Failure | None
    content_id: str | None = None
    has_cells: bool = True

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class Records:
    """The rows of `engine`'s database, whose tables are made when needed."""

    def __init__(self, engine: Database) -> None:
        self._engine = engine
        with transaction(engine) as connection:
            create_tables(connection)
            outbox.create_tables(connection)

    def add(
        self,
        request: JobRequest,
        *,
        request_id: str,
        key: str | None,
        most_active: int,
        retry_after_s: int,
        content_id: str | None = None,
        upload: tuple[str, str] | None = None,
        owner: str | None = None,
        most_owned: int | None = None,
    ) -> tuple[JobRecord, bool]:
        """A new job of `owner`, queued; or the one that it made with the same idempotency `key`, and False.

        `upload` is the id that the new job gets, below which its image is kept, and the image's SHA-256.

        Raises:
            IdempotencyMismatchError: the key was used with another request.
            OverloadedError: `most_active` jobs are not done yet.
            LimitExceededError: `most_owned` jobs of the owner are not done yet.
        """
        key = owned_key(key, owner)
        job, image = (str(uuid.uuid4()), None) if upload is None else upload
        digest = digest_of(request, image)
        row = {
            "id": job,
            "attempt": 1,
            "status": "queued",
            "request": request.model_dump_json(),
            "label": request.label,
            "request_id": request_id,
            "owner": owner,
            "idempotency_key": key,
            "payload_sha256": digest,
            "content_id": content_id,
            "upload_sha256": image,
            "created_at": time.time(),
            "fields_before": 0,
        }
        try:
            with transaction(self._engine) as connection:
                if (known := job_with(connection, key, digest)) is not None:
                    return self._one(connection, known), False
                _require_queue(connection, owner, most_owned, retry_after_s)
                active = sa.select(sa.func.count()).select_from(JOBS).where(JOBS.c.status.in_(ACTIVE))
                if (connection.scalar(active) or 0) >= most_active:
                    raise OverloadedError(
                        f"{most_active} jobs are not done yet, as many as are kept: send it again later.",
                        retry_after_s=retry_after_s,
                    )
                connection.execute(sa.insert(JOBS).values(row))
                return self._one(connection, job), True
        except sa.exc.IntegrityError:  # another request with the same key was faster
            with transaction(self._engine) as connection:
                return self._one(connection, str(job_with(connection, key, digest))), False

    def made_with(
        self, key: str | None, request: JobRequest, *, image: str | None, owner: str | None
    ) -> JobRecord | None:
        """The job that `owner` made with an idempotency `key`; None: there is none yet.

        `image` is the SHA-256 of an upload. Raises IdempotencyMismatchError as `add` does.
        """
        if key is None:
            return None
        with transaction(self._engine) as connection:
            known = job_with(connection, owned_key(key, owner), digest_of(request, image))
            return None if known is None else self._one(connection, known)

    def get(self, job: str) -> JobRecord:
        """Raises UnknownJobError."""
        if not is_job_id(job):
            raise UnknownJobError(NO_SUCH_JOB)
        with transaction(self._engine) as connection:
            return self._one(connection, job)

    def list(
        self,
        *,
        limit: int,
        before: tuple[float, str] | None = None,
        status: str | None = None,
        label: str | None = None,
        owners: tuple[str | None, ...] = (),
    ) -> tuple[JobRecord, ...]:
        """The newest first, of `owners` or, without any, of all.

        `before`: only those after that job's ``(created_at, id)`` in this order.
        """
        wanted = sa.select(JOBS).order_by(JOBS.c.created_at.desc(), JOBS.c.id.desc()).limit(limit)
        if before is not None:
            wanted = wanted.where(sa.tuple_(JOBS.c.created_at, JOBS.c.id) < sa.tuple_(*map(sa.literal, before)))
        if status is not None:
            wanted = wanted.where(JOBS.c.status == status)
        if label is not None:
            wanted = wanted.where(JOBS.c.label == label)
        if owners:
            wanted = wanted.where(sa.or_(*(JOBS.c.owner.is_not_distinct_from(owner) for owner in owners)))
        with transaction(self._engine) as connection:
            return _read(connection, wanted)

    def require_queue(self, owner: str | None, most: int | None, *, retry_after_s: int) -> None:
        """Raise LimitExceededError when `most` jobs of the owner are not done yet."""
        with transaction(self._engine) as connection:
            _require_queue(connection, owner, most, retry_after_s)

    def owned(self, owner: str | None) -> tuple[str, ...]:
        """The ids of all jobs of an owner."""
        with transaction(self._engine) as connection:
            wanted = sa.select(JOBS.c.id).where(JOBS.c.owner.is_not_distinct_from(owner))
            return tuple(connection.scalars(wanted).all())

    def active(self) -> tuple[JobRecord, ...]:
        """All jobs that are not done, the oldest first."""
        with transaction(self._engine) as connection:
            return _read(connection, sa.select(JOBS).where(JOBS.c.status.in_(ACTIVE)), newest_first=False)

    def counts(self) -> dict[JobStatus, int]:
        """Jobs by status, those without any included; nothing while the database is away."""
        by_status = sa.select(JOBS.c.status, sa.func.count()).group_by(JOBS.c.status)
        try:
            with transaction(self._engine) as connection:
                found = {str(row[0]): int(row[1]) for row in connection.execute(by_status)}
        except (NotReadyError, StorageFullError):
            return {}
        return {status: found.get(status, 0) for status in get_args(JobStatus)}

    def is_current(self, job: str, attempt: int) -> bool:
        """Whether this attempt of a job is not done, cancelled or replaced."""
        with transaction(self._engine) as connection:
            found = connection.execute(
                sa.select(JOBS.c.status, JOBS.c.attempt).where(JOBS.c.id == job)
            ).one_or_none()
        return found is not None and found.status in ACTIVE and found.attempt == attempt

    def start(self, job: str, attempt: int, *, fields_total: int, done: dict[int, int]) -> bool:
        """The job's slide was cut into fields; `done` are the cells of fields that need not be run, by index.

        False, and nothing is changed, where this attempt is not the current one.
        """
        with transaction(self._engine) as connection:
            changed = connection.execute(
                _current(job, attempt).values(
                    status="running",
                    fields_total=fields_total,
                    fields_before=sa.case((JOBS.c.started_at.is_(None), len(done)), else_=JOBS.c.fields_before),
                    started_at=sa.func.coalesce(JOBS.c.started_at, time.time()),
                )
            )
            if changed.rowcount == 1:
                for index, cells in done.items():
                    _put_field(connection, job, index, cells)
            return changed.rowcount == 1

    def finish_field(self, job: str, attempt: int, index: int, cells: int) -> bool:
        """A field is done; whether all of this attempt are. False, and nothing is changed, of another attempt."""
        with transaction(self._engine) as connection:
            # An update, for it locks the row: those who finish fields of a job see each other's, or wait.
            if not connection.execute(_current(job, attempt).values(status="running")).rowcount:
                return False
            _put_field(connection, job, index, cells)
            record = self._one(connection, job)
            return record.fields_total is not None and record.fields_done >= record.fields_total

    def end(
        self,
        job: str,
        attempt: int,
        status: JobStatus,
        failure: Failure | None = None,
        *,
        has_cells: bool | None = None,
    ) -> bool:
        """The job ends as `status`, and its notification is put in the outbox; False where it has ended before."""
        values: dict[str, object] = {"status": status, "finished_at": time.time(), "has_cells": has_cells}
        if failure is not None:
            values |= {"problem": failure.problem, "title": failure.title, "detail": failure.detail}
        with transaction(self._engine) as connection:
            changed = connection.execute(_current(job, attempt).values(values))
            if changed.rowcount == 1 and (target := self._one(connection, job).request.notify) is not None:
                outbox.put(connection, job=job, attempt=attempt, status=status, target=target)
            return changed.rowcount == 1

    def retry(self, job: str) -> JobRecord | None:
        """The job, queued again as its next attempt; None when it has not failed or been cancelled.

        Its fields are forgotten: the slide may be cut into others now, and `start` reports those that are done.
        """
        again = ("started_at", "finished_at", "problem", "title", "detail", "fields_total")
        values: dict[str, object] = dict.fromkeys(again)
        values |= {"status": "queued", "attempt": JOBS.c.attempt + 1, "fields_before": 0}
        can_be = JOBS.c.status.in_(("failed", "cancelled"))
        with transaction(self._engine) as connection:
            if not connection.execute(sa.update(JOBS).where(JOBS.c.id == job, can_be).values(values)).rowcount:
                return None
            connection.execute(sa.delete(FIELDS).where(FIELDS.c.job == job))
            return self._one(connection, job)

    def remove(self, job: str) -> bool:
        """Forget a job that has ended; False where it has not."""
        with transaction(self._engine) as connection:
            gone = connection.execute(sa.delete(JOBS).where(JOBS.c.id == job, JOBS.c.status.in_(ENDED)))
            if gone.rowcount == 1:
                connection.execute(sa.delete(FIELDS).where(FIELDS.c.job == job))
            return gone.rowcount == 1

    def expired(self, *, ended_before: float) -> tuple[str, ...]:
        """The jobs that ended before a time in seconds since 1970."""
        wanted = sa.select(JOBS.c.id).where(JOBS.c.status.in_(ENDED), JOBS.c.finished_at < ended_before)
        with transaction(self._engine) as connection:
            return tuple(connection.scalars(wanted).all())

    def known(self, jobs: Sequence[str]) -> frozenset[str]:
        """Those of `jobs` that exist."""
        with transaction(self._engine) as connection:
            found: set[str] = set()
            for start in range(0, len(jobs), _MOST_PARAMETERS):
                some = jobs[start : start + _MOST_PARAMETERS]
                found.update(connection.scalars(sa.select(JOBS.c.id).where(JOBS.c.id.in_(some))))
            return frozenset(found)

    def backlog(self) -> Backlog | None:
        """What is done and what is left; None while the database is away."""
        is_active = JOBS.c.status.in_(ACTIVE)
        of_fields = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(FIELDS.c.cells), 0))
        done = sa.select(sa.func.count()).select_from(FIELDS.join(JOBS, JOBS.c.id == FIELDS.c.job))
        total = sa.select(sa.func.coalesce(sa.func.sum(JOBS.c.fields_total), 0)).where(is_active)
        oldest = sa.select(sa.func.min(JOBS.c.created_at)).where(is_active)
        taken = sa.select(TALLIES.c.value).where(TALLIES.c.name == TAKE_OVERS)
        try:
            with transaction(self._engine) as connection:
                fields, cells = connection.execute(of_fields).one()
                waiting = (connection.scalar(total) or 0) - (connection.scalar(done.where(is_active)) or 0)
                since = connection.scalar(oldest)
                take_overs = connection.scalar(taken) or 0
        except (NotReadyError, StorageFullError):
            return None
        age_s = 0.0 if since is None else max(time.time() - since, 0.0)
        return Backlog(int(fields), int(cells), max(int(waiting), 0), age_s, int(take_overs))

    def _one(self, connection: sa.Connection, job: str) -> JobRecord:
        found = _read(connection, sa.select(JOBS).where(JOBS.c.id == job))
        if not found:
            raise UnknownJobError(NO_SUCH_JOB)
        return found[0]


def _read(
    connection: sa.Connection, wanted: sa.Select[Any], *, newest_first: bool = True
) -> tuple[JobRecord, ...]:
    """The `wanted` rows of jobs with what is done of their fields, in one statement: they are of one moment."""
    rows = wanted.subquery()
    of_job = FIELDS.c.job == rows.c.id
    done = sa.select(sa.func.count()).select_from(FIELDS).where(of_job).scalar_subquery()
    cells = sa.select(sa.func.coalesce(sa.func.sum(FIELDS.c.cells), 0)).where(of_job).scalar_subquery()
    order = (rows.c.created_at, rows.c.id)
    ordered = sa.select(rows, done.label("fields_done"), cells.label("cells")).order_by(
        *(column.desc() if newest_first else column for column in order)
    )
    return tuple(map(_record, connection.execute(ordered)))


def _record(row: sa.Row[Any]) -> JobRecord:
    return JobRecord(
        id=row.id,
        attempt=row.attempt,
        status=row.status,
        request=JobRequest.model_validate_json(row.request),
        request_id=row.request_id,
        owner=row.owner,
        is_upload=row.upload_sha256 is not None,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        fields_total=row.fields_total,
        fields_before=row.fields_before,
        fields_done=int(row.fields_done),
        cells=int(row.cells),
        content_id=row.content_id,
        has_cells=row.has_cells is not False,
        failure=None if row.problem is None else Failure(row.problem, row.title, row.detail),
    )


def is_job_id(text: str) -> bool:
    """Whether `text` has the form of a job's id; databases reject some text, and not all alike."""
    return _ID.fullmatch(text) is not None


def _require_queue(connection: sa.Connection, owner: str | None, most: int | None, retry_after_s: int) -> None:
    if most is None:
        return
    owned = sa.and_(JOBS.c.owner.is_not_distinct_from(owner), JOBS.c.status.in_(ACTIVE))
    if (connection.scalar(sa.select(sa.func.count()).select_from(JOBS).where(owned)) or 0) >= most:
        raise exceeded("queued_jobs", most, retry_after_s=retry_after_s)


def _current(job: str, attempt: int) -> sa.Update:
    """An update of a job's row while this attempt is not done, cancelled or replaced."""
    return sa.update(JOBS).where(JOBS.c.id == job, JOBS.c.attempt == attempt, JOBS.c.status.in_(ACTIVE))


def _put_field(connection: sa.Connection, job: str, index: int, cells: int) -> None:
    connection.execute(sa.delete(FIELDS).where(FIELDS.c.job == job, FIELDS.c.index == index))
    connection.execute(sa.insert(FIELDS).values(job=job, index=index, cells=cells))
