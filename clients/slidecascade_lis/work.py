"""Runs orders as jobs of the service: submits, follows, ends and cancels them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from slidecascade_client import (
    AccessDeniedError,
    AsyncClient,
    AsyncJob,
    RequestRefusedError,
    SlideCascadeClientError,
    UnknownJobError,
    UnknownSlideError,
)
from slidecascade_lis.commits import Commits
from slidecascade_lis.config import LisConfig
from slidecascade_lis.outcome import Outcome, cancelled, failed, succeeded
from slidecascade_lis.pictures import picture_of
from slidecascade_lis.records import OrderRecord, OrderState
from slidecascade_lis.refusals import is_final
from slidecascade_lis.results import result_messages
from slidecascade_lis.store import Change, Store, UnavailableStoreError

LOG = logging.getLogger("slidecascade.lis")
_FIRST_RETRY_S: Final = 0.5
_MAX_RETRY_S: Final = 60.0
_CLEAN_S: Final = 3600.0

_BATCH: Final = 100
_TOGETHER: Final = 3
"""Requests at a time: more of them would keep the event loop, and with it acknowledgements, waiting."""

Step = Callable[[Change], object]
"""A change of the store that follows from an answer of the service."""

Act = Callable[[OrderRecord], Awaitable[Step | None]]
JobAnswer = AsyncJob | SlideCascadeClientError


class Work:
    """Every order is one job: its id is the idempotency key, so a repeated submission finds the same job.

    `answered` is called after messages were added to the outbox.
    """

    def __init__(
        self,
        config: LisConfig,
        store: Store,
        commits: Commits,
        client: AsyncClient,
        *,
        answered: Callable[[], None],
    ) -> None:
        self._config = config
        self._longest_wait_s = max(_MAX_RETRY_S, config.orders.slide_retry_s)
        self._store = store
        self._commits = commits
        self._client = client
        self._answered = answered
        self._wake = asyncio.Event()
        self._few = asyncio.Semaphore(_TOGETHER)
        self._clean_at = 0.0

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self._round()
            except UnavailableStoreError:
                LOG.error("orders cannot be read or changed")
            await self._pause()

    async def _round(self) -> None:
        """One look at all unfinished orders."""
        to_stop, running, has_due = await asyncio.to_thread(self._unfinished)
        await self._each(self._stop, to_stop)
        await self._each(self._follow, running)
        if has_due and (due := await self._commits.make(self._due)):
            await self._submit_all(due)
        await asyncio.to_thread(self._clean)

    async def _each(self, act: Act, orders: Sequence[OrderRecord]) -> None:
        """Ask the service about all orders at once, and store what came of it."""
        steps = await asyncio.gather(*(self._guarded(act, order) for order in orders))
        await self._store_all([step for step in steps if step is not None])

    async def _store_all(self, steps: Sequence[Step]) -> None:
        """Each is a change of its own: a message that comes meanwhile waits for few of them."""
        if steps:
            await asyncio.gather(*map(self._commits.make, steps))
            self._answered()

    async def _guarded(self, act: Act, order: OrderRecord) -> Step | None:
        """The worker boundary: an order that raises something unforeseen fails, and the others go on."""
        try:
            async with self._few:
                return await act(order)
        except Exception:
            LOG.exception("an order failed", extra={"fields": {"order_id": order.id}})
            return self._given_up(order)

    def _given_up(self, order: OrderRecord) -> Step:
        """End an order as failed; one whose answer cannot be written either is postponed."""
        try:
            return self._end(order, "failed", failed("The bridge failed on this order: its log has the cause."))
        except Exception:
            LOG.exception("an order cannot be ended", extra={"fields": {"order_id": order.id}})
            return _postpone(order)

    async def _submit_all(self, orders: Sequence[OrderRecord]) -> None:
        """Submit orders together, and store what came of it."""
        answers: dict[str, JobAnswer] = {}
        for start in range(0, len(orders), _BATCH):
            some = orders[start : start + _BATCH]
            answers |= zip((order.id for order in some), await self._jobs_of(some), strict=True)

        async def step(order: OrderRecord) -> Step:
            return self._submitted(order, answers[order.id])

        await self._each(step, orders)

    def _submitted(self, order: OrderRecord, answer: JobAnswer) -> Step:
        if isinstance(answer, UnknownSlideError) and self._waits_for_slide(order):
            return _postpone(order, self._config.orders.slide_retry_s)
        if isinstance(answer, AccessDeniedError):
            LOG.error("the service denies access: check service.api_key_file")
            return _postpone(order)
        if isinstance(answer, SlideCascadeClientError) and is_final(answer):
            return self._end(order, "failed", failed(str(answer)))
        if isinstance(answer, SlideCascadeClientError):
            facts = {"reason": type(answer).__name__, "status": answer.status}
            LOG.warning("the service did not take a job", extra={"fields": facts})
            return _postpone(order)
        job_id = answer.id
        return lambda change: change.set_job(order.id, job_id)

    async def _follow(self, order: OrderRecord) -> Step | None:
        try:
            job = await self._client.job(order.job_id or "")
            if job.status == "succeeded":
                results = self._config.results
                picture = None if results.picture is None else await picture_of(job, results.picture)
                files = await job.file_list() if any(one.file for one in results.pointers) else ()
                return self._end(order, "succeeded", succeeded(await job.summary(), job.id, picture, files))
            if job.status == "failed":
                problem = job.info.error
                cause = problem.detail if problem else "The service reported no cause."
                return self._end(order, "failed", failed(f"The analysis failed: {cause}"))
            if job.status == "cancelled":
                return self._end(order, "cancelled", cancelled("The analysis was cancelled on the service."))
        except UnknownJobError:
            return self._end(order, "failed", failed("The analysis was deleted on the service."))
        except SlideCascadeClientError as error:
            LOG.warning("the service did not answer", extra={"fields": {"reason": type(error).__name__}})
        return None

    async def _stop(self, order: OrderRecord) -> Step | None:
        """Cancel the job of a cancelled order; its id is not known if the bridge was killed while it submitted."""
        try:
            if order.job_id is None:
                (job,) = await self._jobs_of([order])
                if isinstance(job, SlideCascadeClientError):
                    raise job
            else:
                job = await self._client.job(order.job_id)
            await job.cancel()
        except SlideCascadeClientError as error:
            if not is_final(error):
                return None
            LOG.debug("nothing to cancel: the job has ended, or the service never had it")
        return lambda change: change.stopped(order.id)

    async def _jobs_of(self, orders: Sequence[OrderRecord]) -> Sequence[JobAnswer]:
        """The jobs of orders, submitted now or before, or why there are none. `submit_many` takes only names of
        slides on the service: `submit` would upload a file of this machine that an order names."""
        try:
            return await self._client.submit_many([_request(order) for order in orders])
        except RequestRefusedError as error:
            if len(orders) == 1:
                return [error]
            return [(await self._jobs_of([order]))[0] for order in orders]  # one of them may be to blame
        except SlideCascadeClientError as error:
            return [error] * len(orders)

    def _waits_for_slide(self, order: OrderRecord) -> bool:
        orders = self._config.orders
        age_s = time.time() - order.created_at
        return orders.unknown_slide == "wait" and age_s < orders.wait_for_slide_hours * 3600

    def _end(self, order: OrderRecord, state: OrderState, outcome: Outcome) -> Step:
        """The order ends and its answers are queued, together or not at all."""
        messages = result_messages(order, outcome, self._config)

        def end(change: Change) -> None:
            if change.end_order(order.id, state):
                change.put_outgoing(messages)

        LOG.info("order ends", extra={"fields": {"order_id": order.id, "state": state}})
        return end

    def _unfinished(self) -> tuple[tuple[OrderRecord, ...], tuple[OrderRecord, ...], bool]:
        with self._store.snapshot() as change:
            return change.to_stop(), change.submitted(), change.has_due(longest_wait_s=self._longest_wait_s)

    def _due(self, change: Change) -> tuple[OrderRecord, ...]:
        free = self._config.service.max_jobs - len(change.submitted())
        return change.due(limit=free, longest_wait_s=self._longest_wait_s) if free > 0 else ()

    def _clean(self) -> None:
        days = self._config.store.keep_days
        if days is None or time.monotonic() < self._clean_at:
            return
        with self._store.transaction() as change:
            is_clean = change.forget(before=time.time() - days * 86_400) == 0
        self._clean_at = time.monotonic() + (_CLEAN_S if is_clean else 0.0)

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._config.service.poll_s):
                await self._wake.wait()
        except TimeoutError:
            return


def _postpone(order: OrderRecord, wait_s: float | None = None) -> Step:
    """Submit an order again later."""
    if wait_s is None:
        wait_s = min(_MAX_RETRY_S, _FIRST_RETRY_S * 2.0 ** min(order.attempts, 30))
    next_at = time.time() + wait_s
    return lambda change: change.postpone(order.id, next_at=next_at)


def _request(order: OrderRecord) -> dict[str, object]:
    """An order as `submit_many` takes it."""
    analysis = order.analysis
    fields = {
        "slide": analysis.slide,
        "pipeline": analysis.pipeline,
        "mpp": analysis.mpp,
        "region": analysis.region,
        "allow_partial": analysis.allow_partial,
        "label": analysis.label,
        "idempotency_key": order.id,
    }
    return {name: value for name, value in fields.items() if value is not None}
