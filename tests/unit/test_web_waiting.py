"""What waits long keeps no other request from its answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fake_analyser import FakeAnalyser
from slidecascade import wire
from slidecascade.errors import UnknownSlideError
from slidecascade.metrics import Metrics
from slidecascade.settings import Settings
from slidecascade.slides.visible import ALL_SLIDES, Visible
from slidecascade.web import context
from slidecascade.web.context import Process

COUNT = 4


class Waiting:
    """Counts what has begun, and waits until it is released."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.released = threading.Event()

    def wait(self) -> None:
        self.begun.release()
        assert self.released.wait(60)


class SlowDesk:
    """Submits nothing before it is released, and has no jobs."""

    max_upload_bytes = 1000

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting

    def stop(self) -> None: ...

    def submit(self, *_arguments: Any, **_named: Any) -> Any:
        self._waiting.wait()
        raise UnknownSlideError("There is no slide any more.")

    def list(self, *_arguments: Any, **_named: Any) -> list[Any]:
        return []

    def numbers(self) -> None: ...


class SlowSlides(FakeAnalyser):
    """Opens no slide before it is released."""

    def __init__(self, waiting: Waiting) -> None:
        super().__init__()
        self._waiting = waiting

    def slide(self, slide_id: str, visible: Visible = ALL_SLIDES) -> wire.SlideInfo:
        self._waiting.wait()
        return super().slide(slide_id, visible)


@pytest.fixture
def waiting() -> Waiting:
    return Waiting()


@pytest.fixture
async def client(
    waiting: Waiting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setattr(context, "Desk", lambda *_: SlowDesk(waiting))
    process = Process(Settings(jobs_dir=tmp_path), analyser=SlowSlides(waiting), metrics=Metrics())
    transport = httpx.ASGITransport(process.guard(process.rest), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as made:
        yield made
    process.close()


@pytest.mark.parametrize("what", ["submissions", "slides"])
async def test_others_are_answered_while_some_wait(client: httpx.AsyncClient, waiting: Waiting, what: str) -> None:
    """Lists and metrics, while submissions wait for memory or slides for their server."""
    job = {"pipeline": "nash", "slide": "a.svs"}

    def ask() -> asyncio.Task[httpx.Response]:
        request = client.post("/v1/jobs", json=job) if what == "submissions" else client.get("/v1/slides/a.svs")
        return asyncio.create_task(request)

    asked = [ask() for _ in range(COUNT)]
    try:
        for _ in range(COUNT):
            assert await asyncio.to_thread(waiting.begun.acquire, timeout=60)
        for path in ("/v1/jobs", "/v1/slides", "/metrics"):
            async with asyncio.timeout(30):
                answer = await client.get(path)
            assert answer.status_code == 200, answer.text
        assert not any(task.done() for task in asked)
    finally:
        waiting.released.set()
    statuses = {(await task).status_code for task in asked}
    assert statuses == ({404} if what == "submissions" else {200})
