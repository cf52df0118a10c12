"""Answering ``/v2/models/.../infer``: one network on the tensors sent, in threads of its own."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

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
from slidecascade.models.repository import ModelPackage
from slidecascade.models.tensors import Tensors, joined
from slidecascade.runners.choice import concurrent_calls
from slidecascade.settings import Settings
from slidecascade.web.intake import read_bytes
from slidecascade.web.middleware.exchange import Exchange
from slidecascade.web.pool import Pool
from slidecascade.web.regions import wait_for_disconnect
from slidecascade.web.tensors import MAX_JSON_BYTES, Inference
from slidecascade.wire import JSON

JSON_LENGTH: Final = "Inference-Header-Content-Length"
"""The header that says where the JSON ends and binary data begin."""

BINARY: Final = "application/octet-stream"


class Inferences:
    """Reads tensors, has them run, and answers."""

    def __init__(self, analyser: Analyser, settings: Settings) -> None:
        self._analyser = analyser
        self._settings = settings
        self._pool = Pool(concurrent_calls(settings), name="infer")

    def close(self) -> None:
        self._pool.close()

    async def answer(self, request: Request, package: ModelPackage) -> Response:
        """The answer to a POST of tensors for the model of `package`.

        Raises:
            MalformedRequestError, UploadTooLargeError: for a body that cannot be used.
            OverloadedError: when too many wait for the networks.
            DeadlineExceededError, CancelledError: when time is up or the caller leaves.
            ModelFailedError: when the network raised.
        """
        settings = self._settings
        exchange = Exchange.of(request)
        body = await read_bytes(request, max_bytes=settings.max_tensor_bytes, max_s=settings.max_deadline_s)
        exchange.place.enter()
        control = Control(deadline_s=max(settings.max_deadline_s - exchange.seconds, 0.0))
        json_bytes = _json_bytes(request, len(body))
        work = self._pool.submit(self._infer, body, json_bytes, package, control, time.monotonic())
        exchange.place.work = work  # a thread keeps its request's place until it ends
        left = asyncio.ensure_future(wait_for_disconnect(request))
        first: set[asyncio.Future[Any]] = {work, left}
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise CancelledError("The caller left while the network ran.")
            document, binary = work.result()
        finally:
            control.cancel()
            left.cancel()
        headers = {JSON_LENGTH: str(len(document))} if binary else {}
        return Response(document + binary, headers=headers, media_type=BINARY if binary else JSON)

    def _infer(
        self, body: bytes, json_bytes: int, package: ModelPackage, control: Control, received_at: float
    ) -> tuple[bytes, bytes]:
        control.check()  # it may have waited for its thread
        inference = Inference(body, json_bytes=json_bytes, spec=package.spec, max_images=self._settings.max_batch)
        if inference.timeout_s is not None:
            control = control.within(received_at + inference.timeout_s - time.monotonic())
        try:
            outputs = [self._run(package.spec.name, inputs, control) for inputs in inference.runs()]
        except DeadlineExceededError as error:
            raise DeadlineExceededError(
                "The network did not run in time: send fewer images or wait longer."
            ) from error
        return inference.answer(joined(outputs))

    def _run(self, model: str, inputs: Tensors, control: Control) -> Tensors:
        control.check()  # a network that is called directly does not look
        return self._analyser.infer(model, inputs, control)


def _json_bytes(request: Request, total: int) -> int:
    """How many bytes of the body are JSON."""
    stated = request.headers.get(JSON_LENGTH, str(total))
    if not stated.isascii() or not stated.isdigit() or len(stated) > 12 or int(stated) > total:
        raise MalformedRequestError(f"{JSON_LENGTH} must be the number of bytes of the JSON before binary data.")
    if int(stated) > MAX_JSON_BYTES:
        raise UploadTooLargeError(
            f"The JSON is larger than {MAX_JSON_BYTES} bytes: send the tensor as binary data."
        )
    return int(stated)
