"""Clients of a real process that keep connections without using them, or send what costs more than it weighs."""

from __future__ import annotations

import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from served_process import Server, free_port, launch
from slidecascade import wire

FILES = 400
"""Files the process may open, less than there are silent connections."""

SILENT = 600
HEALTH_S = 0.1


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A process that may open few files."""
    port = free_port()
    serve = [sys.executable, "-m", "slidecascade", "serve", "--port", str(port)]
    command = ["sh", "-c", f'ulimit -n {FILES} && exec "$@"', "sh", *serve]
    server = launch(command, port=port, home=tmp_path_factory.mktemp("home"))
    yield server
    assert server.stop() == 0


Connect = Callable[[], socket.socket]


@pytest.fixture
def connect(limited: Server) -> Iterator[Connect]:
    """Opens connections; all are closed at the end."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(socket.create_connection(("127.0.0.1", limited.port), timeout=30))


def answer(connection: socket.socket) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response


def problem_of(response: http.client.HTTPResponse) -> wire.Problem:
    """The problem in an answer, which names its request."""
    found = wire.Problem.model_validate_json(response.read())
    assert response.getheader("content-type") == wire.PROBLEM
    assert response.getheader("x-request-id") == found.request_id
    assert response.getheader("x-content-type-options") == "nosniff"
    assert (response.getheader("cache-control"), response.status) == ("no-store", found.status)
    return found


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed it; what was sent before is read."""
    with suppress(ConnectionResetError):
        while connection.recv(65536):
            pass
    return True


def health_s(server: Server) -> float:
    """How long a health check takes, on a connection of its own."""
    started = time.perf_counter()
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request("GET", "/livez")
        assert connection.getresponse().status == 200
    return time.perf_counter() - started


def require_health(server: Server, work: Callable[[], None]) -> None:
    """The 99th percentile of health checks while `work` is done must be short, as far as this machine allows.

    On a machine that others keep busy it is compared with that of a server with nothing to do.
    """
    quiet = [health_s(server) for _ in range(100)]
    worker = threading.Thread(target=work)
    worker.start()
    seconds: list[float] = []
    while worker.is_alive() or len(seconds) < 100:
        seconds.append(health_s(server))
    worker.join()
    assert sorted(seconds)[int(len(seconds) * 0.99)] < max(HEALTH_S, 3 * max(quiet))


def test_idle_connections_do_not_block_new_ones(limited: Server, connect: Connect) -> None:
    """With more of them than files may be opened, health is answered and the log stays short."""
    for _ in range(SILENT):
        connect()
    assert max(health_s(limited) for _ in range(20)) < 1
    lines = [line for line in limited.lines() if line["level"] != "info"]
    assert {line["message"] for line in lines} == {"connections closed to make room for others"}
    assert len(lines) <= 10
    assert len(list(Path(f"/proc/{limited.process.pid}/fd").iterdir())) < FILES


def test_tiny_chunks_do_not_delay_other_requests(limited: Server, connect: Connect) -> None:
    """A body in chunks of one byte is parsed in turns between which all else is done."""
    sender = connect()
    sender.sendall(
        b"POST /v1/regions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        b'Content-Type: multipart/form-data; boundary="b"\r\n\r\n'
    )
    head = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n'

    def send() -> None:
        sender.sendall(b"%x\r\n%b\r\n" % (len(head), head) + b"1\r\nx\r\n" * 200_000 + b"0\r\n\r\n")
        assert answer(sender).status == 400

    require_health(limited, send)


def test_many_unknown_fields_do_not_delay_other_requests(limited: Server) -> None:
    """A request with far too many fields is refused without looking at each."""
    document = json.dumps({f"field{number}": 1 for number in range(50_000)})

    def send() -> None:
        for _ in range(5):
            with closing(http.client.HTTPConnection("127.0.0.1", limited.port, timeout=30)) as connection:
                connection.request("POST", "/v1/regions", document, {"Content-Type": "application/json"})
                assert problem_of(connection.getresponse()).name == "invalid-request"

    require_health(limited, send)


@pytest.mark.parametrize(
    ("version", "framing"),
    [
        (b"1.1", b"Content-Length: 5\r\nTransfer-Encoding: chunked"),
        (b"1.1", b"Transfer-Encoding: chunked\r\nContent-Length: 0"),
        (b"1.0", b"Transfer-Encoding: chunked"),
    ],
)
def test_a_body_with_two_ends_is_refused(connect: Connect, version: bytes, framing: bytes) -> None:
    """A request with both lengths gets 400 and a closed connection; the following bytes are not a request."""
    connection = connect()
    following = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    connection.sendall(
        b"POST /v1/regions HTTP/%b\r\nHost: localhost\r\nContent-Type: application/json\r\n%b\r\n\r\n0\r\n\r\n%b"
        % (version, framing, following)
    )
    response = answer(connection)
    assert problem_of(response).name == "malformed-request"
    assert response.getheader("connection") == "close"
    assert connection.recv(1) == b""


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 2**17 + b"\r\n\r\n",
    ],
)
def test_invalid_http_is_a_problem_with_a_request_id(limited: Server, connect: Connect, head: bytes) -> None:
    """Also what no application sees is answered as a problem, and is found in the log by its id."""
    connection = connect()
    connection.sendall(head)
    problem = problem_of(answer(connection))
    assert problem.name == "malformed-request"
    assert is_closed(connection)
    limited.wait(lambda: any(line.get("request_id") == problem.request_id for line in limited.lines()))


def test_a_broken_chunk_ends_the_request(limited: Server, connect: Connect) -> None:
    """In the middle of a body, too: the request behind it is cancelled, and nothing is logged as a fault."""
    connection = connect()
    connection.sendall(
        b"POST /v1/regions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
    )
    limited.wait(lambda: limited.metric("slidecascade_bodies_arriving") == 1)
    connection.sendall(b"nonsense\r\n")
    assert problem_of(answer(connection)).name == "malformed-request"
    assert is_closed(connection)
    limited.wait(lambda: limited.metric("slidecascade_bodies_arriving") == 0)
    assert not [line for line in limited.lines() if line["level"] == "error"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"localhost", 200),
        (b"LocalHost.:3000", 200),
        (b"127.0.0.1:80", 200),
        (b"[::1]:3000", 200),
        (b"pages.example", 421),
        (b"localhost.pages.example:3000", 421),
        (b"10.0.0.1", 421),
    ],
)
def test_on_loopback_only_its_names_are_answered_for(connect: Connect, host: bytes, status: int) -> None:
    """A page that resolves its own name to loopback (DNS rebinding) gets no response of the API or health."""
    connection = connect()
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
    response = answer(connection)
    assert response.status == status
    assert response.getheader("x-content-type-options") == "nosniff"
    if status == 421:
        assert problem_of(response).name == "misdirected-request"
        assert is_closed(connection)


def test_slow_bodies_take_no_slot(limited: Server, connect: Connect) -> None:
    """More stalled bodies than slots for regions: a region is still answered."""
    for _ in range(20):
        connect().sendall(
            b"POST /v1/regions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n{"
        )
    limited.wait(lambda: limited.metric("slidecascade_bodies_arriving") == 20)
    assert limited.metric("slidecascade_regions_in_flight") == 0
    with closing(http.client.HTTPConnection("127.0.0.1", limited.port, timeout=30)) as connection:
        request = json.dumps({"pipeline": "nuclei", "slide": "none.tiff"})
        connection.request("POST", "/v1/regions", request, {"Content-Type": "application/json"})
        assert problem_of(connection.getresponse()).name == "unknown-slide"
