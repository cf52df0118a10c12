"""A file that breaks off is gone on with; what has arrived is not asked for again."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from slidecascade.wire import JobFile, JobFileList, JobInfo, JobLinks, JobProgress
from slidecascade_client import AsyncClient, Client, RetryPolicy, SlideCascadeClientError

CONTENT = bytes(range(256)) * 4096
ID = "7d0f5c3e-0000-4000-8000-000000000000"
NO_WAIT = RetryPolicy(max_tries=1)


@dataclass
class Source:
    """A server of one file, each answer of which breaks off after `pieces`; what it was asked for."""

    content: bytes = CONTENT
    etag: str = '"one"'
    takes_ranges: bool = True
    pieces: list[int] = field(default_factory=list)
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(source: Source) -> Iterator[Source]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith("/files"):
                files = (JobFile(name="cells.parquet", bytes=len(source.content), media_type="x/y"),)
                self._send(200, JobFileList(files=files).model_dump_json().encode(), "application/json")
            elif self.path.endswith(ID):
                self._send(200, _info().model_dump_json().encode(), "application/json")
            else:
                self._file()

        def _file(self) -> None:
            wanted, only_if = self.headers["range"], self.headers["if-range"]
            source.asked.append((wanted, only_if))
            start = 0
            if wanted and source.takes_ranges and only_if in (None, source.etag):
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(source.content):
                    self._send(416, b"", "text/plain")
                    return
            self.send_response(206 if start else 200)
            self.send_header("etag", source.etag)
            rest = source.content[start:]
            if start:
                total = len(source.content)
                self.send_header("content-range", f"bytes {start}-{total - 1}/{total}")
            self.send_header("content-length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[: source.pieces.pop(0)] if source.pieces else rest)
            self.wfile.flush()
            self.close_connection = True

        def _send(self, status: int, body: bytes, media_type: str) -> None:
            self.send_response(status)
            self.send_header("content-type", media_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    source.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield source
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _info() -> JobInfo:
    progress = JobProgress(fields_done=1, fields_total=1, fraction=1.0, cells=1, eta_s=None)
    return JobInfo.model_validate(
        {
            "id": ID,
            "status": "succeeded",
            "pipeline": "toy",
            "slide": "a",
            "created_at": "2026-01-01T00:00:00Z",
            "progress": progress.model_dump(),
            "links": JobLinks(self="/", events="/").model_dump(),
        }
    )


def fetch(source: Source, folder: Path) -> bytes:
    with Client(source.url, retry=NO_WAIT) as client:
        client.job(ID).fetch(folder)
    assert [path.name for path in folder.iterdir()] == ["cells.parquet"]
    return (folder / "cells.parquet").read_bytes()


def test_a_download_that_breaks_off_goes_on(tmp_path: Path) -> None:
    """Three times within one call: each try asks for the rest, and only of the same file."""
    with serving(Source(pieces=[300_000, 200_000, 100_000])) as source:
        assert fetch(source, tmp_path) == CONTENT
    starts = [int((wanted or "bytes=0-").removeprefix("bytes=").rstrip("-")) for wanted, _ in source.asked]
    assert starts == [0, 300_000, 500_000, 600_000]
    assert {only_if for _, only_if in source.asked[1:]} == {source.etag}


async def test_the_asynchronous_client_goes_on_too(tmp_path: Path) -> None:
    """As the synchronous one."""
    with serving(Source(pieces=[300_000])) as source:
        async with AsyncClient(source.url, retry=NO_WAIT) as client:
            await (await client.job(ID)).fetch(tmp_path)
    assert (tmp_path / "cells.parquet").read_bytes() == CONTENT
    assert source.asked[1] == ("bytes=300000-", source.etag)


def test_a_later_call_goes_on(tmp_path: Path) -> None:
    """Nothing arrives any more, and the call fails; the next one asks for the rest."""
    with serving(Source(pieces=[300_000, 0])) as source:
        with Client(source.url, retry=NO_WAIT) as client, pytest.raises(SlideCascadeClientError):
            client.job(ID).fetch(tmp_path)
        assert not (tmp_path / "cells.parquet").exists()
        assert fetch(source, tmp_path) == CONTENT
    assert source.asked[-1] == ("bytes=300000-", source.etag)


def test_another_file_is_fetched_from_its_beginning(tmp_path: Path) -> None:
    """The file was written anew meanwhile, so that the server sends all of it; nothing is mixed."""
    with serving(Source(pieces=[300_000, 0])) as source:
        with Client(source.url, retry=NO_WAIT) as client, pytest.raises(SlideCascadeClientError):
            client.job(ID).fetch(tmp_path)
        source.content, source.etag = CONTENT[::-1], '"two"'
        assert fetch(source, tmp_path) == CONTENT[::-1]


@pytest.mark.parametrize("etag", ['W/"weak"', ""])
def test_without_a_strong_etag_it_begins_anew(tmp_path: Path, etag: str) -> None:
    """What identifies no bytes is not gone on with."""
    with serving(Source(pieces=[300_000, 0], etag=etag)) as source:
        with Client(source.url, retry=NO_WAIT) as client, pytest.raises(SlideCascadeClientError):
            client.job(ID).fetch(tmp_path)
        assert fetch(source, tmp_path) == CONTENT
    assert source.asked[-1] == (None, None)


def test_a_server_without_ranges_sends_all_again(tmp_path: Path) -> None:
    """200 in place of 206: the file is begun anew."""
    with serving(Source(pieces=[300_000], takes_ranges=False)) as source:
        assert fetch(source, tmp_path) == CONTENT


def test_a_download_that_was_complete_is_finished(tmp_path: Path) -> None:
    """The program ended between the last byte and the rename: there is no rest, and the file is fetched again."""
    with serving(Source(pieces=[300_000, 0])) as source:
        with Client(source.url, retry=NO_WAIT) as client, pytest.raises(SlideCascadeClientError):
            client.job(ID).fetch(tmp_path)
        (part,) = tmp_path.glob(".*.part")
        part.write_bytes(CONTENT)
        assert fetch(source, tmp_path) == CONTENT
