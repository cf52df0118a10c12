"""The database of jobs: its tables, and how it is opened and used. SQLite in one file, in WAL mode, or Postgres.

A database that is away raises NotReadyError, and one whose disk is full StorageFullError.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import sqlalchemy as sa

from slidecascade.errors import NotReadyError, StorageFullError

Database: TypeAlias = sa.Engine
"""Where jobs are kept."""

RETRY_AFTER_S: Final = 2
_IMPATIENT: Final = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""For Postgres: after ten seconds without an answer a connection is lost; by default it takes a quarter of an hour
to notice that the network was cut."""

_BUSY_S: Final = 30.0
"""How long SQLite waits for another writer."""

_METADATA: Final = sa.MetaData()
JOBS: Final = sa.Table(
    "slidecascade_jobs",
    _METADATA,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("status", sa.String(16), nullable=False, index=True),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("label", sa.String(200), index=True),
    sa.Column("request_id", sa.String(64), nullable=False),
    sa.Column("owner", sa.String(300), index=True),
    sa.Column("idempotency_key", sa.String(255), unique=True),
    sa.Column("payload_sha256", sa.String(64), nullable=False),
    sa.Column("content_id", sa.String(64)),
    sa.Column("upload_sha256", sa.String(64)),
    sa.Column("created_at", sa.Float, nullable=False, index=True),
    sa.Column("started_at", sa.Float),
    sa.Column("finished_at", sa.Float),
    sa.Column("fields_total", sa.Integer),
    sa.Column("fields_before", sa.Integer, nullable=False),
    sa.Column("problem", sa.String(64)),
    sa.Column("title", sa.String(200)),
    sa.Column("detail", sa.Text),
    sa.Column("has_cells", sa.Boolean),
)
FIELDS: Final = sa.Table(
    "slidecascade_fields",
    _METADATA,
    sa.Column("job", sa.String(36), primary_key=True),
    sa.Column("index", sa.Integer, primary_key=True),
    sa.Column("cells", sa.Integer, nullable=False),
)
TALLIES: Final = sa.Table(
    "slidecascade_tallies",
    _METADATA,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
TAKE_OVERS: Final = "take-overs"
"""The row of `TALLIES` that counts dead processes whose work was taken over."""


def open_database(url: str | None, folder: Path) -> Database:
    """The database at `url`; None: an SQLite file in `folder`, which exists."""
    if url is not None:
        return sa.create_engine(url, pool_pre_ping=True, pool_size=20, connect_args=_IMPATIENT)
    engine = sa.create_engine(
        f"sqlite:///{folder / 'jobs.sqlite'}", connect_args={"timeout": _BUSY_S, "check_same_thread": False}
    )

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={int(_BUSY_S * 1000)}"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


@contextmanager
def database_errors() -> Iterator[None]:
    """Convert errors of a database that cannot be used now.

    Raises:
        NotReadyError: it cannot be reached, or is restarting.
        StorageFullError: it has no room.
    """
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
        if "is full" in str(error) or "No space left" in str(error):
            raise StorageFullError("The disk of the database of jobs is full: free disk space.") from error
        raise NotReadyError(
            "The database of jobs cannot be reached: check it, and try again later.", retry_after_s=RETRY_AFTER_S
        ) from error


@contextmanager
def transaction(engine: Database) -> Iterator[sa.Connection]:
    """A transaction, which is committed when the block succeeds; raises as `database_errors` does."""
    with database_errors(), engine.begin() as connection:
        yield connection


def create_tables(connection: sa.Connection) -> None:
    """Create those tables that do not exist, and the columns and indexes that later versions have added to them.

    Added columns are empty in the rows of an earlier version.
    """
    if connection.dialect.name == "postgresql":  # two processes that start together must not both create them
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(7305812)"))
    _METADATA.create_all(connection)
    inspector = sa.inspect(connection)
    for table in _METADATA.sorted_tables:
        known = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in known:
                kind = column.type.compile(connection.dialect)
                connection.execute(sa.text(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}"))
        for index in table.indexes:
            index.create(connection, checkfirst=True)
