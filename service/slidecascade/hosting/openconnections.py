"""The open connections of this process: their limit, eviction of idle ones, and parsing turns."""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import Final, Protocol

from slidecascade.logs import Throttle

LOG = logging.getLogger(__name__)

_RESERVED_FILES: Final = 256
"""File descriptors reserved for other uses: models, sockets to other servers, and a margin for bursts."""

_MIN_CONNECTIONS: Final = 16


class EvictableConnection(Protocol):
    """A connection that can be closed to make room and that parses its data in turns."""

    def evict(self) -> None:
        """Close at once."""
        ...

    def take_turn(self) -> None:
        """Continue parsing received data, for a short time."""
        ...


class OpenConnections:
    """Holds at most `limit` connections. Used from the event loop only.

    At the limit, the connection that has waited longest for its client is closed, so that idle connections cannot
    exclude new ones.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[EvictableConnection] = set()
        self._waiting: dict[EvictableConnection, None] = {}  # in the order in which they began to wait
        self._turns: dict[EvictableConnection, None] = {}
        self._evictions = Throttle(LOG, "connections closed to make room for others")

    def add(self, connection: EvictableConnection) -> bool:
        """Add a new connection; whether it is within the limit. It counts until `remove` in either case."""
        self._open.add(connection)
        if len(self._open) <= self._limit:
            return True
        longest = next(iter(self._waiting), None)
        if longest is None:
            return False
        del self._waiting[longest]
        self._open.discard(longest)
        self._evictions.note()
        longest.evict()
        return True

    def remove(self, connection: EvictableConnection) -> None:
        self._open.discard(connection)
        self._waiting.pop(connection, None)
        self._turns.pop(connection, None)

    def mark_waiting(self, connection: EvictableConnection) -> None:
        """Mark it as waiting for its client; it may be closed to make room."""
        if connection in self._open:
            self._waiting.pop(connection, None)
            self._waiting[connection] = None

    def mark_busy(self, connection: EvictableConnection) -> None:
        """Mark it as having a request in progress."""
        self._waiting.pop(connection, None)

    def schedule_turn(self, connection: EvictableConnection) -> None:
        """Schedule its next turn, round robin; the event loop runs other work between two turns."""
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


def most_connections(requested: int, *, slide_files: int = 0) -> int:
    """`requested`, or fewer if the limit of open files of this process is lower.

    Args:
        slide_files: descriptors that slides may take. They leave half of what is there to connections.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return requested
    free = files - _RESERVED_FILES
    return max(_MIN_CONNECTIONS, min(requested, free - min(slide_files, free // 2)))
