"""What a refused request leaves behind: nothing that only the cycle collector could free."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
import pytest
from starlette.types import ASGIApp, Message

from slidecascade.analysis.analyser import Analyser
from slidecascade.errors import ModelFailedError, release_frames
from slidecascade.metrics import Metrics
from slidecascade.settings import Settings
from slidecascade.timing import Silent
from slidecascade.web import body as body_module
from slidecascade.web.context import Process
from toy_pipeline import ToyPipeline

BOUNDARY = "edge"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
IMAGE = bytes(cv2.imencode(".png", np.full((96, 96, 3), 200, np.uint8))[1])
GOOD = {"pipeline": "toy", "mpp": 0.5}
OUTSIDE = GOOD | {"region": {"x": 9000, "y": 0, "width": 10, "height": 10}}
LIMIT = 50_000
REGIONS = "/v1/regions"
INFER = "/v2/models/toy-classifier/infer"


def form(image: bytes | None, request: bytes | dict[str, object] | None) -> bytes:
    parts = {"image": image, "request": json.dumps(request).encode() if isinstance(request, dict) else request}
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="%s"; filename="a"\r\n\r\n'
    found = [(head % name).encode() + content + b"\r\n" for name, content in parts.items() if content is not None]
    return b"".join(found) + f"--{BOUNDARY}--\r\n".encode()


Chunks = Sequence[bytes | None]
"""A body as it arrives; None: the client disconnects."""


class Client:
    """Sends one request at a time to an application; keeps no answer but the last."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.status: int | None = None
        self.problem = ""

    async def post(
        self,
        chunks: Chunks,
        *,
        path: str = REGIONS,
        headers: Mapping[str, str] = MappingProxyType({}),
        ends: bool = True,
    ) -> None:
        self.status, self.problem = None, ""
        messages: list[Message] = [
            {"type": "http.disconnect"}
            if chunk is None
            else {"type": "http.request", "body": chunk, "more_body": True}
            for chunk in chunks
        ]
        if ends:
            messages.append({"type": "http.request", "body": b"", "more_body": False})

        async def receive() -> Message:
            return messages.pop(0) if messages else await asyncio.Future()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
            elif self.status and self.status >= 400:
                answer = json.loads(message["body"])
                self.problem = answer.get("type", "").rpartition(":")[2] or answer["error"]

        named = {"content-type": FORM, **headers}
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "http_version": "1.1",
            "headers": [(key.encode(), value.encode()) for key, value in named.items()],
        }
        await self._app(scope, receive, send)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    toy = ToyPipeline(tmp_path)
    settings = Settings(
        models_dir=toy.models_dir, pipelines_dir=toy.pipelines_dir, threads=1, max_upload_bytes=LIMIT
    )
    analyser = Analyser(settings, observer=Silent(), make_runner=lambda _packages: toy.runner)
    process = Process(settings, analyser=analyser, metrics=Metrics())
    yield Client(process.guard(process.rest))
    process.close()


