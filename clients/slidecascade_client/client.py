"""The synchronous client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
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
from slidecascade_client.connections import Connections
from slidecascade_client.endpoint import DEFAULT_RETRY, DEFAULT_TIMEOUT_S, Endpoint
from slidecascade_client.errors import SlideCascadeClientError
from slidecascade_client.exchange import Call, Outcome, Send, exchange
from slidecascade_client.failures import failure_of_item
from slidecascade_client.jobs import Job
from slidecascade_client.proxy import Dialled
from slidecascade_client.reply import Reply
from slidecascade_client.result import RegionResult
from slidecascade_client.retry import RetryPolicy

T = TypeVar("T")


class Client:
    """Talks to one SlideCascade service; may be shared by threads, used after a fork, and pickled.

    Args:
        base_url: e.g. ``http://localhost:3000``; a path prefix is kept. Proxies are those of the environment.
        api_key: sent as ``Authorization: Bearer``, to this host only.
        timeout_s: seconds a call may take, all tries and waits included. The default is a little more than
            the longest analysis a service allows by default. It is checked between blocks of data: a
            connection that stalls half way through an answer may take up to twice as long.
        retry: when to try again.
        http_client: for proxies, certificates or another transport; it stays the caller's to close, and its
            connections must not be used on both sides of a fork.
        sleep: waits that many seconds.

    Every method raises `SlideCascadeClientError`; each error keeps the ``request_id`` to quote to the
    service's operator. All attempts of a call have the same id.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: RetryPolicy = DEFAULT_RETRY,
        http_client: httpx.Client | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._endpoint = Endpoint.parse(base_url, api_key=api_key, timeout_s=timeout_s, retry=retry)
        self._given_http = http_client is not None
        self._connections = Connections(self._endpoint.base_url, http_client)
        self._dialled = Dialled()
        self._sleep = sleep

    def analyze_region(
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
        """Analyse an image, or a region of a slide the service holds.

        Args:
            image: a path, the bytes of an image file, a file opened in binary mode (sent from where it
                stands), or uint8 RGB pixels ``(H, W, 3)`` or an image of Pillow, which are sent as PNG. Its file
                name is not sent.
            pipeline: name of the pipeline, e.g. ``nash``.
            mpp: micrometres per pixel of the image, or in place of the slide's own.
            object_diameter_px: usual diameter of the objects in pixels of the image, in place of `mpp` where
                nobody knows it; the result then has no figures in micrometres.
            slide: id of a slide, as `slides` lists them, instead of an image.
            region: box or (x, y, width, height) in pixels of the image or level-0 pixels of the slide;
                default: all of it.
            thresholds: by model name, in [0, 1].
            channels: by meaning, the channels of the slide to use, e.g. ``{"nuclear": 0}`` or
                ``{"nuclear": "DAPI"}``.
            stain: method of stain normalisation, fitted on the whole slide: ``macenko``, ``reinhard``,
                ``vahadane`` or ``none``; default: the pipeline's.
            tile_px: tile size of the segmenter; affects speed, not cells.
            allow_partial: accept a result with failed tiles; ``summary.tiles.failed`` lists them.
            deadline_s: seconds after which the service gives up; no try starts later.
            tta: ``d4`` averages what networks find over the eight turns and mirror images; takes eight times as
                long. ``d4-classifiers`` does so for classifiers alone, in about twice the time.
            origin: what outlines count from: ``slide``, the corner of level 0, or ``bounds``, the part that was
                scanned, which QuPath shows.

        Raises:
            InvalidRequestError: when a field is wrong, also before anything was sent.
            SlideCascadeClientError: in general.
            OSError: when the image file cannot be read.
            TypeError: when `image` is something else.
            ValueError: when an array is not uint8 RGB.
        """
        return self._perform(
            calls.analyze_region(
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

    def submit(
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
    ) -> Job:
        """Have a whole slide, or a region of any size, analysed as a job that survives the service's processes.

        Args:
            slide: id of a slide, as `slides` lists them; or an image, as for `analyze_region`, such as the path of
                a file that exists here, which is uploaded. A TIFF that OpenSlide reads stays a slide.
            pipeline, mpp, object_diameter_px, region, thresholds, channels, stain, tta, allow_partial: as for
                `analyze_region`.
            outputs: which of ``geojson``, ``parquet``, ``heatmaps``, ``grid``, ``mask``, ``rle`` and ``dicom`` to
                write; default: all but the last.
            origin: as for `analyze_region`.
            label: a label to find the job by.
            notify: name of a webhook target that the service's operator has configured.
            idempotency_key: the same key and request give the same job; default: a new one.

        Raises:
            InvalidRequestError: when a field is wrong, also before anything was sent.
            IdempotencyMismatchError: the key was used for another request.
            SlideCascadeClientError: in general.
        """
        call = jobcalls.submit(
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
        return self._job(self._perform(call))

    def submit_many(self, requests: Iterable[Mapping[str, object]]) -> list[Job | SlideCascadeClientError]:
        """Submit many jobs of slides that the service holds; each is accepted or rejected by itself.

        Args:
            requests: the arguments of `submit` for each of them, e.g. ``{"slide": "a.svs", "pipeline": "nash"}``.

        Returns:
            The job of each request, or the error that `submit` would have raised, in their order.

        Raises:
            InvalidRequestError: when a field is wrong; nothing was sent.
            SlideCascadeClientError: when the service could not be asked; keys make it safe to do so again.
        """
        found: list[Job | SlideCascadeClientError] = []
        for call in jobcalls.submit_many(list(requests)):
            items = self._perform(call).jobs
            found += [self._job(item.job) if item.job else failure_of_item(item) for item in items]
        return found

    def notifications(self, *, state: str | None = None) -> tuple[NotificationInfo, ...]:
        """The notifications of ended jobs, the newest first; `state` is ``waiting``, ``delivered`` or ``dead``."""
        return self._perform(jobcalls.notifications(state=state)).notifications

    def resend(self, notification_id: str) -> NotificationInfo:
        """Have a notification sent again."""
        return self._perform(jobcalls.resend(notification_id))

    def job(self, job_id: str) -> Job:
        """A job by its id."""
        return self._job(self._perform(jobcalls.show(job_id)))

    def jobs(self, *, status: str | None = None, label: str | None = None) -> Iterator[Job]:
        """All jobs, or those of a status or label, the newest first."""
        cursor = None
        while True:
            page = self._perform(jobcalls.jobs(status=status, label=label, cursor=cursor))
            for info in page.jobs:
                yield self._job(info)
            if (cursor := page.cursor) is None:
                return

    def pipelines(self) -> tuple[PipelineInfo, ...]:
        """All pipelines: their models, classes and heatmaps."""
        return self._perform(calls.pipelines())

    def pipeline(self, name: str) -> PipelineInfo:
        """One pipeline."""
        return self._perform(calls.pipeline(name))

    def models(self) -> tuple[ModelInfo, ...]:
        """All served models, as their packages state them."""
        return self._perform(calls.models())

    def model(self, name: str) -> ModelInfo:
        """One model."""
        return self._perform(calls.model(name))

    def translate(self, mask: MaskInput, *, model: str) -> bytes:
        """The image that `model`, of the task ``translate``, draws for `mask`: a PNG of 16 bits, grey or RGB.

        `mask` is a grey PNG file, or a uint8 or uint16 array ``(H, W)``: 0 is background, others are objects.
        """
        return self._perform(calls.translate(mask, model=model))

    def slides(self) -> SlideList:
        """The slides that requests can name; ``truncated`` if there are more."""
        return self._perform(calls.slides())

    def slide(self, slide_id: str) -> SlideInfo:
        """Dimensions, resolution and levels of a slide."""
        return self._perform(calls.slide(slide_id))

    def ready(self) -> bool:
        """Whether the service takes requests now; False also when it cannot be reached. Not tried again.

        Raises:
            UnexpectedAnswerError: when something else answers, e.g. a portal or another web server.
        """
        return self._perform(calls.health("/readyz"))

    def alive(self) -> bool:
        """Whether the service's process answers. Not tried again."""
        return self._perform(calls.health("/livez"))

    def close(self) -> None:
        """Close the connections, unless ``http_client`` was given."""
        self._connections.close()

    def __reduce__(self) -> tuple[Callable[..., Client], tuple[Endpoint, Callable[[float], None]]]:
        if self._given_http:
            raise TypeError(
                "A Client with an http_client of the caller's cannot be pickled: make one per process."
            )
        return _client_of, (self._endpoint, self._sleep)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client of {self._endpoint.origin}>"

    def _job(self, info: JobInfo) -> Job:
        return Job(info, perform=self._perform, sleep=self._sleep)

    def _perform(self, call: Call[T]) -> T:
        with closing(exchange(call, self._endpoint, self._dialled)) as steps:
            try:
                send = next(steps)
                while True:
                    if send.after_s:
                        self._sleep(send.after_s)
                    send = steps.send(self._outcome(send))
            except StopIteration as done:
                result: T = done.value
                return result

    def _outcome(self, send: Send) -> Outcome:
        http = self._connections.current()
        request = http.build_request(
            send.method,
            send.url,
            headers=send.headers,
            content=send.checked_chunks() if send.body else None,
            timeout=send.timeout(),
            extensions={"trace": self._dialled.trace},
        )
        try:
            response = http.send(request, stream=True, follow_redirects=False)
            with closing(response), send.content_of(response) as body:
                for chunk in response.iter_bytes():
                    send.check_time()
                    body.write(chunk)
        except httpx.RequestError as error:
            return error
        return Reply.received(response, body, sent_id=send.request_id)


def _client_of(endpoint: Endpoint, sleep: Callable[[float], None]) -> Client:
    """A client with separate connections, for another process."""
    return Client(
        str(endpoint.base_url),
        api_key=endpoint.api_key,
        timeout_s=endpoint.timeout_s,
        retry=endpoint.retry,
        sleep=sleep,
    )
