"""How long a client may keep a connection waiting; real sockets, an application of a few lines."""

from __future__ import annotations

import asyncio
import logging
import resource
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from certificates import write_pair
from slidecascade import logs
from slidecascade.hosting.connection import Connection, Timeouts
from slidecascade.hosting.handshake import Accept, over_tls
from slidecascade.hosting.openconnections import OpenConnections, most_connections

GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\n"
RETRY_AFTER_S = 17
SHORT_S = 0.2
LONG_S = 60.0
NEVER = Timeouts(head_s=LONG_S, rest_s=LONG_S, idle_s=LONG_S, read_s=LONG_S)
Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Open = Callable[[], Awaitable[Client]]


class App:
    """Answers without reading the body, with `size` bytes, once it is released."""

    def __init__(self) -> None:
        self.size = 2
        self.held = asyncio.Event()
        self.held.set()
        self.finished = asyncio.Event()

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await self.held.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for start in range(0, self.size, 2**16):
            more = start + 2**16 < self.size
            await send({"type": "http.response.body", "body": b"x" * min(2**16, self.size), "more_body": more})
        self.finished.set()


@asynccontextmanager
async def serving(
    app: App, timeouts: Timeouts, *, limit: int = 100, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Open]:
    """A listener on loopback with our connections, over TLS or plain; it ends when all of them are closed.

    Clients connect plainly.
    """
    lost: list[asyncio.Event] = []

    class Noted(Connection):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
            lost.append(asyncio.Event())
            self.lost = lost[-1]
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self.lost.set()

    config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none", timeout_keep_alive=int(LONG_S))
    limits: dict[str, Any] = {
        "all_open": OpenConnections(limit),
        "timeouts": timeouts,
        "timeout_log": logs.Throttle(logging.getLogger("slidecascade.test"), "timeouts"),
    }
    make: Accept = partial(Noted, config, ServerState(), {}, retry_after_s=RETRY_AFTER_S, **limits)
    if tls is not None:
        make = over_tls(make, tls, **limits)
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        return reader, writer

    try:
        async with asyncio.timeout(20):
            yield connect
    finally:
        for writer in writers:
            writer.transport.abort()
        server.close()
        async with asyncio.timeout(20):
            for event in lost:
                await event.wait()


@pytest.fixture
def app() -> App:
    return App()


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """What is sent until the connection closes, or is reset: what came before that counts."""
    sent = b""
    with suppress(ConnectionResetError):
        while part := await reader.read(2**16):
            sent += part
    return sent


async def trickle(writer: asyncio.StreamWriter, at_once: bytes, slowly: bytes) -> None:
    """Send the second byte by byte."""
    writer.write(at_once)
    for byte in slowly:
        await asyncio.sleep(0.02)
        writer.write(bytes([byte]))


def but(**shorter: float) -> Timeouts:
    """A server that waits long, except for one thing."""
    return Timeouts(**({"head_s": LONG_S, "rest_s": LONG_S, "idle_s": LONG_S, "read_s": LONG_S} | shorter))


async def test_a_silent_connection_is_closed(app: App) -> None:
    """A client that sends nothing gets nothing."""
    async with serving(app, but(head_s=SHORT_S)) as connect:
        reader, _ = await connect()
        assert await read_all(reader) == b""


async def test_a_head_that_trickles_is_answered_408(app: App) -> None:
    """Each byte does not begin the time anew."""
    async with serving(app, but(head_s=SHORT_S)) as connect:
        reader, writer = await connect()
        sender = asyncio.create_task(trickle(writer, GET[:5], GET[5:-1] * 100))
        assert (await read_all(reader)).startswith(b"HTTP/1.1 408 ")
        sender.cancel()


async def test_an_idle_connection_is_closed(app: App) -> None:
    """After an answer a client has so long for its next request."""
    async with serving(app, but(idle_s=SHORT_S)) as connect:
        reader, writer = await connect()
        writer.write(GET)
        assert (await read_all(reader)).startswith(b"HTTP/1.1 200 ")


async def test_a_second_head_that_does_not_end_is_closed(app: App) -> None:
    """The time for a head counts on a connection that was in use, too."""
    async with serving(app, but(head_s=SHORT_S)) as connect:
        reader, writer = await connect()
        writer.write(GET + GET[:10])
        assert b"HTTP/1.1 408 " in await read_all(reader)


