"""The audit log: every line is chained to the one before, and says nothing of patients."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import orjson
import pytest

from fake_analyser import FakeAnalyser
from slidecascade.access.audit import AuditLog, Event, log_files, read_lines, verify
from slidecascade.access.keys import KeyFile
from slidecascade.cli import main
from slidecascade.errors import BrokenAuditLogError, NotReadyError, SettingsError
from slidecascade.metrics import Metrics
from slidecascade.settings import Settings
from slidecascade.web.context import Process

SLIDE = "Doe Jane 1961.svs"


def event(number: int) -> Event:
    return Event("lis", "key:00", "POST /v1/regions", None, 200, f"r{number}")


def write(folder: Path, count: int, **options: int) -> None:
    log = AuditLog(folder, **options)
    for number in range(count):
        log.write(event(number))
    log.close()


def test_a_log_goes_on_after_a_restart_and_over_files(tmp_path: Path) -> None:
    """One chain, whatever the number of files; a file is not longer than it may be by more than a line."""
    for _ in range(3):
        write(tmp_path, 20, max_file_bytes=2000)
    assert len(log_files(tmp_path)) > 5
    assert all(path.stat().st_size < 2500 for path in log_files(tmp_path))
    checked = verify(tmp_path)
    assert checked.lines == 60
    assert [line.number for line in read_lines(tmp_path)] == list(range(1, 61))
    assert verify(tmp_path, expected=list(read_lines(tmp_path))[9].digest) == checked


def altered(lines: list[bytes]) -> list[bytes]:
    return [*lines[:3], lines[3].replace(b'"lis"', b'"lab"'), *lines[4:]]


def rehashed(lines: list[bytes]) -> list[bytes]:
    """One line written anew with a right hash of its own."""
    fields = orjson.loads(lines[3])
    del fields["hash"]
    fields["who"] = "lab"
    digest = hashlib.sha256(orjson.dumps(fields)).hexdigest()
    return [*lines[:3], orjson.dumps({**fields, "hash": digest}) + b"\n", *lines[4:]]


CHANGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a changed line": altered,
    "a line with a right hash": rehashed,
    "a removed line": lambda lines: [*lines[:3], *lines[4:]],
    "a repeated line": lambda lines: [*lines[:4], *lines[3:]],
    "exchanged lines": lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
    "no first line": lambda lines: lines[1:],
    "spaces": lambda lines: [*lines[:3], lines[3].replace(b":", b": ", 1), *lines[4:]],
    "text": lambda lines: [*lines[:3], b"lost\n", *lines[3:]],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_found(tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The check names the first line that does not continue the chain."""
    write(tmp_path, 10)
    path = log_files(tmp_path)[0]
    assert main(["audit", "--folder", str(tmp_path), "verify"]) == 0
    path.write_bytes(b"".join(CHANGES[change](path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(BrokenAuditLogError, match="does not continue the chain"):
        verify(tmp_path)
    assert main(["audit", "--folder", str(tmp_path), "verify"]) == 1
    assert "does not continue" in capsys.readouterr().err


def test_an_end_that_was_cut_off_is_found_by_an_earlier_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The chain alone cannot show it."""
    write(tmp_path, 10)
    head = verify(tmp_path).head
    path = log_files(tmp_path)[0]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert verify(tmp_path).lines == 9
    assert main(["audit", "--folder", str(tmp_path), "verify", "--expect", head]) == 1
    assert "cut off" in capsys.readouterr().err


def test_a_torn_line_is_set_aside_and_a_changed_one_stops_the_start(tmp_path: Path) -> None:
    """A power failure may tear the last line; the log goes on after the one before."""
    write(tmp_path, 3)
    path = log_files(tmp_path)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    write(tmp_path, 1)
    assert verify(tmp_path).lines == 3
    assert len(list(tmp_path.glob("*.torn-*"))) == 1
    path.write_bytes(whole.replace(b'"r2"', b'"rX"'))
    with pytest.raises(SettingsError, match="changed"):
        AuditLog(tmp_path)


def test_one_process_writes_a_log(tmp_path: Path) -> None:
    """A second one is rejected, until the first has ended."""
    first = AuditLog(tmp_path)
    with pytest.raises(SettingsError, match="Another process"):
        AuditLog(tmp_path)
    first.close()
    AuditLog(tmp_path).close()


def test_nothing_is_done_while_the_log_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written is written first when there is room again."""
    log = AuditLog(tmp_path)
    log.write(event(0))

    def full(_handle: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        log.write(event(1))
        with pytest.raises(NotReadyError, match="audit log"):
            log.require_writable(2)
    log.require_writable(2)
    log.close()
    assert [line.event.request_id for line in read_lines(tmp_path)] == ["r0", "r1"]


@pytest.fixture
def analyser() -> Iterator[FakeAnalyser]:
    fake = FakeAnalyser()
    yield fake
    fake.close()


@pytest.fixture
async def client(analyser: FakeAnalyser, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(audit_dir=tmp_path / "audit", keys_file=tmp_path / "keys.json")
    process = Process(settings, analyser=analyser, metrics=Metrics())
    process.audit.start()
    transport = httpx.ASGITransport(process.guard(process.rest), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as made:
        yield made
    process.close()


@pytest.fixture
def key(tmp_path: Path) -> dict[str, str]:
    return {"X-API-Key": KeyFile(tmp_path / "keys.json").create("lab", ["regions:write", "slides:read"])}


async def test_every_request_has_a_line_without_its_slide(
    key: dict[str, str], client: httpx.AsyncClient, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Who, what and how it ended; of the slide only what stands for it, always the same. Health has no line."""
    region = {"pipeline": "nash", "slide": SLIDE}
    for _ in range(2):
        await client.post("/v1/regions", json=region, headers=key)
    await client.get(f"/v1/slides/{SLIDE}", headers=key)
    await client.get(f"/v1/slides/{SLIDE}", headers={"X-API-Key": "guess"})
    await client.get("/metrics", headers=key)
    await client.get("/livez")
    lines = list(read_lines(tmp_path / "audit"))
    assert [(line.event.who, line.event.action, line.event.outcome) for line in lines] == [
        ("lab", "POST /v1/regions", 200),
        ("lab", "POST /v1/regions", 200),
        ("lab", "GET /v1/slides/{slide_id:path}", 404),
        ("unknown", "GET unmatched", 401),
        ("lab", "GET unmatched", 403),
    ]
    assert lines[0].event.by.startswith("key:")
    assert lines[0].event.object == lines[1].event.object == lines[2].event.object is not None
    written = b"".join(path.read_bytes() for path in (tmp_path / "audit").iterdir())
    for secret in (b"Doe", b"Jane", b"guess", key["X-API-Key"].encode()):
        assert secret not in written
    assert main(["audit", "--folder", str(tmp_path / "audit"), "export"]) == 0
    exported = [orjson.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert [item["resourceType"] for item in exported] == ["AuditEvent"] * 5
    assert [item["outcome"] for item in exported] == ["0", "0", "4", "4", "4"]
    assert exported[0]["agent"][0]["who"]["identifier"]["value"] == "lab"
