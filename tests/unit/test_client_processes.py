"""The client over threads, event loops, forks and process pools."""

from __future__ import annotations

import asyncio
import copy
import gc
import multiprocessing
import os
import pickle
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from made_analysis import make_analysis
from scripted_server import NO_PIPELINES, OVERLOADED, Answer, scripted
from slidecascade.outputs import archive
from slidecascade.outputs.cells import encoders
from slidecascade.outputs.encoders import Drawing
from slidecascade.wire import ZIP, FieldError, Problem
from slidecascade_client import (
    AsyncClient,
    Client,
    ClientClosedError,
    EventLoopError,
    InvalidRequestError,
    OverloadedError,
    RegionResult,
    RetryPolicy,
    SlideCascadeClientError,
    TimedOutError,
)

ANALYSIS = make_analysis(20)
SPAWN = multiprocessing.get_context("spawn")


def _archive() -> bytes:
    region = ANALYSIS.region_l0
    image = np.full((region.height, region.width, 3), 230, np.uint8)
    return b"".join(archive.encode(encoders.files(ANALYSIS, lambda max_side_px: (image, 1.0), Drawing())))


class _Counting(BaseHTTPRequestHandler):
    """Answers ``/v1/pipelines/NAME`` with a pipeline of that name, and keeps the connection."""

    protocol_version = "HTTP/1.1"
    server: _KeptServer

    def do_GET(self) -> None:  # named by http.server
        name = self.path.rpartition("/")[2]
        self.server.peers.add(self.client_address)
        body = (
            f'{{"name": "{name}", "title": "", "description": "", "segmenter": "s", "classifiers": [],'
            ' "classes": [], "heatmaps": []}'
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # named by http.server
        """Be quiet."""


class _KeptServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Counting)
        self.peers: set[tuple[str, int]] = set()
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def _kept() -> Iterator[_KeptServer]:
    with _KeptServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def _analyse(url: str) -> RegionResult:
    """Runs in a process of a pool."""
    with Client(url) as client:
        return client.analyze_region(b"image", pipeline="nash")


def _fail(url: str) -> None:
    with Client(url, retry=RetryPolicy(max_tries=1)) as client:
        client.analyze_region(b"image", pipeline="nash")


def test_results_and_errors_come_back_from_a_process_pool(tmp_path: Path) -> None:
    """The work of a pool is not lost on its way home."""
    content = _archive()
    with (
        scripted(Answer(200, content, ZIP, {"X-Request-Id": "abc"}), OVERLOADED) as server,
        ProcessPoolExecutor(1, mp_context=SPAWN) as pool,
    ):
        result = pool.submit(_analyse, server.url).result()
        error = pool.submit(_fail, server.url).exception()
    assert result.request_id == "abc"
    assert result.counts == ANALYSIS.counts
    assert len(result.cells) == 20
    saved = result.save(tmp_path)
    assert {str(path.relative_to(saved)) for path in saved.rglob("*.*")} == set(result.files)
    assert isinstance(error, OverloadedError)
    assert error.retry_after_s == 2.0
    assert error.problem is not None


def test_a_closed_result_is_pickled_with_what_was_read() -> None:
    """As in the process it came from: parsed results stay, the files are deleted."""
    with scripted(Answer(200, _archive(), ZIP)) as server, _analyse(server.url) as result:
        cells = [cell.id for cell in result.cells]
    again = pickle.loads(pickle.dumps(result))  # noqa: S301  # made here
    assert [cell.id for cell in again.cells] == cells
    assert again.files == result.files
    with pytest.raises(ValueError, match="closed"):
        again.overlay  # noqa: B018  # reading is the point


def test_a_copied_result_is_independent_of_the_first() -> None:
    """Closing one leaves the other readable."""
    with scripted(Answer(200, _archive(), ZIP)) as server:
        result = _analyse(server.url)
    other = copy.copy(result)
    result.close()
    assert other.counts == ANALYSIS.counts
    other.close()


def _errors(base: type[SlideCascadeClientError]) -> list[type[SlideCascadeClientError]]:
    return [base, *(found for child in base.__subclasses__() for found in _errors(child))]


