"""The audit log: one line of JSON for each request, chained by hashes.

Each line holds the SHA-256 of the line before it, so that a line cannot be changed, removed or added without a
break. Cutting off the end leaves no break: `slidecascade audit verify` prints the last hash, which is kept
elsewhere and given to the next check. Objects (slides, jobs, models) are HMACs with a secret of this log, because
names of slides may be those of patients, and a plain hash of a name can be found by trying names.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import orjson

from slidecascade.errors import BrokenAuditLogError, NotReadyError, SettingsError
from slidecascade.staging import make_folder, writing_to

LOG = logging.getLogger(__name__)

FIRST: Final = "0" * 64
"""What stands for the hash before the first line."""

MAX_FILE_BYTES: Final = 64 * 2**20
_MOST_PENDING: Final = 1000


@dataclass(frozen=True, slots=True)
class Event:
    """What is recorded of a request.

    `who` is the caller's name, `by` how it was identified; `action` is the method and the route's template;
    `object` is what the request was about, as an HMAC; `outcome` is the HTTP status.
    """

    who: str
    by: str
    action: str
    object: str | None
    outcome: int
    request_id: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log as it was written."""

    number: int
    at: str
    event: Event
    previous: str
    digest: str


class AuditLog:
    """Writes the log in `folder`, for one process; from any thread.

    Raises:
        SettingsError: another process writes there, or the end of the log is not what this program wrote.
        UnwritableOutputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, *, max_file_bytes: int = MAX_FILE_BYTES) -> None:
        self._folder = folder
        self._max_file_bytes = max_file_bytes
        self._guard = threading.Lock()
        self._pending: list[tuple[str, Event]] = []
        make_folder(folder)
        self._claim = _claimed(folder)
        try:
            with writing_to(folder):
                self._secret = _secret(folder)
                found = log_files(folder)
                self._file = found[-1] if found else folder / _name(1)
                _cut_torn_line(self._file)
                last = None
                for path in found[-2:]:
                    last = _last(path) or last
                self._number, self._digest = (0, FIRST) if last is None else (last.number, last.digest)
                self._handle = _opened(self._file)
        except BaseException:
            os.close(self._claim)
            raise

    def identify(self, name: str) -> str:
        """What stands for an object of that name in this log."""
        return hmac.new(self._secret, name.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()

    def write(self, event: Event) -> None:
        """Append a line; one that cannot be written is kept, and written before the next request is accepted."""
        with self._guard:
            self._pending.append((datetime.now(UTC).isoformat(timespec="milliseconds"), event))
            del self._pending[:-_MOST_PENDING]
            try:
                self._flush()
            except OSError as error:
                LOG.error("audit log not written", extra={"fields": {"reason": error.strerror}})

    def require_writable(self, retry_after_s: int) -> None:
        """Raise NotReadyError while earlier lines cannot be written, e.g. on a full disk."""
        if not self._pending:
            return
        with self._guard:
            try:
                self._flush()
            except OSError as error:
                raise NotReadyError(
                    "The audit log cannot be written, and without it nothing is done: ask the operator to make "
                    "room in its folder.",
                    retry_after_s=retry_after_s,
                ) from error

    def close(self) -> None:
        with self._guard:
            os.fsync(self._handle)
            os.close(self._handle)
            os.close(self._claim)

    def _flush(self) -> None:
        while self._pending:
            at, event = self._pending[0]
            if os.fstat(self._handle).st_size >= self._max_file_bytes:
                self._rotate()
            number = self._number + 1
            body = _body(number, at, event, self._digest)
            digest = _digest(body)
            line = orjson.dumps({**orjson.loads(body), "hash": digest}) + b"\n"
            start = os.fstat(self._handle).st_size
            if os.write(self._handle, line) != len(line):
                os.ftruncate(self._handle, start)
                raise OSError(28, "the disk is full")
            self._number, self._digest = number, digest
            del self._pending[0]

    def _rotate(self) -> None:
        self._file = self._folder / _name(int(self._file.stem.rpartition("-")[2]) + 1)
        handle = _opened(self._file)
        os.fsync(self._handle)
        os.close(self._handle)
        self._handle = handle


@dataclass(frozen=True, slots=True)
class Checked:
    """A log without a break: its number of lines and the hash of the last one."""

    lines: int
    head: str


def verify(folder: Path, *, expected: str | None = None) -> Checked:
    """Check the chain of all lines in `folder`; `expected` is a hash that an earlier check reported.

    Raises:
        BrokenAuditLogError: the chain is broken, or `expected` is not in it; the message names the line.
    """
    lines, head, seen = 0, FIRST, expected in (None, FIRST)
    for line in read_lines(folder):
        lines, head = line.number, line.digest
        seen = seen or head == expected
    if not seen:
        raise BrokenAuditLogError("The expected hash is not in the log: its end was cut off or replaced.")
    return Checked(lines, head)


def read_lines(folder: Path) -> Iterator[Line]:
    """The lines of the log in order, each checked against the one before.

    Raises:
        BrokenAuditLogError: at the first line that does not continue the chain.
    """
    number, head = 0, FIRST
    for path in log_files(folder):
        with path.open("rb") as file:
            for place, text in enumerate(file, 1):
                line = _parsed(text)
                if line is None or line.previous != head or line.number != number + 1:
                    raise BrokenAuditLogError(
                        f"Line {place} of {path.name} does not continue the chain: lines were changed, removed or "
                        "added there."
                    )
                number, head = line.number, line.digest
                yield line


def log_files(folder: Path) -> list[Path]:
    """The files of the log, the oldest first."""
    return sorted(folder.glob("audit-[0-9]*.jsonl"))


def _name(index: int) -> str:
    return f"audit-{index:08d}.jsonl"


def _body(number: int, at: str, event: Event, previous: str) -> bytes:
    """What is hashed: the line without its hash."""
    return orjson.dumps({"number": number, "at": at, **asdict(event), "previous": previous})


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _parsed(text: bytes) -> Line | None:
    """A line; None where it is not one that this program wrote."""
    try:
        fields = orjson.loads(text)
        digest = fields.pop("hash")
        number, at, previous = fields.pop("number"), fields.pop("at"), fields.pop("previous")
        event = Event(**fields)
        body = _body(number, at, event, previous)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    # The text itself is compared too, so that no byte can be changed.
    is_whole = text == orjson.dumps({**orjson.loads(body), "hash": digest}) + b"\n"
    return Line(number, at, event, previous, digest) if is_whole and _digest(body) == digest else None


def _claimed(folder: Path) -> int:
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise SettingsError(
            "Another process writes the audit log in this SLIDECASCADE_AUDIT_DIR: give each process a folder of "
            "its own."
        ) from error
    return handle


def _secret(folder: Path) -> bytes:
    path = folder / "secret"
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        pass
    return path.read_bytes()


def _opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def _cut_torn_line(path: Path) -> None:
    """Move what a power failure has left of a last line to a file of its own."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        torn = path.with_suffix(f".torn-{whole}")
        torn.write_bytes(content[whole:])
        os.truncate(path, whole)
        LOG.warning("torn line of the audit log removed", extra={"fields": {"bytes": len(content) - whole}})


def _last(path: Path) -> Line | None:
    """The last line of a file; None: it is empty. Raises SettingsError."""
    text = path.read_bytes().rstrip(b"\n").rpartition(b"\n")[2]
    if not text:
        return None
    line = _parsed(text + b"\n")
    if line is None:
        raise SettingsError(
            "The audit log in SLIDECASCADE_AUDIT_DIR ends with a line that was changed: keep that folder as it "
            "is, and name another one."
        )
    return line
