"""What the bridge must not lose: messages, orders and the outbox. The methods of `Change` are parts of one
transaction. Columns in `SEALED` are encrypted where there is a key.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa

from slidecascade.errors import SlideCascadeError
from slidecascade_lis.config import Store as StoreConfig
from slidecascade_lis.database import MESSAGES, METADATA, ORDERS, OUTBOX, open_engine
from slidecascade_lis.orders import Analysis
from slidecascade_lis.records import (
    ACTIVE,
    Figures,
    MessageRecord,
    OrderRecord,
    OrderState,
    Outgoing,
    Taken,
    Undelivered,
)
from slidecascade_lis.seal import Seal, read_seal

SEALED: Final = (
    (MESSAGES, MESSAGES.c.id, (MESSAGES.c.content, MESSAGES.c.reply, MESSAGES.c.sha256)),
    (ORDERS, ORDERS.c.id, (ORDERS.c.analysis, ORDERS.c.context)),
    (OUTBOX, OUTBOX.c.position, (OUTBOX.c.content,)),
)
_BATCH: Final = 500


class UnavailableStoreError(SlideCascadeError):
    """The database did not take a change, e.g. because the disk is full: the same may succeed later."""

    problem, title = "unavailable-store", "Unavailable store"


class Store:
    """The tables at `database`: an SQLite file, or the URL of a Postgres database.

    Raises:
        UnavailableStoreError: by every method, when the database cannot be used.
        SettingsError: `seal` has not the key of what is stored.
    """

    def __init__(self, database: str, *, busy_timeout_s: float = 10.0, seal: Seal | None = None) -> None:
        self._turn = threading.Lock()
        """SQLite has one writer: waiting here is faster than its own polling."""
        self._seal = seal or Seal()
        self._engine = open_engine(database, busy_timeout_s)
        with self.transaction() as change:
            change.make_tables()
            change.messages(limit=1)

    @contextmanager
    def transaction(self) -> Iterator[Change]:
        """All changes are committed at the end, or none of them after an exception."""
        try:
            with self._turn, self._engine.begin() as connection:
                yield Change(connection, self._seal)
        except sa.exc.SQLAlchemyError as error:
            raise UnavailableStoreError("The database of the bridge cannot be used: check its disk.") from error

    @contextmanager
    def snapshot(self) -> Iterator[Change]:
        """For reading only: waits for no writer."""
        try:
            with self._engine.connect().execution_options(reading=True) as connection:
                yield Change(connection, self._seal)
        except sa.exc.SQLAlchemyError as error:
            raise UnavailableStoreError("The database of the bridge cannot be read: check its disk.") from error

    def close(self) -> None:
        self._engine.dispose()


class Change:
    """The statements of one transaction."""

    def __init__(self, connection: sa.Connection, seal: Seal) -> None:
        self._connection = connection
        self._seal = seal

    @contextmanager
    def part(self) -> Iterator[None]:
        """A part that is undone alone when it raises."""
        with self._connection.begin_nested():
            yield

    def make_tables(self) -> None:
        if (
            self._connection.dialect.name == "postgresql"
        ):  # two processes that start together must not both make them
            self._connection.execute(sa.text("SELECT pg_advisory_xact_lock(7305813)"))
        METADATA.create_all(self._connection)
        if self._connection.dialect.name == "postgresql":  # tables made before digests could be encrypted
            self._connection.execute(sa.text(f"ALTER TABLE {MESSAGES.name} ALTER COLUMN sha256 TYPE TEXT"))

    def lock_sender(self, sender: str) -> None:
        """Let other bridges on the same Postgres wait with messages of `sender`; SQLite has one writer anyway."""
        if self._connection.dialect.name == "postgresql":
            self._connection.execute(
                sa.text("SELECT pg_advisory_xact_lock(7305814, hashtext(:key))"), {"key": sender}
            )

    def known(self, sender: str, control_id: str) -> MessageRecord | None:
        """The message that `sender` sent with this control id."""
        where = (MESSAGES.c.sender == sender) & (MESSAGES.c.control_id == control_id)
        row = self._connection.execute(sa.select(MESSAGES).where(where)).one_or_none()
        return None if row is None else self._message(row)

    def message(self, message_id: str) -> MessageRecord | None:
        row = self._connection.execute(sa.select(MESSAGES).where(MESSAGES.c.id == message_id)).one_or_none()
        return None if row is None else self._message(row)

    def messages(self, *, limit: int) -> tuple[MessageRecord, ...]:
        """The newest first."""
        rows = self._connection.execute(sa.select(MESSAGES).order_by(MESSAGES.c.received_at.desc()).limit(limit))
        return tuple(map(self._message, rows))

    def put_message(
        self, taken: Taken, *, accepted: bool, reply: str, replaced: MessageRecord | None = None
    ) -> None:
        """Keep a message and its reply; it takes place and answers of a rejected one with its control id."""
        if replaced is not None:
            answers = sa.update(OUTBOX).where(OUTBOX.c.message_id == replaced.id)
            self._connection.execute(answers.values(message_id=taken.id))
            self._connection.execute(sa.delete(MESSAGES).where(MESSAGES.c.id == replaced.id))
        self._connection.execute(
            sa.insert(MESSAGES).values(
                id=taken.id,
                sender=taken.sender,
                control_id=taken.control_id,
                sha256=self._seal.sealed(taken.sha256),
                kind=taken.kind,
                accepted=accepted,
                received_at=time.time(),
                content=self._seal.sealed(taken.content),
                reply=self._seal.sealed(reply),
            )
        )

    def add_order(self, order: OrderRecord) -> None:
        self._connection.execute(
            sa.insert(ORDERS).values(
                id=order.id,
                message_id=order.message_id,
                sender=order.sender,
                placer=order.placer,
                receiver=order.receiver,
                state=order.state,
                priority=order.analysis.priority,
                analysis=self._seal.sealed(order.analysis.model_dump_json()),
                context=self._seal.sealed(order.context),
                processing=order.processing,
                job_id=None,
                stop=False,
                attempts=0,
                next_at=0.0,
                created_at=order.created_at,
            )
        )

    def orders_of(self, sender: str, placer: str) -> tuple[OrderRecord, ...]:
        """All that a sender ordered with a number, the oldest first."""
        return self._orders((ORDERS.c.sender == sender) & (ORDERS.c.placer == placer))

    def orders_in(self, message_id: str) -> tuple[OrderRecord, ...]:
        return self._orders(ORDERS.c.message_id == message_id)

    def order(self, order_id: str) -> OrderRecord | None:
        return next(iter(self._orders(ORDERS.c.id == order_id)), None)

    def due(self, *, limit: int, longest_wait_s: float) -> tuple[OrderRecord, ...]:
        """Orders to submit now, the greatest priority, then the oldest, first. From now on the service may have
        their jobs. Nothing was postponed by more than `longest_wait_s`: see `_is_due`."""
        wanted = (
            sa.select(ORDERS)
            .where(_is_due(longest_wait_s))
            .order_by(ORDERS.c.priority.desc(), ORDERS.c.created_at)
            .limit(limit)
        )
        orders = tuple(map(self._order, self._connection.execute(wanted)))
        new = [order.id for order in orders if order.state == "accepted"]
        if new:
            self._connection.execute(sa.update(ORDERS).where(ORDERS.c.id.in_(new)).values(state="submitting"))
        return orders

    def has_due(self, *, longest_wait_s: float) -> bool:
        wanted = sa.select(ORDERS.c.id).where(_is_due(longest_wait_s)).limit(1)
        return self._connection.execute(wanted).first() is not None

    def submitted(self) -> tuple[OrderRecord, ...]:
        return self._orders(ORDERS.c.state == "submitted")

    def to_stop(self) -> tuple[OrderRecord, ...]:
        """Cancelled orders whose jobs have to be cancelled."""
        return self._orders(ORDERS.c.stop.is_(True))

    def set_job(self, order_id: str, job_id: str) -> bool:
        """The service has the job; False if the order was cancelled meanwhile, which keeps the job's id."""
        if self._update(order_id, ("submitting",), state="submitted", job_id=job_id, attempts=0):
            return True
        self._update(order_id, ("cancelled",), job_id=job_id)
        return False

    def postpone(self, order_id: str, *, next_at: float) -> None:
        """Try an order that could not be submitted again at a time."""
        self._update(order_id, ACTIVE, next_at=next_at, attempts=ORDERS.c.attempts + 1)

    def end_order(self, order_id: str, state: OrderState, *, stop: bool = False) -> bool:
        """An order ends; False where it has ended before. `stop`: its job has to be cancelled."""
        return self._update(order_id, ACTIVE, state=state, stop=stop, ended_at=time.time())

    def stopped(self, order_id: str) -> None:
        """Nothing is left to cancel on the service."""
        self._connection.execute(sa.update(ORDERS).where(ORDERS.c.id == order_id).values(stop=False))

    def put_outgoing(self, outgoing: Sequence[Outgoing]) -> None:
        """Append to the outbox."""
        for one in outgoing:
            self._connection.execute(
                sa.insert(OUTBOX).values(
                    control_id=one.control_id,
                    message_id=one.message_id,
                    order_id=one.order_id,
                    receiver=one.receiver,
                    content=self._seal.sealed(one.content),
                    state="pending",
                    attempts=0,
                    next_at=0.0,
                    created_at=time.time(),
                )
            )

    def undelivered(self, receiver: str, *, limit: int) -> tuple[Undelivered, ...]:
        """The oldest messages for a receiver, which have to be delivered in this order."""
        wanted = (
            sa.select(OUTBOX)
            .where(OUTBOX.c.receiver == receiver, OUTBOX.c.state == "pending")
            .order_by(OUTBOX.c.position)
            .limit(limit)
        )
        return tuple(map(self._undelivered, self._connection.execute(wanted)))

    def outgoing(self, *, message_id: str | None = None, states: Sequence[str] = ()) -> tuple[Undelivered, ...]:
        """Messages of the outbox, the oldest first."""
        wanted = sa.select(OUTBOX).order_by(OUTBOX.c.position)
        if message_id is not None:
            wanted = wanted.where(OUTBOX.c.message_id == message_id)
        if states:
            wanted = wanted.where(OUTBOX.c.state.in_(states))
        return tuple(map(self._undelivered, self._connection.execute(wanted)))

    def awaited_receivers(self) -> Mapping[str, int]:
        """How many orders that have not ended and pending answers each receiver is to be sent, by its name."""
        orders = sa.select(ORDERS.c.receiver).where(ORDERS.c.state.in_(ACTIVE))
        answers = sa.select(OUTBOX.c.receiver).where(OUTBOX.c.state == "pending")
        names = sa.union_all(orders, answers).subquery()
        counted = sa.select(names.c.receiver, sa.func.count()).group_by(names.c.receiver)
        return {row[0]: row[1] for row in self._connection.execute(counted)}

    def delivered(self, positions: Sequence[int]) -> None:
        self._set_outgoing(positions, state="delivered", reason=None, attempts=OUTBOX.c.attempts + 1)

    def not_delivered(self, position: int, *, next_at: float, reason: str) -> None:
        self._set_outgoing((position,), next_at=next_at, reason=reason, attempts=OUTBOX.c.attempts + 1)

    def dead(self, position: int, *, reason: str) -> None:
        """Give a message up; it is listed until it is sent again."""
        self._set_outgoing((position,), state="dead", reason=reason, attempts=OUTBOX.c.attempts + 1)

    def resend(self, identifier: str) -> int:
        """Queue answers again, by control id or by the id of their message or order; the number of them."""
        found = sa.or_(
            OUTBOX.c.control_id == identifier,
            OUTBOX.c.message_id == identifier,
            OUTBOX.c.order_id == identifier,
        )
        changed = self._connection.execute(
            sa.update(OUTBOX)
            .where(found)
            .values(state="pending", attempts=0, next_at=0.0, reason=None, created_at=time.time())
        )
        return changed.rowcount

    def forget(self, *, before: float) -> int:
        """Delete messages received before a time, unless an order or answer of them is not finished."""
        unfinished = sa.union_all(
            sa.select(ORDERS.c.message_id).where(sa.or_(ORDERS.c.state.in_(ACTIVE), ORDERS.c.stop.is_(True))),
            sa.select(OUTBOX.c.message_id).where(OUTBOX.c.state != "delivered"),
        )
        old = sa.select(MESSAGES.c.id).where(MESSAGES.c.received_at < before, MESSAGES.c.id.not_in(unfinished))
        ids = list(self._connection.scalars(old.limit(500)))
        for table, column in (
            (OUTBOX, OUTBOX.c.message_id),
            (ORDERS, ORDERS.c.message_id),
            (MESSAGES, MESSAGES.c.id),
        ):
            self._connection.execute(sa.delete(table).where(column.in_(ids)))
        return len(ids)

    def _orders(self, where: sa.ColumnElement[bool]) -> tuple[OrderRecord, ...]:
        rows = self._connection.execute(sa.select(ORDERS).where(where).order_by(ORDERS.c.created_at))
        return tuple(map(self._order, rows))

    def _update(self, order_id: str, states: Sequence[str], **values: object) -> bool:
        where = (ORDERS.c.id == order_id) & ORDERS.c.state.in_(states)
        return self._connection.execute(sa.update(ORDERS).where(where).values(values)).rowcount == 1

    def _set_outgoing(self, positions: Sequence[int], **values: object) -> None:
        self._connection.execute(sa.update(OUTBOX).where(OUTBOX.c.position.in_(positions)).values(values))

    def seal_again(self, after: Sequence[Any]) -> Sequence[Any]:
        """Encrypt the next stored texts with the current key; `after` is what the last call returned, at first an
        empty one. Empty: all are done."""
        place, last = after or (0, None)
        table, key, columns = SEALED[place]
        wanted = sa.select(key.label("key"), *columns).order_by(key).limit(_BATCH)
        rows = self._connection.execute(wanted if last is None else wanted.where(key > last)).all()
        for row in rows:
            texts = {column.name: self._seal.sealed(self._seal.opened(row._mapping[column])) for column in columns}
            self._connection.execute(sa.update(table).where(key == row.key).values(texts))
        if rows:
            return (place, rows[-1].key)
        return () if place + 1 == len(SEALED) else (place + 1, None)

    def figures(self) -> Figures:
        """What there is, for metrics."""
        orders = self._connection.execute(sa.select(ORDERS.c.state, sa.func.count()).group_by(ORDERS.c.state))
        waiting = (
            sa.select(OUTBOX.c.receiver, OUTBOX.c.state, sa.func.count(), sa.func.min(OUTBOX.c.created_at))
            .where(OUTBOX.c.state.in_(("pending", "dead")))
            .group_by(OUTBOX.c.receiver, OUTBOX.c.state)
        )
        outbox = self._connection.execute(waiting).all()
        return Figures(
            orders={row[0]: row[1] for row in orders},
            outbox={(receiver, state): count for receiver, state, count, _ in outbox},
            oldest_at={receiver: oldest for receiver, state, _, oldest in outbox if state == "pending"},
        )

    def _message(self, row: Any) -> MessageRecord:
        return MessageRecord(
            id=row.id,
            sender=row.sender,
            control_id=row.control_id,
            sha256=self._seal.opened(row.sha256),
            kind=row.kind,
            accepted=row.accepted,
            received_at=row.received_at,
            content=self._seal.opened(row.content),
            reply=self._seal.opened(row.reply),
        )

    def _order(self, row: Any) -> OrderRecord:
        return OrderRecord(
            id=row.id,
            message_id=row.message_id,
            sender=row.sender,
            placer=row.placer,
            receiver=row.receiver,
            state=row.state,
            analysis=Analysis.model_validate_json(self._seal.opened(row.analysis)),
            context=self._seal.opened(row.context),
            processing=row.processing,
            job_id=row.job_id,
            attempts=row.attempts,
            created_at=row.created_at,
            ended_at=row.ended_at,
        )

    def _undelivered(self, row: Any) -> Undelivered:
        return Undelivered(
            position=row.position,
            control_id=row.control_id,
            message_id=row.message_id,
            order_id=row.order_id,
            receiver=row.receiver,
            content=self._seal.opened(row.content),
            state=row.state,
            attempts=row.attempts,
            next_at=row.next_at,
            created_at=row.created_at,
            reason=row.reason,
        )


def open_store(config: StoreConfig) -> Store:
    """The store as configured.

    Raises:
        UnavailableStoreError: the database cannot be used.
        SettingsError: it is encrypted with a key that is not in the key file.
    """
    return Store(config.database, busy_timeout_s=config.busy_timeout_s, seal=read_seal(config.key_file))


def _is_due(longest_wait_s: float) -> sa.ColumnElement[bool]:
    """Orders whose time has come, or is further away than any wait: written before the clock was set back."""
    now = time.time()
    is_time = (ORDERS.c.next_at <= now) | (ORDERS.c.next_at > now + longest_wait_s)
    return ORDERS.c.state.in_(("accepted", "submitting")) & is_time
