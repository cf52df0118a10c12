"""A real HTTP server on loopback that answers from a script, and one way to ask it with both clients."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

import httpx
import pytest

from slidecascade.wire import PROBLEM, PROBLEM_PREFIX, JobStatus
from slidecascade_client import AsyncClient, Client, RetryPolicy


@dataclass(frozen=True)
class Received:
    """A request as it arrived."""

    method: str
    path: str
    headers: Message
    body: bytes


@dataclass(frozen=True)
class Answer:
    """Send this; `missing_bytes` of the promised length never come, `stall_s` passes before each piece."""

    status: int = 200
    body: bytes = b""
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    missing_bytes: int = 0
    stall_s: float = 0.0
    pieces: int = 1


@dataclass(frozen=True)
class Drop:
    """Close the connection without an answer."""


def problem(name: str, status: int, *, headers: Mapping[str, str] | None = None, **members: Any) -> Answer:
    """The service's own error document."""
    document = {
        "type": PROBLEM_PREFIX + name,
        "title": name,
        "status": status,
        "detail": f"This is {name}.",
        "request_id": "id-of-the-server",
        **members,
    }
    return Answer(status, json.dumps(document).encode(), PROBLEM, headers or {})


NO_PIPELINES = Answer(body=b'{"pipelines": []}')
OVERLOADED = problem("overloaded", 429, headers={"Retry-After": "2"})
HTML_502 = Answer(502, b"<html><h1>502 Bad Gateway</h1></html>", "text/html")


# Certificates are never needed here, and loading them takes longer than a test.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class ScriptedServer(ThreadingHTTPServer):
    """Plays `acts` in order, one per request, the last one again and again; keeps what it received."""

    daemon_threads = True

    def __init__(self, acts: tuple[Answer | Drop, ...], host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.received: list[Received] = []
        self.stopping = threading.Event()
        self._acts = acts
        self._lock = threading.Lock()

    def next_act(self, request: Received) -> Answer | Drop:
        with self._lock:
            self.received.append(request)
            return self._acts[min(len(self.received), len(self._acts)) - 1]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedServer

    def _play(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        act = self.server.next_act(Received(self.command, self.path, self.headers, body))
        if isinstance(act, Drop):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self._answer(act)

    do_GET = do_POST = do_DELETE = _play  # noqa: N815  # names given by http.server

    def _answer(self, answer: Answer) -> None:
        self.close_connection = True
        length = len(answer.body)
        headers = {"Content-Type": answer.media_type, "Connection": "close", **answer.headers}
        headers.setdefault("Content-Length", str(length + answer.missing_bytes))
        self.send_response_only(answer.status)  # no headers but those of the script
        for name, value in headers.items():
            self.send_header(name, value)
        step = max(1, -(-length // answer.pieces))
        try:
            if answer.pieces == 1:
                self.server.stopping.wait(answer.stall_s)
            self.end_headers()
            for start in range(0, length, step):
                self.wfile.write(answer.body[start : start + step])
                if answer.pieces > 1:
                    self.server.stopping.wait(answer.stall_s)
        except ConnectionError:
            return  # the client had enough

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # named by http.server
        """Be quiet."""


@contextmanager
def scripted(*acts: Answer | Drop) -> Iterator[ScriptedServer]:
    """A server that plays `acts`, running in a thread until the end of the block."""
    with ScriptedServer(acts) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.stopping.set()
            server.shutdown()
            thread.join()


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.sleeps: list[float] = []

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now_s += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)

    def policy(self, **changes: Any) -> RetryPolicy:
        """Retries on this clock, with no randomness: the jitter is always its upper bound."""
        return RetryPolicy(**{"clock": self.clock, "jitter": lambda: 1.0, **changes})


class Ask(Protocol):
    """One call of one method on a fresh client; ``options`` are the client's, the rest the method's."""

    def __call__(
        self, url: str, method: str, *args: Any, time: FakeTime, options: Any = ..., **kwargs: Any
    ) -> Any: ...


def ask_sync(url: str, method: str, *args: Any, time: FakeTime, options: Any = None, **kwargs: Any) -> Any:
    with httpx.Client(verify=_NO_TLS, trust_env=False) as http:
        settings = {"retry": time.policy(), "sleep": time.sleep, "http_client": http, **(options or {})}
        with Client(url, **settings) as client:
            return getattr(client, method)(*args, **kwargs)


def ask_async(url: str, method: str, *args: Any, time: FakeTime, options: Any = None, **kwargs: Any) -> Any:
    async def ask() -> Any:
        async with httpx.AsyncClient(verify=_NO_TLS, trust_env=False) as http:
            settings = {"retry": time.policy(), "sleep": time.sleep_async, "http_client": http, **(options or {})}
            async with AsyncClient(url, **settings) as client:
                return await getattr(client, method)(*args, **kwargs)

    return asyncio.run(ask())


def act_sync(url: str, action: str, *, time: FakeTime, options: Any = None) -> JobStatus:
    """Look the job ``j`` up, call a method of it without arguments; its status after that."""
    with httpx.Client(verify=_NO_TLS, trust_env=False) as http:
        settings = {"retry": time.policy(), "sleep": time.sleep, "http_client": http, **(options or {})}
        with Client(url, **settings) as client:
            job = client.job("j")
            getattr(job, action)()
            return job.status


def act_async(url: str, action: str, *, time: FakeTime, options: Any = None) -> JobStatus:
    """See `act_sync`."""

    async def act() -> JobStatus:
        async with httpx.AsyncClient(verify=_NO_TLS, trust_env=False) as http:
            settings = {"retry": time.policy(), "sleep": time.sleep_async, "http_client": http, **(options or {})}
            async with AsyncClient(url, **settings) as client:
                job = await client.job("j")
                await getattr(job, action)()
                return job.status

    return asyncio.run(act())


both_clients = pytest.mark.parametrize("ask", [ask_sync, ask_async], ids=["sync", "async"])