@contextmanager
def counting_garbage(found: Counter[str]) -> Iterator[None]:
    """Without the collector; `found` counts, by type, what would have waited for it."""
    gc.collect()
    gc.disable()
    try:
        yield
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found.update(type(item).__qualname__ for item in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        gc.collect()


REFUSALS: dict[str, tuple[int | None, str, Chunks, dict[str, str]]] = {
    "a body stated to be too large": (413, "upload-too-large", [], {"content-length": str(LIMIT + 1)}),
    "a body that passes the limit": (413, "upload-too-large", [form(IMAGE + b"x" * LIMIT, GOOD)] * 2, {}),
    "a part that passes its limit": (413, "upload-too-large", [form(None, b" " * 40_000)], {}),
    "an undecodable image": (422, "undecodable-image", [form(b"no image", GOOD)], {}),
    "a truncated image": (422, "undecodable-image", [form(IMAGE[:-20], GOOD)], {}),
    "a request that is no JSON": (400, "malformed-request", [form(IMAGE, b"{")], {}),
    "a wrong field": (422, "invalid-request", [form(IMAGE, GOOD | {"mpp": -1})], {}),
    "a form without request": (400, "malformed-request", [form(IMAGE, None)], {}),
    "a form that ends early": (400, "malformed-request", [form(IMAGE, GOOD)[:-20]], {}),
    "a form with another boundary": (400, "malformed-request", [b"x" * 100], {}),
    "a boundary that cannot be used": (400, "malformed-request", [b""], {"content-type": FORM + "x" * 500}),
    "another media type": (415, "unsupported-media-type", [IMAGE], {"content-type": "image/png"}),
    "a compressed body": (415, "unsupported-media-type", [IMAGE], {"content-encoding": "gzip"}),
    "an answer that is not offered": (406, "not-acceptable", [form(IMAGE, GOOD)], {"accept": "text/plain"}),
    "a missing resolution": (422, "missing-resolution", [form(IMAGE, {"pipeline": "toy"})], {}),
    "a region outside the image": (422, "region-outside-slide", [form(IMAGE, OUTSIDE)], {}),
    "an unknown pipeline": (404, "unknown-pipeline", [form(IMAGE, {"pipeline": "no", "mpp": 1.0})], {}),
    "an unknown slide": (404, "unknown-slide", [form(None, {"pipeline": "toy", "slide": "a.svs"})], {}),
    "a deadline": (504, "deadline-exceeded", [form(IMAGE, GOOD | {"deadline_s": 1e-6})], {}),
    "a disconnect while sending": (499, "cancelled", [form(IMAGE, GOOD)[:50], None], {}),
    "a tensor that is none": (
        400,
        "The request is not a valid JSON object: check the JSON and Inference-Header-Content-Length.",
        [IMAGE],
        {},
    ),
    "no refusal": (200, "", [form(IMAGE, GOOD)], {}),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_nothing_of_a_refused_upload_waits_for_the_collector(
    client: Client, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the collector off, the objects of a request are freed when it is answered: they form no cycle."""
    monkeypatch.setattr("slidecascade.web.form.MAX_JSON_BYTES", 30_000)
    status, problem, chunks, headers = REFUSALS[case]
    path = INFER if case.startswith("a tensor") else REGIONS
    await client.post(
        chunks, path=path, headers=headers
    )  # what is made once, at the first request, is no garbage of the second
    found: Counter[str] = Counter()
    with counting_garbage(found):
        await client.post(chunks, path=path, headers=headers)
        await asyncio.sleep(0)
    assert (client.status, client.problem) == (status, problem)
    assert found == Counter()


async def test_a_stalled_upload_leaves_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that stops arriving ends in an error that holds the timeout it came from; both are freed."""
    monkeypatch.setattr(body_module, "STALL_S", 0.01)
    found: Counter[str] = Counter()
    for _ in range(2):
        found.clear()
        with counting_garbage(found):
            await client.post([form(IMAGE, GOOD)[:50]], ends=False)
    assert client.problem == "deadline-exceeded"
    assert found == Counter()


async def test_a_fault_of_ours_leaves_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error is logged with its stack, which is then freed."""

    def fail(*_arguments: object, **_options: object) -> None:
        try:
            raise ValueError("inner")
        except ValueError as cause:
            error = KeyError("outer")
            raise error from cause

    monkeypatch.setattr(Analyser, "analyse", fail)
    found: Counter[str] = Counter()
    for _ in range(2):
        found.clear()
        with counting_garbage(found):
            await client.post([form(IMAGE, GOOD)])
    assert (client.status, client.problem) == (500, "internal-error")
    assert found == Counter()


async def test_a_failure_that_is_logged_leaves_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own internal error, logged with its stack, is freed as well."""

    def fail(*_arguments: object, **_options: object) -> None:
        error = ModelFailedError("The network failed.")
        raise error

    monkeypatch.setattr(Analyser, "analyse", fail)
    found: Counter[str] = Counter()
    for _ in range(2):
        found.clear()
        with counting_garbage(found):
            await client.post([form(IMAGE, GOOD)])
    assert (client.status, client.problem) == (502, "model-failed")
    assert found == Counter()


class Held:
    """Something a frame holds."""


def test_released_frames_let_go_of_what_they_held() -> None:
    """Of an error, its cause and its context."""

    def fail() -> None:
        held = Held()
        watched.append(weakref.ref(held))
        try:
            raise ValueError
        except ValueError as cause:
            raise KeyError from cause

    watched: list[weakref.ref[Held]] = []
    try:
        fail()
    except KeyError as caught:
        error = caught
    assert watched[0]() is not None
    release_frames(error)
    assert watched[0]() is None
