"""The memory of a real process after uploads it refused."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

import proc
from served_process import Server, free_port, launch

UNCOLLECTED = """
import gc, sys
gc.disable()
from slidecascade.cli import main
sys.exit(main(["serve", "--port", sys.argv[1]]))
"""
"""A server in which whatever is part of a cycle stays for good."""

BODY_MIB = 64
LIMIT_MIB = 80
UPLOADS = 3
MARGIN_MIB = 40
"""Below a single body: one that is left in memory is found."""

BOUNDARY = "edge"
INFER = "/v2/models/nash-cell/infer"
GOOD = {"pipeline": "nuclei", "mpp": 0.5}


def form(image: bytes, request: object) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="%s"; filename="a"\r\n\r\n'
    document = request if isinstance(request, bytes) else json.dumps(request).encode()
    parts = {"image": image, "request": document}
    found = b"".join((head % name).encode() + content + b"\r\n" for name, content in parts.items())
    return found + f"--{BOUNDARY}--\r\n".encode()


class Connection:
    """A connection that is kept after the answer, as clients keep them."""

    def __init__(self, server: Server) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

    def post(
        self,
        body: bytes,
        *,
        path: str = "/v1/regions",
        chunked: bool = False,
        headers: dict[str, str] | None = None,
    ) -> int:
        named = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"} | (headers or {})
        pieces = (body[start : start + 2**18] for start in range(0, len(body), 2**18))
        self._connection.request("POST", path, pieces if chunked else body, named, encode_chunked=chunked)
        with self._connection.getresponse() as response:
            response.read()
            return response.status

    def leave(self, body: bytes) -> None:
        """Send half of a body and disconnect."""
        self._connection.putrequest("POST", "/v1/regions")
        self._connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
        self._connection.putheader("Content-Length", str(len(body)))
        self._connection.endheaders(body[: len(body) // 2])
        self.close()

    def close(self) -> None:
        self._connection.close()


Connect = Callable[[], Connection]


@pytest.fixture
def connect(uncollected: Server) -> Iterator[Connect]:
    """Opens connections; all are closed at the end."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(closing(Connection(uncollected)))


@pytest.fixture(scope="module")
def uncollected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A process without a cycle collector, that has answered one upload."""
    port = free_port()
    server = launch(
        [sys.executable, "-c", UNCOLLECTED, str(port)],
        port=port,
        home=tmp_path_factory.mktemp("home"),
        max_upload_bytes=LIMIT_MIB * 2**20,
        max_tensor_bytes=LIMIT_MIB * 2**20,
    )
    with closing(Connection(server)) as connection:
        assert connection.post(form(IMAGE, GOOD)) == 422
    yield server
    server.stop()


def resident_mib(server: Server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


IMAGE = b"no image " * (BODY_MIB * 2**20 // 9)
HEAD = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0\0\0\1\0\x08\2\0\0\0"
FORM = form(IMAGE, GOOD)


@pytest.mark.parametrize(
    ("status", "body", "options"),
    [
        pytest.param(413, form(IMAGE + IMAGE, GOOD), {"chunked": True}, id="past the limit"),
        pytest.param(422, FORM, {}, id="undecodable image"),
        pytest.param(422, form(HEAD + IMAGE, GOOD), {}, id="damaged image"),
        pytest.param(400, form(IMAGE, b"{"), {}, id="request that is no JSON"),
        pytest.param(422, form(IMAGE, GOOD | {"mpp": -1}), {}, id="wrong field"),
        pytest.param(404, form(IMAGE, GOOD | {"pipeline": "no"}), {}, id="unknown pipeline"),
        pytest.param(504, form(IMAGE, GOOD | {"deadline_s": 1e-6}), {}, id="deadline"),
        pytest.param(415, FORM, {"headers": {"Content-Type": "image/png"}}, id="another media type"),
        pytest.param(406, FORM, {"headers": {"Accept": "text/plain"}}, id="an answer that is not offered"),
        pytest.param(422, FORM, {"path": "/analyze_region"}, id="undecodable image from BentoML's client"),
        pytest.param(400, form(IMAGE, b"{"), {"path": "/analyze_region"}, id="no JSON from BentoML's client"),
        pytest.param(
            400, IMAGE, {"path": INFER, "headers": {"Inference-Header-Content-Length": "9"}}, id="no tensor"
        ),
    ],
)
def test_refused_uploads_leave_no_memory_behind(
    uncollected: Server, connect: Connect, status: int, body: bytes, options: dict[str, object]
) -> None:
    """Within a second of the last answer the process is as large as before, while its clients stay connected."""
    connections = [connect() for _ in range(UPLOADS)]
    before_mib = resident_mib(uncollected)
    assert {connection.post(body, **options) for connection in connections} == {status}  # type: ignore[arg-type]
    uncollected.wait(lambda: resident_mib(uncollected) < before_mib + MARGIN_MIB, seconds=1)


def test_clients_who_leave_leave_no_memory_behind(uncollected: Server, connect: Connect) -> None:
    """The received part of a body is freed a second after its client disconnects."""
    before_mib = resident_mib(uncollected)
    for _ in range(UPLOADS):
        connect().leave(FORM)
    uncollected.wait(lambda: uncollected.metric("slidecascade_bodies_arriving") == 0)
    uncollected.wait(lambda: resident_mib(uncollected) < before_mib + MARGIN_MIB, seconds=1)


def test_a_body_stated_to_be_too_large_is_not_read(uncollected: Server, connect: Connect) -> None:
    """The memory of the process does not grow by the stated Content-Length while the body arrives."""
    connection = connect()
    before_mib = resident_mib(uncollected)
    assert connection.post(form(IMAGE + IMAGE, GOOD)) == 413
    assert resident_mib(uncollected) < before_mib + MARGIN_MIB


def test_uploads_are_not_written_to_disk(uncollected: Server, connect: Connect) -> None:
    """No file is left open or behind, not even one that was deleted while open."""
    connection = connect()
    assert connection.post(FORM) == 422
    assert not [name for name in proc.open_files(uncollected.process.pid) if "(deleted)" in name]
