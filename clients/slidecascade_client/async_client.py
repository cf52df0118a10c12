"""The asynchronous client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Literal, Self, TypeVar

import httpx

from slidecascade.wire import (
    Averaging,
    JobInfo,
    ModelInfo,
    NotificationInfo,
    PipelineInfo,
    SlideInfo,
    SlideList,
    StainMethod,
)
from slidecascade_client import calls, jobcalls
from slidecascade_client.body import ImageInput, MaskInput
from slidecascade_client.calls import RegionInput
from slidecascade_client.connections import AsyncConnections
from slidecascade_client.endpoint import DEFAULT_RETRY, DEFAULT_TIMEOUT_S, Endpoint
from slidecascade_client.errors import SlideCascadeClientError
from slidecascade_client.exchange import Call, Outcome, Send, exchange
from slidecascade_client.failures import failure_of_item
from slidecascade_client.jobs import AsyncJob
from slidecascade_client.proxy import Dialled
from slidecascade_client.reply import Reply
from slidecascade_client.result import RegionResult
from slidecascade_client.retry import RetryPolicy

T = TypeVar("T")


class AsyncClient:
    """`Client` for asyncio: the same arguments, methods, results and errors; see there.

    One client may be used in several event loops. Connections are kept between calls in the loop that entered
    ``async with``; any other call opens its own. An ``http_client`` of the caller's belongs to one loop.
    Files are read and arrays packed in threads. A `RegionResult` is used as it is, without ``await``: parsing
    the cells of a large one takes seconds and belongs into `asyncio.to_thread`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: RetryPolicy = DEFAULT_RETRY,
        http_client: httpx.AsyncClient | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._endpoint = Endpoint.parse(base_url, api_key=api_key, timeout_s=timeout_s, retry=retry)
        self._connections = AsyncConnections(self._endpoint.base_url, http_client)
        self._dialled = Dialled()
        self._sleep = sleep

    async def analyze_region(
        self,
        image: ImageInput | None = None,
        *,
        pipeline: str,
        mpp: float | None = None,
        object_diameter_px: float | None = None,
        slide: str | None = None,
        region: RegionInput | None = None,
        thresholds: Mapping[str, float] | None = None,
        channels: Mapping[str, int | str] | None = None,
        stain: StainMethod | None = None,
        tile_px: int | None = None,
        allow_partial: bool = False,
        deadline_s: float | None = None,
        tta: Averaging = "none",
        origin: Literal["slide", "bounds"] = "slide",
    ) -> RegionResult:
        """Analyse an image, or a region of a slide the service holds: see `Client.analyze_region`."""
        call = await _in_thread(
            lambda: calls.analyze_region(
                image,
                pipeline=pipeline,
                mpp=mpp,
                object_diameter_px=object_diameter_px,
                slide=slide,
                region=region,
                thresholds=thresholds,
                channels=channels,
                stain=stain,
                tile_px=tile_px,
                allow_partial=allow_partial,
                deadline_s=deadline_s,
                tta=tta,
                origin=origin,
            )
        )
        return await self._perform(call)

    async def submit(
        self,
        slide: ImageInput,
        *,
        pipeline: str,
        mpp: float | None = None,
        object_diameter_px: float | None = None,
        region: RegionInput | None = None,
        thresholds: Mapping[str, float] | None = None,
        channels: Mapping[str, int | str] | None = None,
        stain: StainMethod | None = None,
        tta: Averaging = "none",
        allow_partial: bool = False,
        outputs: Sequence[str] | None = None,
        origin: Literal["slide", "bounds"] = "slide",
        label: str | None = None,
        notify: str | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncJob:
        """See `Client.submit`."""
        call = await _in_thread(
            lambda: jobcalls.submit(
                slide,
                pipeline=pipeline,
                mpp=mpp,
                object_diameter_px=object_diameter_px,
                region=region,
                thresholds=thresholds,
                channels=channels,
                stain=stain,
                tta=tta,
                allow_partial=allow_partial,
                outputs=outputs,
                origin=origin,
                label=label,
                notify=notify,
                idempotency_key=idempotency_key,
            )
        )
        return self._job(await self._perform(call))

    async def submit_many(
        self, requests: Iterable[Mapping[str, object]]
    ) -> list[AsyncJob | SlideCascadeClientError]:
        """See `Client.submit_many`."""
        found: list[AsyncJob | SlideCascadeClientError] = []
        for call in jobcalls.submit_many(list(requests)):
            items = (await self._perform(call)).jobs
            found += [self._job(item.job) if item.job else failure_of_item(item) for item in items]
        return found

    async def notifications(self, *, state: str | None = None) -> tuple[NotificationInfo, ...]:
        """See `Client.notifications`."""
        return (await self._perform(jobcalls.notifications(state=state))).notifications

    async def resend(self, notification_id: str) -> NotificationInfo:
        """See `Client.resend`."""
        return await self._perform(jobcalls.resend(notification_id))

    async def job(self, job_id: str) -> AsyncJob:
        """A job by its id."""
        return self._job(await self._perform(jobcalls.show(job_id)))

    async def jobs(self, *, status: str | None = None, label: str | None = None) -> AsyncIterator[AsyncJob]:
        """All jobs, or those of a status or label, the newest first."""
        cursor = None
        while True:
            page = await self._perform(jobcalls.jobs(status=status, label=label, cursor=cursor))
            for info in page.jobs:
                yield self._job(info)
            if (cursor := page.cursor) is None:
                return

    async def pipelines(self) -> tuple[PipelineInfo, ...]:
        """All pipelines: their models, classes and heatmaps."""
        return await self._perform(calls.pipelines())

    async def pipeline(self, name: str) -> PipelineInfo:
        """One pipeline."""
        return await self._perform(calls.pipeline(name))

    async def models(self) -> tuple[ModelInfo, ...]:
        """All served models, as their packages state them."""
        return await self._perform(calls.models())

    async def model(self, name: str) -> ModelInfo:
        """One model."""
        return await self._perform(calls.model(name))

    async def translate(self, mask: MaskInput, *, model: str) -> bytes:
        """The image that `model`, of the task ``translate``, draws for `mask`: a PNG of 16 bits, grey or RGB.

        `mask` is a grey PNG file, or a uint8 or uint16 array ``(H, W)``: 0 is background, others are objects.
        """
        return await self._perform(calls.translate(mask, model=model))

    async def slides(self) -> SlideList:
        """The slides that requests can name; ``truncated`` if there are more."""
        return await self._perform(calls.slides())

    async def slide(self, slide_id: str) -> SlideInfo:
        """Dimensions, resolution and levels of a slide."""
        return await self._perform(calls.slide(slide_id))

    async def ready(self) -> bool:
        """Whether the service takes requests now; False also when it cannot be reached. Not tried again."""
        return await self._perform(calls.health("/readyz"))

    async def alive(self) -> bool:
        """Whether the service's process answers. Not tried again."""
        return await self._perform(calls.health("/livez"))

    async def close(self) -> None:
        """Close the connections, unless ``http_client`` was given."""
        await self._connections.close()

    async def __aenter__(self) -> Self:
        self._connections.keep()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncClient of {self._endpoint.origin}>"

    def _job(self, info: JobInfo) -> AsyncJob:
        return AsyncJob(info, perform=self._perform, sleep=self._sleep)

    async def _perform(self, call: Call[T]) -> T:
        with closing(exchange(call, self._endpoint, self._dialled)) as steps:
            try:
                send = next(steps)
                while True:
                    if send.after_s:
                        await self._sleep(send.after_s)
                    send = steps.send(await self._outcome(send))
            except StopIteration as done:
                result: T = done.value
                return result

    async def _outcome(self, send: Send) -> Outcome:
        http = self._connections.current()
        request = http.build_request(
            send.method,
            send.url,
            headers=send.headers,
            content=_chunks(send) if send.body else None,
            timeout=send.timeout(),
            extensions={"trace": self._dialled.trace_async},
        )
        try:
            response = await http.send(request, stream=True, follow_redirects=False)
            async with aclosing(response):
                with send.content_of(response) as body:
                    async for chunk in response.aiter_bytes():
                        send.check_time()
                        body.write(chunk)
        except httpx.RequestError as error:
            return error
        except RuntimeError as error:
            self._connections.raise_for_loop(error)
            raise
        return Reply.received(response, body, sent_id=send.request_id)


async def _in_thread(make: Callable[[], Call[T]]) -> Call[T]:
    """What `make` makes in a thread; its files are closed when the task is cancelled meanwhile."""
    made: list[Call[T]] = []
    abandoned = threading.Event()

    def run() -> None:
        made.append(make())
        if abandoned.is_set():
            made[0].close()

    try:
        await asyncio.to_thread(run)
    except asyncio.CancelledError:
        abandoned.set()
        for call in made:
            call.close()
        raise
    return made[0]


async def _chunks(send: Send) -> AsyncIterator[bytes]:
    """The body to send, its file read in threads."""
    chunks = send.checked_chunks()
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk
