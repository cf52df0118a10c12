"""The tables of jobs, and bringing those of an earlier version up to date."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

METADATA: Final = sa.MetaData()
JOBS: Final = sa.Table(
    "slidecascade_jobs",
    METADATA,
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
)
FIELDS: Final = sa.Table(
    "slidecascade_fields",
    METADATA,
    sa.Column("job", sa.String(36), primary_key=True),
    sa.Column("index", sa.Integer, primary_key=True),
    sa.Column("cells", sa.Integer, nullable=False),
)
TALLIES: Final = sa.Table(
    "slidecascade_tallies",
    METADATA,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)


def create_tables(connection: sa.Connection) -> None:
    """Make the tables that are missing, and the columns that later versions have added to them.

    Added columns may be empty: rows of an earlier version have no value for them.
    """
    METADATA.create_all(connection)
    inspector = sa.inspect(connection)
    for table in METADATA.sorted_tables:
        known = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in known:
                kind = column.type.compile(connection.dialect)
                connection.execute(sa.text(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}"))
        for index in table.indexes:
            index.create(connection, checkfirst=True)
