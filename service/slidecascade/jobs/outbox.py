"""Notifications that are still to be delivered: a row each, written in the transaction that ends the job.

A process that dies between the end of a job and the delivery, or during it, leaves the row; another one delivers
it under the same id. A notification can therefore arrive twice, and its id states that it is the same one.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast

import sqlalchemy as sa

from slidecascade.errors import NotReadyError, StorageFullError
from slidecascade.jobs.database import Database, transaction

State: TypeAlias = Literal["waiting", "delivered", "dead"]

KEPT_S: Final = 30 * 86_400.0
"""How long delivered and dead notifications are listed, in seconds."""

_NAMESPACE: Final = uuid.UUID("2d1f3ee2-6f5c-4ff2-9c8e-9d3f3a2f7a10")
_METADATA: Final = sa.MetaData()
_OUTBOX: Final = sa.Table(
    "slidecascade_outbox",
    _METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("job", sa.String(36), nullable=False),
    sa.Column("target", sa.String(64), nullable=False),
    sa.Column("event", sa.String(32), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False, index=True),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float),
    sa.Column("error", sa.String(200)),
)


@dataclass(frozen=True, slots=True)
class Notification:
    """The end of a job, to be reported to a target; times in seconds since 1970.

    `id` is the same at every attempt; `attempts` counts those made, `error` is why the last one failed.
    """

    id: str
    job: str
    target: str
    event: str
    created_at: float
    state: State
    attempts: int
    due_at: float
    ended_at: float | None
    error: str | None


def create_tables(connection: sa.Connection) -> None:
    """Create the table unless it exists."""
    _METADATA.create_all(connection)


def put(connection: sa.Connection, *, job: str, attempt: int, status: str, target: str) -> None:
    """Add the notification of a job's end, within the caller's transaction."""
    now = time.time()
    connection.execute(
        sa.insert(_OUTBOX).values(
            id=f"msg_{uuid.uuid5(_NAMESPACE, f'{job} {attempt} {status} {target}').hex}",
            job=job,
            target=target,
            event=f"job.{status}",
            created_at=now,
            state="waiting",
            attempts=0,
            due_at=now,
        )
    )


class Outbox:
    """The notifications in `engine`'s database; every method is one `transaction`, and raises what that does."""

    def __init__(self, engine: Database) -> None:
        self._engine = engine

    def claim(self, *, lease_s: float) -> Notification | None:
        """A notification that is due, for this caller alone for `lease_s` seconds; None: there is none."""
        now = time.time()
        due = (
            sa.select(_OUTBOX)
            .where(_OUTBOX.c.state == "waiting", _OUTBOX.c.due_at <= now)
            .order_by(_OUTBOX.c.due_at)
            .limit(1)
        )
        try:
            with transaction(self._engine) as connection:
                row = connection.execute(due).one_or_none()
                if row is None:
                    return None
                mine = _OUTBOX.c.state == "waiting", _OUTBOX.c.due_at == row.due_at, _OUTBOX.c.id == row.id
                taken = connection.execute(sa.update(_OUTBOX).where(*mine).values(due_at=now + lease_s))
                return _notification(row) if taken.rowcount == 1 else None
        except (
            NotReadyError,
            StorageFullError,
            sa.exc.SQLAlchemyError,
        ):  # the database is away: it is asked again
            return None

    def delivered(self, claimed: Notification) -> None:
        """The target has accepted what was claimed."""
        self._end_attempt(claimed, state="delivered", ended_at=time.time(), error=None)

    def failed(self, claimed: Notification, error: str, *, again_in_s: float | None) -> None:
        """An attempt failed; None: it was the last one."""
        values: dict[str, object] = {"error": error[:200]}
        if again_in_s is None:
            values |= {"state": "dead", "ended_at": time.time()}
        else:
            values |= {"due_at": time.time() + again_in_s}
        self._end_attempt(claimed, **values)

    def resend(self, notification: str) -> Notification | None:
        """A delivered or dead notification, to be delivered again from the first attempt on; None: no such one."""
        if "\0" in notification:  # which Postgres rejects
            return None
        ended = _OUTBOX.c.id == notification, _OUTBOX.c.state != "waiting"
        values = {"state": "waiting", "attempts": 0, "due_at": time.time(), "ended_at": None}
        with transaction(self._engine) as connection:
            connection.execute(sa.update(_OUTBOX).where(*ended).values(values))
            row = connection.execute(sa.select(_OUTBOX).where(_OUTBOX.c.id == notification)).one_or_none()
            return None if row is None else _notification(row)

    def list(self, *, state: str | None, limit: int) -> tuple[Notification, ...]:
        """The newest first."""
        wanted = sa.select(_OUTBOX).order_by(_OUTBOX.c.created_at.desc(), _OUTBOX.c.id).limit(limit)
        if state is not None:
            wanted = wanted.where(_OUTBOX.c.state == state)
        with transaction(self._engine) as connection:
            return tuple(map(_notification, connection.execute(wanted).all()))

    def counts(self) -> dict[str, int]:
        """Notifications by state, those without any included; nothing while the database is away."""
        by_state = sa.select(_OUTBOX.c.state, sa.func.count()).group_by(_OUTBOX.c.state)
        try:
            with transaction(self._engine) as connection:
                found = {str(row[0]): int(row[1]) for row in connection.execute(by_state)}
        except (NotReadyError, StorageFullError):
            return {}
        return {"waiting": 0, "delivered": 0, "dead": 0} | found

    def prune(self) -> None:
        """Forget those that ended `KEPT_S` ago."""
        with transaction(self._engine) as connection:
            connection.execute(sa.delete(_OUTBOX).where(_OUTBOX.c.ended_at < time.time() - KEPT_S))

    def _end_attempt(self, claimed: Notification, **values: object) -> None:
        """Nothing is changed where the attempt outlived its lease, and another one has ended."""
        same = (
            _OUTBOX.c.id == claimed.id,
            _OUTBOX.c.state == "waiting",
            _OUTBOX.c.attempts == claimed.attempts,
        )
        with transaction(self._engine) as connection:
            connection.execute(sa.update(_OUTBOX).where(*same).values(attempts=claimed.attempts + 1, **values))


def _notification(row: sa.Row[tuple[object, ...]]) -> Notification:
    return Notification(
        id=str(row.id),
        job=str(row.job),
        target=str(row.target),
        event=str(row.event),
        created_at=float(row.created_at),
        state=cast("State", row.state),
        attempts=int(row.attempts),
        due_at=float(row.due_at),
        ended_at=None if row.ended_at is None else float(row.ended_at),
        error=row.error,
    )
