"""Group commit: the changes of all who wait for the disk are made in one transaction."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from slidecascade_lis.rejection import RejectedMessageError
from slidecascade_lis.store import Change, Store

T = TypeVar("T")
Act = Callable[[Change], Any]
_MAX_URGENT: Final = 100
"""In one transaction: a bound of how long the first of them waits for the others."""
_MAX_OTHERS: Final = 8
"""In one transaction: a bound of how long an urgent change that comes meanwhile waits for it."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    act: Act
    future: asyncio.Future[Any]
    is_urgent: bool

    def made(self, change: Change) -> Any:
        """What its act returns. A rejected message, which is urgent, is undone alone."""
        if not self.is_urgent:
            return self.act(change)
        try:
            with change.part():
                return self.act(change)
        except RejectedMessageError as error:
            return error


class Commits:
    """Makes changes of the store in a thread of its own: urgent ones, for which a sender waits, before the others,
    else in the order of the calls. While one transaction is written, further changes gather for the next one;
    nobody waits for others to come.

    Attributes:
        transactions: made so far, each with one fsync.
        changes: made so far in these.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._urgent: deque[_Waiting] = deque()
        self._others: deque[_Waiting] = deque()
        self._passed_over = False
        self._writing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commits")
        self.transactions = 0
        self.changes = 0

    async def make(self, act: Callable[[Change], T], *, urgent: bool = False) -> T:
        """What `act` returns, once its changes are on the disk. When it raises, they are undone.

        Raises:
            UnavailableStoreError: the database did not take them.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        (self._urgent if urgent else self._others).append(_Waiting(act, future, urgent))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        return await future

    async def close(self) -> None:
        """Write what waits."""
        if self._writing is not None:
            await self._writing
        self._thread.shutdown()

    async def _write(self) -> None:
        while now := self._next():
            for one, outcome in zip(now, await self._made(now), strict=True):
                if one.future.done():  # its caller was cancelled
                    continue
                if isinstance(outcome, BaseException):
                    one.future.set_exception(outcome)
                else:
                    one.future.set_result(outcome)

    def _next(self) -> list[_Waiting]:
        """The changes of the next transaction: urgent ones alone, but no more than once while others wait."""
        now = _taken(self._urgent, _MAX_URGENT)
        if not now or self._passed_over:
            now += _taken(self._others, _MAX_OTHERS)
            self._passed_over = False
        else:
            self._passed_over = bool(self._others)
        return now

    async def _made(self, now: Sequence[_Waiting]) -> Sequence[Any]:
        """What each returned or raised. When a transaction fails, each is tried alone: one may be to blame."""
        made = await asyncio.gather(self._in_thread(now), return_exceptions=True)
        outcomes: Sequence[Any] | BaseException = made[0]
        if not isinstance(outcomes, BaseException):
            return outcomes
        if len(now) == 1:
            return [outcomes]
        alone = await asyncio.gather(*(self._in_thread([one]) for one in now), return_exceptions=True)
        return [outcome if isinstance(outcome, BaseException) else outcome[0] for outcome in alone]

    async def _in_thread(self, now: Sequence[_Waiting]) -> Sequence[Any]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._commit, now)

    def _commit(self, now: Sequence[_Waiting]) -> Sequence[Any]:
        with self._store.transaction() as change:
            outcomes = [one.act(change) for one in now] if len(now) == 1 else [one.made(change) for one in now]
        self.transactions += 1
        self.changes += len(now)
        return outcomes


def _taken(waiting: deque[_Waiting], limit: int) -> list[_Waiting]:
    return [waiting.popleft() for _ in range(min(limit, len(waiting)))]
