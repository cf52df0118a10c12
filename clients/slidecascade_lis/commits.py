"""Group commit: the changes of all who wait for the disk are made in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from slidecascade_lis.rejection import RejectedMessageError
from slidecascade_lis.store import Change, Store

T = TypeVar("T")
Act = Callable[[Change], Any]
_MAX_CHANGES: Final = 100
"""In one transaction: a bound of how long the first of them waits for the others."""


class Commits:
    """Makes changes of the store, in the order of the calls, in a thread of its own. While one transaction is
    written, further changes gather for the next one; nobody waits for others to come.

    Attributes:
        transactions: made so far, each with one fsync.
        changes: made so far in these.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[tuple[Act, asyncio.Future[Any]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commits")
        self.transactions = 0
        self.changes = 0

    async def make(self, act: Callable[[Change], T]) -> T:
        """What `act` returns, once its changes are on the disk. When it raises, they are undone.

        Raises:
            UnavailableStoreError: the database did not take them.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((act, future))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        return await future

    async def close(self) -> None:
        """Write what waits."""
        if self._writing is not None:
            await self._writing
        self._thread.shutdown()

    async def _write(self) -> None:
        while self._waiting:
            now, self._waiting = self._waiting[:_MAX_CHANGES], self._waiting[_MAX_CHANGES:]
            for (_, future), outcome in zip(now, await self._made([act for act, _ in now]), strict=True):
                if future.done():  # its caller was cancelled
                    continue
                if isinstance(outcome, BaseException):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

    async def _made(self, acts: Sequence[Act]) -> Sequence[Any]:
        """What each returned or raised. When a transaction fails, each is tried alone: one may be to blame."""
        made = await asyncio.gather(self._in_thread(acts), return_exceptions=True)
        outcomes: Sequence[Any] | BaseException = made[0]
        if not isinstance(outcomes, BaseException):
            return outcomes
        if len(acts) == 1:
            return [outcomes]
        alone = await asyncio.gather(*(self._in_thread([act]) for act in acts), return_exceptions=True)
        return [outcome if isinstance(outcome, BaseException) else outcome[0] for outcome in alone]

    async def _in_thread(self, acts: Sequence[Act]) -> Sequence[Any]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._commit, acts)

    def _commit(self, acts: Sequence[Act]) -> Sequence[Any]:
        with self._store.transaction() as change:
            outcomes = [act(change) for act in acts] if len(acts) == 1 else [_part(change, act) for act in acts]
        self.transactions += 1
        self.changes += len(acts)
        return outcomes


def _part(change: Change, act: Act) -> Any:
    try:
        with change.part():
            return act(change)
    except RejectedMessageError as error:
        return error