async def test_an_unread_body_is_awaited_for_a_short_time(app: App) -> None:
    """The client has its answer: the rest of its body is thrown away for a while, whatever it sends."""
    async with serving(app, but(rest_s=SHORT_S)) as connect:
        reader, writer = await connect()
        sender = asyncio.create_task(trickle(writer, POST, b"y" * 99))
        assert (await read_all(reader)).startswith(b"HTTP/1.1 200 ")
        sender.cancel()


async def test_an_unread_body_that_ends_keeps_the_connection(app: App) -> None:
    """The next request is answered on the same connection."""
    async with serving(app, NEVER) as connect:
        reader, writer = await connect()
        for _ in range(2):
            writer.write(POST)
            assert await reader.readuntil(b"xx\r\n0\r\n\r\n")
            writer.write(b"y" * 100)


async def test_work_is_waited_for(app: App) -> None:
    """None of these times counts while the application works on an answer."""
    app.held.clear()
    quick = Timeouts(head_s=SHORT_S, rest_s=SHORT_S, idle_s=SHORT_S, read_s=SHORT_S)
    async with serving(app, quick) as connect:
        reader, writer = await connect()
        writer.write(GET)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 3 * SHORT_S)
        app.held.set()
        assert (await read_all(reader)).startswith(b"HTTP/1.1 200 ")


async def test_a_client_that_does_not_read_its_answer_is_disconnected(app: App) -> None:
    """A response that the client does not read does not keep its request in memory."""
    app.size = 2**27
    async with serving(app, but(read_s=SHORT_S)) as connect:
        reader, writer = await connect()
        writer.write(GET)
        await app.finished.wait()  # it would wait for the client otherwise
        assert len(await read_all(reader)) < app.size


async def test_the_longest_waiting_makes_room(app: App) -> None:
    """Beyond the limit the connection that has waited longest is closed, not the new one."""
    async with serving(app, NEVER, limit=2) as connect:
        (first, _), (second, second_writer) = await connect(), await connect()
        third, third_writer = await connect()
        assert await read_all(first) == b""
        for reader, writer in ((second, second_writer), (third, third_writer)):
            writer.write(GET)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")


async def test_connections_in_use_are_not_closed(app: App) -> None:
    """When requests are worked on in all of them, a new one is refused and says when to come again."""
    app.held.clear()
    async with serving(app, NEVER, limit=2) as connect:
        busy = [await connect() for _ in range(2)]
        for _, writer in busy:
            writer.write(GET)
        await asyncio.sleep(0)
        while True:
            reader, writer = await connect()
            writer.write(GET)
            if answer := await read_all(reader):
                break
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert f"retry-after: {RETRY_AFTER_S}\r\n".encode() in answer.lower()
        assert b"x-request-id" in answer.lower()
        app.held.set()
        for reader, _ in busy:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("files", "slide_files", "expected"), [(10_000, 200, 1024), (1024, 200, 568), (400, 200, 72), (260, 200, 16)]
)
def test_connections_leave_descriptors_to_slides(
    monkeypatch: pytest.MonkeyPatch, files: int, slide_files: int, expected: int
) -> None:
    """As many as all slides may take, but no more than half of what is there."""
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (files, files))
    assert most_connections(1024, slide_files=slide_files) == expected


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server, and of its clients."""
    certificate, key = write_pair(tmp_path, "here")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=certificate)


async def test_connections_without_a_handshake_are_limited(
    app: App, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """They make room as others that wait for their clients, for each other and for a client that speaks TLS."""
    async with serving(app, NEVER, limit=16, tls=tls[0]) as connect:
        silent = [await connect() for _ in range(40)]
        reader, writer = await connect()
        await writer.start_tls(tls[1], server_hostname="here")
        writer.write(GET)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        closed = [await read_all(each) for each, _ in silent[:25]]
        assert closed == [b""] * 25
        assert not any(each.at_eof() for each, _ in silent[25:])


async def test_a_handshake_that_does_not_begin_or_end_is_closed(
    app: App, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """Also what is no TLS; a client whose request comes with the end of its handshake is answered."""
    async with serving(app, but(head_s=SHORT_S), tls=tls[0]) as connect:
        for sent in (b"", b"\x16\x03\x01\x02\x00", GET):
            reader, writer = await connect()
            writer.write(sent)
            assert not (await read_all(reader)).startswith(b"HTTP")
        reader, writer = await connect()
        await writer.start_tls(tls[1], server_hostname="here")
        writer.write(GET)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
