"""Handles ``/v2/models/.../infer``: runs one network on the request's tensors, in separate threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.errors import (
    CancelledError,
    DeadlineExceededError,
    MalformedRequestError,
    UploadTooLargeError,
)
from slidecascade.models.batches import joined
from slidecascade.models.repository import ModelPackage
from slidecascade.models.tensors import Tensors
from slidecascade.runners.choice import concurrent_calls
from slidecascade.settings import Settings
from slidecascade.web.intake import read_bytes
from slidecascade.web.middleware.exchange import Exchange
from slidecascade.web.pool import Pool
from slidecascade.web.regions import wait_for_disconnect
from slidecascade.web.tensors import MAX_JSON_BYTES, Inference
from slidecascade.wire import JSON

JSON_LENGTH: Final = "Inference-Header-Content-Length"
"""The header with the length of the JSON before binary data."""

BINARY: Final = "application/octet-stream"
T = TypeVar("T")


class Inferences:
    """Parses tensors, runs the network and responds."""

    def __init__(self, analyser: Analyser, settings: Settings) -> None:
        self._analyser = analyser
        self._settings = settings
        self._pool = Pool(concurrent_calls(settings), name="infer")

    def close(self) -> None:
        self._pool.close()

    async def answer(self, request: Request, package: ModelPackage) -> Response:
        """The response to a POST of tensors for the model of `package`; raises the errors of `run`."""

        def received(body: bytes) -> Callable[[Control], tuple[bytes, bytes]]:
            return partial(self._infer, body, _json_bytes(request, len(body)), package, time.monotonic())

        document, binary = await self.run(request, received)
        headers = {JSON_LENGTH: str(len(document))} if binary else {}
        return Response(document + binary, headers=headers, media_type=BINARY if binary else JSON)

    async def run(self, request: Request, received: Callable[[bytes], Callable[[Control], T]]) -> T:
        """The result of the work that `received` returns for the body of `request`, done in a thread.

        Raises:
            MalformedRequestError, UploadTooLargeError: for an invalid body.
            OverloadedError: when the queue of the network is full.
            DeadlineExceededError, CancelledError: after the deadline or when the client disconnects.
            ModelFailedError: when the network raised.
        """
        settings = self._settings
        exchange = Exchange.of(request)
        body = await read_bytes(request, max_bytes=settings.max_tensor_bytes, max_s=settings.max_deadline_s)
        exchange.place.enter()
        control = Control(deadline_s=max(settings.max_deadline_s - exchange.seconds, 0.0))
        work = self._pool.submit(_unless_late, received(body), control)
        exchange.place.work = work  # a thread keeps its request's slot until it ends
        left = asyncio.ensure_future(wait_for_disconnect(request))
        first: set[asyncio.Future[Any]] = {work, left}
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise CancelledError("The client disconnected while the network ran.")
            return work.result()
        finally:
            control.cancel()
            left.cancel()

    def _infer(
        self, body: bytes, json_bytes: int, package: ModelPackage, received_at: float, control: Control
    ) -> tuple[bytes, bytes]:
        inference = Inference(body, json_bytes=json_bytes, spec=package.spec, max_images=self._settings.max_batch)
        if inference.timeout_s is not None:
            control = control.within(received_at + inference.timeout_s - time.monotonic())
        try:
            outputs = [self._run(package.spec.name, inputs, control) for inputs in inference.runs()]
        except DeadlineExceededError as error:
            raise DeadlineExceededError(
                "The network did not finish before the deadline: send fewer images or a longer timeout."
            ) from error
        return inference.answer(joined(outputs))

    def _run(self, model: str, inputs: Tensors, control: Control) -> Tensors:
        control.check()  # a directly called network does not check it
        return self._analyser.infer(model, inputs, control)


def _unless_late(work: Callable[[Control], T], control: Control) -> T:
    control.check()  # it may have been queued for a thread
    return work(control)


def _json_bytes(request: Request, total: int) -> int:
    """The number of bytes of JSON in the body."""
    stated = request.headers.get(JSON_LENGTH, str(total))
    if not stated.isascii() or not stated.isdigit() or len(stated) > 12 or int(stated) > total:
        raise MalformedRequestError(f"{JSON_LENGTH} must be the number of bytes of the JSON before binary data.")
    if int(stated) > MAX_JSON_BYTES:
        raise UploadTooLargeError(
            f"The JSON is larger than {MAX_JSON_BYTES} bytes: send the tensor as binary data."
        )
    return int(stated)
