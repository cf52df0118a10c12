"""The connections of this process: how many there may be, and which of them is looked after next."""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import Final, Protocol

from slidecascade.logs import Throttle

LOG = logging.getLogger(__name__)

_FILES_KEPT: Final = 256
"""Files that are no connections: slides, models, sockets to other servers, and room for a burst."""

_FEWEST: Final = 16


class Waiting(Protocol):
    """A connection as it is seen here."""

    def make_room(self) -> None:
        """Close at once."""
        ...

    def take_turn(self) -> None:
        """Go on reading what has arrived, for a short time."""
        ...


class OpenConnections:
    """At most `limit` connections. Used from the event loop only.

    One that waits for its client, longest first, makes room for a new one: whoever holds connections without
    using them cannot keep others out.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[Waiting] = set()
        self._waiting: dict[Waiting, None] = {}  # in the order in which they began to wait
        self._turns: dict[Waiting, None] = {}
        self._evictions = Throttle(LOG, "connections closed to make room for others")

    def add(self, connection: Waiting) -> bool:
        """Whether there is room for a new connection, which is counted in either case until it is removed."""
        self._open.add(connection)
        if len(self._open) <= self._limit:
            return True
        longest = next(iter(self._waiting), None)
        if longest is None:
            return False
        del self._waiting[longest]
        self._open.discard(longest)
        self._evictions.note()
        longest.make_room()
        return True

    def remove(self, connection: Waiting) -> None:
        self._open.discard(connection)
        self._waiting.pop(connection, None)
        self._turns.pop(connection, None)

    def wait(self, connection: Waiting) -> None:
        """From now on it waits for its client, and may be closed."""
        if connection in self._open:
            self._waiting.pop(connection, None)
            self._waiting[connection] = None

    def work(self, connection: Waiting) -> None:
        """From now on its request is worked on."""
        self._waiting.pop(connection, None)

    def later(self, connection: Waiting) -> None:
        """Have it go on when the others have had their turn; between two turns the event loop does all else."""
        if not self._turns:
            asyncio.get_running_loop().call_soon(self._next)
        self._turns[connection] = None

    def _next(self) -> None:
        connection = next(iter(self._turns), None)
        if connection is None:
            return
        del self._turns[connection]
        if self._turns:
            asyncio.get_running_loop().call_soon(self._next)
        connection.take_turn()


def most_connections(asked: int) -> int:
    """`asked`, or fewer where this process may not open as many files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return asked
    return max(_FEWEST, min(asked, files - _FILES_KEPT))
