"""Targets of notifications that answer slowly, or without an end."""

from __future__ import annotations

import base64
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pydantic import HttpUrl, SecretStr

from slidecascade.jobs.database import open_database
from slidecascade.jobs.outbox import Outbox
from slidecascade.jobs.records import Records
from slidecascade.jobs.webhooks import Notifier, Target, Webhooks
from slidecascade.wire import JobRequest

LIMIT_S = 60.0
SECRET = SecretStr("whsec_" + base64.b64encode(b"s" * 24).decode())


class Targets(socketserver.ThreadingTCPServer):
    """``/slow`` sends a header byte by byte, ``/endless`` a body without an end; all else is answered with 204."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(socketserver.StreamRequestHandler):
    server: Targets

    def handle(self) -> None:
        path = self.rfile.readline().split()[1]
        while self.rfile.readline().strip():
            pass
        with suppress(OSError):  # the client has gone
            if path == b"/slow":
                self._repeat(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x")
            elif path == b"/endless":
                self._repeat(b"HTTP/1.1 200 OK\r\n\r\n", bytes(1000))
            else:
                self.wfile.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    def _repeat(self, head: bytes, piece: bytes) -> None:
        self.wfile.write(head)
        while not self.server.over.wait(0.02):
            self.wfile.write(piece)


@pytest.fixture
def targets() -> Iterator[Targets]:
    with Targets() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.over.set()
        server.shutdown()


def test_a_target_that_never_ends_its_answer_holds_up_no_other(targets: Targets, tmp_path: Path) -> None:
    """An attempt ends within its time, whatever arrives meanwhile; of the answer only the status counts."""
    database = open_database(None, tmp_path)
    records, outbox = Records(database), Outbox(database)
    names = ["slow", "slow", "endless", "good"]  # as many slow ones as notifications are sent at a time
    for name in names:
        request = JobRequest(pipeline="toy", slide="a.svs", notify=name)
        job = records.add(request, request_id="r", key=None, most_active=9, retry_after_s=2)[0].id
        assert records.end(job, 1, "failed")
    configured = {
        name: Target(
            url=HttpUrl(f"{targets.url}/{name}"),
            secrets=(SECRET,),
            timeout_s=0.5 if name == "slow" else 60,
            attempts=1,
        )
        for name in names
    }
    notifier = Notifier(outbox, Webhooks(targets=configured))
    notifier.start()
    try:
        ends_at = time.monotonic() + LIMIT_S
        while outbox.counts()["waiting"]:
            assert time.monotonic() < ends_at
            time.sleep(0.02)
    finally:
        targets.over.set()
        notifier.stop()
        notifier.join(time.monotonic() + LIMIT_S)
    ends = sorted((item.target, item.state, item.error) for item in outbox.list(state=None, limit=9))
    assert ends[:2] == [("endless", "delivered", None), ("good", "delivered", None)]
    assert ends[2:] == [("slow", "dead", "TimeoutError")] * 2
    database.dispose()