@pytest.mark.parametrize("kind", _errors(SlideCascadeClientError), ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling_with_all_it_states(kind: type[SlideCascadeClientError]) -> None:
    """Also the errors that are made without arguments of their own."""
    error = kind("Said so.")
    error.status, error.tries, error.request_id, error.retry_after_s = 422, 3, "r", 2.0
    error.problem = Problem(
        type="urn:slidecascade:problem:x",
        title="x",
        status=422,
        detail="d",
        request_id="r",
        errors=(FieldError(field="f", message="m"),),
    )
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  # made here
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_the_error_behind_a_time_limit_is_pickled_too() -> None:
    """``last_error`` and the fields of a refusal are part of what an error states."""
    late = TimedOutError("Late.")
    late.last_error = InvalidRequestError("Wrong.")
    late.last_error.fields = (FieldError(field="mpp", message="is NaN"),)
    again = pickle.loads(pickle.dumps(late))  # noqa: S301  # made here
    assert isinstance(again.last_error, InvalidRequestError)
    assert again.last_error.errors == late.last_error.errors


def test_a_client_may_be_sent_to_a_process_pool() -> None:
    """``pool.map(client.pipeline, names)`` works: each process opens connections of its own."""
    names = [f"p{number}" for number in range(8)]
    with _kept() as server, Client(server.url, api_key="k") as client:
        with ProcessPoolExecutor(2, mp_context=SPAWN) as pool:
            found = [pipeline.name for pipeline in pool.map(client.pipeline, names)]
        assert found == names


def test_a_client_with_connections_of_the_caller_is_not_pickled() -> None:
    """They belong to this process; the error says what to do."""
    with (
        httpx.Client() as http,
        Client("http://h", http_client=http) as client,
        pytest.raises(TypeError, match="one per process"),
    ):
        pickle.dumps(client)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_does_not_share_the_connection_of_its_parent() -> None:
    """Two processes that read from one socket would get each other's answers."""
    context = multiprocessing.get_context("fork")
    with _kept() as server, Client(server.url) as client:
        assert client.pipeline("before").name == "before"
        queue = context.SimpleQueue()

        def ask(name: str) -> None:
            queue.put([client.pipeline(f"{name}{number}").name for number in range(20)])

        children = [context.Process(target=ask, args=(name,)) for name in "ab"]
        for child in children:
            child.start()
        mine = [client.pipeline(f"c{number}").name for number in range(20)]
        theirs = [queue.get(), queue.get()]
        for child in children:
            child.join()
        expected = {name: [f"{name}{number}" for number in range(20)] for name in "abc"}
        assert mine == expected["c"]
        assert sorted(theirs) == [expected["a"], expected["b"]]
        assert len(server.peers) == 3  # one connection for each process, the parent's the same throughout


def test_one_async_client_serves_several_event_loops() -> None:
    """One after the other, as scripts with several `asyncio.run` have them, and at once in threads."""
    with _kept() as server:
        client = AsyncClient(server.url)
        assert asyncio.run(client.pipeline("a")).name == "a"
        assert asyncio.run(client.pipeline("b")).name == "b"

        async def several(prefix: str) -> list[str]:
            found = await asyncio.gather(*(client.pipeline(f"{prefix}{number}") for number in range(8)))
            return [pipeline.name for pipeline in found]

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda prefix: asyncio.run(several(prefix)), "abcd"))
        assert answers == [[f"{prefix}{number}" for number in range(8)] for prefix in "abcd"]
        asyncio.run(client.close())


async def test_connections_are_kept_within_the_block_of_an_async_client() -> None:
    """Ten calls in a row need one connection."""
    with _kept() as server:
        async with AsyncClient(server.url) as client:
            for number in range(10):
                await client.pipeline(f"p{number}")
        assert len(server.peers) == 1


def test_a_given_async_http_client_in_a_second_loop_is_a_typed_sentence() -> None:
    """Its connections cannot be moved; the message says what to do."""
    with _kept() as server:
        http = httpx.AsyncClient()
        client = AsyncClient(server.url, http_client=http)
        first = asyncio.new_event_loop()
        try:
            assert first.run_until_complete(client.pipeline("a")).name == "a"
            with pytest.raises(EventLoopError, match="one AsyncClient for each loop"):
                asyncio.run(client.pipeline("b"))
        finally:
            first.run_until_complete(http.aclose())
            first.close()


def test_a_closed_client_says_so() -> None:
    """Also when the ``http_client`` it was given is closed."""
    with scripted(NO_PIPELINES) as server:
        with Client(server.url) as client:
            client.pipelines()
        with pytest.raises(ClientClosedError, match="closed"):
            client.pipelines()
        client.close()
        http = httpx.Client()
        http.close()
        with Client(server.url, http_client=http) as other, pytest.raises(ClientClosedError):
            other.ready()
    assert len(server.received) == 1


async def test_a_closed_async_client_says_so() -> None:
    """As the synchronous one does."""
    async with AsyncClient("http://127.0.0.1:9") as client:
        pass
    with pytest.raises(ClientClosedError):
        await client.ready()
    await client.close()


async def test_a_call_cancelled_while_its_image_is_opened_leaves_no_file_open(tmp_path: Path) -> None:
    """The thread that opens the file ends later than the task, and closes what it opened."""
    path = tmp_path / "image.png"
    path.write_bytes(b"image")
    entered, gate, left = threading.Event(), threading.Event(), threading.Event()

    class Slow(os.PathLike[str]):
        def __fspath__(self) -> str:
            entered.set()
            gate.wait(10)
            return str(path)

        def __del__(self) -> None:
            left.set()

    async with AsyncClient("http://127.0.0.1:9") as client:
        task = asyncio.create_task(client.analyze_region(Slow(), pipeline="p"))
        await asyncio.to_thread(entered.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            gate.set()
            await asyncio.get_running_loop().shutdown_default_executor()
            gc.collect()
    assert left.is_set()
    assert not [warning for warning in seen if issubclass(warning.category, ResourceWarning)]
