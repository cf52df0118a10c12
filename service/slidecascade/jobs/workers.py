"""The processes that work on jobs: their heartbeats, and the deaths that a piece of work has seen.

No clock of a database or of another machine takes part. A heartbeat is a number that grows; each process watches
the numbers of the others by its own monotonic clock, so that clocks may differ, jump or be set back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from slidecascade.jobs.database import TAKE_OVERS, TALLIES, Database, create_tables, transaction

_METADATA: Final = sa.MetaData()
_HEARTBEATS: Final = sa.Table(
    "slidecascade_heartbeats",
    _METADATA,
    sa.Column("worker", sa.String(36), primary_key=True),
    sa.Column("beats", sa.BigInteger, nullable=False),
)
_DEATHS: Final = sa.Table(
    "slidecascade_deaths",
    _METADATA,
    sa.Column("work", sa.String(80), primary_key=True),
    sa.Column("deaths", sa.Integer, nullable=False),
)
_ALONE: Final = sa.Table(
    "slidecascade_alone",
    _METADATA,
    sa.Column("worker", sa.String(36), primary_key=True),
    sa.Column("work", sa.String(80), nullable=False),
)
"""What a worker does alone, because others died over it."""


class Workers:
    """The rows of `engine`'s database that tell of processes; the tables are made when needed."""

    def __init__(self, engine: Database) -> None:
        self._engine = engine
        with transaction(engine) as connection:
            create_tables(connection)  # first: on Postgres it lets one process at a time create tables
            _METADATA.create_all(connection)

    def beat(self, worker: str) -> Mapping[str, int]:
        """Record a heartbeat of `worker`; the number of heartbeats of every worker."""
        mine = _HEARTBEATS.c.worker == worker
        with transaction(self._engine) as connection:
            grown = sa.update(_HEARTBEATS).where(mine).values(beats=_HEARTBEATS.c.beats + 1)
            if not connection.execute(grown).rowcount:
                connection.execute(sa.insert(_HEARTBEATS).values(worker=worker, beats=1))
            rows = connection.execute(sa.select(_HEARTBEATS.c.worker, _HEARTBEATS.c.beats))
            return {row.worker: row.beats for row in rows}

    def leave(self, worker: str) -> None:
        """`worker` stops in order: its work can be taken over at once, and none of it is blamed."""
        with transaction(self._engine) as connection:
            connection.execute(sa.delete(_HEARTBEATS).where(_HEARTBEATS.c.worker == worker))
            connection.execute(sa.delete(_ALONE).where(_ALONE.c.worker == worker))

    @contextmanager
    def alone(self, worker: str, work: str) -> Iterator[None]:
        """A block in which `worker` does `work` and nothing else: its death is that work's."""
        mine = sa.delete(_ALONE).where(_ALONE.c.worker == worker)
        with transaction(self._engine) as connection:
            connection.execute(mine)
            connection.execute(sa.insert(_ALONE).values(worker=worker, work=work))
        try:
            yield
        finally:
            with transaction(self._engine) as connection:
                connection.execute(mine)

    def bury(self, worker: str, works: Sequence[str]) -> Mapping[str, int]:
        """`worker` died with `works` in its hands; the deaths that each of them is blamed for.

        Blamed is what it did alone; else all but what waited to be done alone. Whoever removes the heartbeats
        counts the deaths and the take-over, in one transaction, so that a death counts once: several processes may
        notice it, and what follows may fail and be done again.
        """
        with transaction(self._engine) as connection:
            known = connection.execute(sa.select(_DEATHS).where(_DEATHS.c.work.in_(list(works))))
            deaths = dict.fromkeys(works, 0) | {row.work: row.deaths for row in known}
            if not connection.execute(sa.delete(_HEARTBEATS).where(_HEARTBEATS.c.worker == worker)).rowcount:
                return deaths
            alone = connection.scalar(sa.select(_ALONE.c.work).where(_ALONE.c.worker == worker))
            connection.execute(sa.delete(_ALONE).where(_ALONE.c.worker == worker))
            if works:
                _count_take_over(connection)
            for work in _blamed(deaths, alone):
                deaths[work] += 1
                more = sa.update(_DEATHS).where(_DEATHS.c.work == work).values(deaths=_DEATHS.c.deaths + 1)
                if not connection.execute(more).rowcount:
                    connection.execute(sa.insert(_DEATHS).values(work=work, deaths=1))
            return deaths

    def deaths(self, work: str) -> int:
        """The deaths that a piece of work has seen."""
        with transaction(self._engine) as connection:
            return connection.scalar(sa.select(_DEATHS.c.deaths).where(_DEATHS.c.work == work)) or 0

    def forget(self, job: str) -> None:
        """Remove the deaths of a job."""
        with transaction(self._engine) as connection:
            connection.execute(sa.delete(_DEATHS).where(_DEATHS.c.work.startswith(f"{job}.", autoescape=True)))


def _blamed(deaths: Mapping[str, int], alone: str | None) -> list[str]:
    """Of works with the deaths so far: `alone`, or those that are not done alone, or all."""
    if alone is not None and alone in deaths:
        return [alone]
    return [work for work, count in deaths.items() if not count] or list(deaths)


def _count_take_over(connection: sa.Connection) -> None:
    more = sa.update(TALLIES).where(TALLIES.c.name == TAKE_OVERS).values(value=TALLIES.c.value + 1)
    if not connection.execute(more).rowcount:
        connection.execute(sa.insert(TALLIES).values(name=TAKE_OVERS, value=1))


@dataclass(slots=True)
class Liveness:
    """What one process has seen of the heartbeats of the others.

    Args:
        lease_s: a worker whose number does not change for so long is silent.
    """

    lease_s: float
    _seen: dict[str, tuple[int, float]] = field(default_factory=dict)

    def silent(self, beats: Mapping[str, int], now: float) -> frozenset[str]:
        """The workers in `beats` that are silent at `now`, in seconds on this process's monotonic clock."""
        self._seen = {
            worker: seen if (seen := self._seen.get(worker)) is not None and seen[0] == count else (count, now)
            for worker, count in beats.items()
        }
        return frozenset(worker for worker, (_, since) in self._seen.items() if now - since >= self.lease_s)

    def forget(self) -> None:
        """The database was away, for all workers: each has a whole lease from now on."""
        self._seen.clear()
