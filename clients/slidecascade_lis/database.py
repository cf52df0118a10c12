"""The tables of the bridge and their database.

SQLite in one file (WAL, ``synchronous=FULL``: a commit returns after fsync), or Postgres.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

METADATA: Final = sa.MetaData()
MESSAGES: Final = sa.Table(
    "slidecascade_lis_messages",
    METADATA,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("sender", sa.String(500), nullable=False),
    sa.Column("control_id", sa.String(200), nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("accepted", sa.Boolean, nullable=False),
    sa.Column("received_at", sa.Float, nullable=False, index=True),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("reply", sa.Text, nullable=False),
    sa.UniqueConstraint("sender", "control_id"),
)
ORDERS: Final = sa.Table(
    "slidecascade_lis_orders",
    METADATA,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("message_id", sa.String(36), nullable=False, index=True),
    sa.Column("sender", sa.String(500), nullable=False),
    sa.Column("placer", sa.String(200), nullable=False),
    sa.Column("receiver", sa.String(100), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("analysis", sa.Text, nullable=False),
    sa.Column("context", sa.Text, nullable=False),
    sa.Column("processing", sa.String(3), nullable=False),
    sa.Column("job_id", sa.String(64)),
    sa.Column("stop", sa.Boolean, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_at", sa.Float, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float, index=True),
    sa.Index("ix_slidecascade_lis_orders_placer", "sender", "placer"),
)
OUTBOX: Final = sa.Table(
    "slidecascade_lis_outbox",
    METADATA,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("control_id", sa.String(20), nullable=False, unique=True),
    sa.Column("message_id", sa.String(36), nullable=False, index=True),
    sa.Column("order_id", sa.String(36), index=True),
    sa.Column("receiver", sa.String(100), nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_at", sa.Float, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("reason", sa.String(200)),
    sa.Index("ix_slidecascade_lis_outbox_next", "receiver", "state", "position"),
    sqlite_autoincrement=True,
)


def open_engine(database: str, busy_timeout_s: float) -> sa.Engine:
    """An SQLite file, readable by its owner alone, or a Postgres database by its URL."""
    if "://" in database:
        return sa.create_engine(database, pool_pre_ping=True)
    path = Path(database)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    engine = sa.create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": busy_timeout_s, "check_same_thread": False, "isolation_level": None},
    )

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A transaction that reads first and then waits for the writer's lock would fail.
        reading = connection.get_execution_options().get("reading", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine
