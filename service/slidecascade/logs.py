"""JSON log lines on stderr that never contain the name of a slide or file, a path or a query.

Messages of this package contain no such data. Messages of other packages (image readers name files, asyncio prints
exceptions) are withheld, except those of a few trusted servers. Of an exception only the type and the stack frames
are logged, not the message.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import PurePath
from types import TracebackType
from typing import Any, TextIO

from slidecascade.errors import SlideCascadeError

OWN = "slidecascade"
_TRUSTED = frozenset({OWN, "bentoml", "uvicorn"})
_WITHHELD = "(message of another package withheld: it may name a file)"
_MAX_FRAMES = 40
_MAX_MESSAGES = 1000

_REQUEST_ID: ContextVar[str | None] = ContextVar("slidecascade_request_id", default=None)

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


@contextmanager
def request(request_id: str) -> Iterator[None]:
    """Add `request_id` to every record of this context."""
    token = _REQUEST_ID.set(request_id)
    try:
        yield
    finally:
        _REQUEST_ID.reset(token)


def configure(*, level: int = logging.INFO, stream: TextIO | None = None, service: str = "") -> None:
    """Route every logger of this process to one handler; can be called again.

    `service` is added to every line, for processes that share a log.

    Access logs of uvicorn and BentoML contain raw paths and are disabled; the web middleware writes its own.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    handler.addFilter(_is_not_duplicate)
    handler.addFilter(_RateLimit())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(OWN).setLevel(level)
    for name in ("bentoml", "circus", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    for name in ("uvicorn.access", "bentoml.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = False


class Throttle:
    """Limits a frequent message to one line per `every_s`, with the number of occurrences."""

    def __init__(self, logger: logging.Logger, message: str, *, every_s: float = 1.0) -> None:
        self._logger = logger
        self._message = message
        self._every_s = every_s
        self._next_at = 0.0
        self._count = 0

    def note(self) -> None:
        """Record one occurrence."""
        self._count += 1
        now = time.monotonic()
        if now >= self._next_at:
            self._logger.warning(self._message, extra={"fields": {"count": self._count}})
            self._next_at, self._count = now + self._every_s, 0


class _RateLimit(logging.Filter):
    """Limits equal messages of other packages to one record per `every_s`, with the number of occurrences."""

    def __init__(self, *, every_s: float = 1.0) -> None:
        super().__init__()
        self._every_s = every_s
        self._latest: dict[tuple[str, str], tuple[float, int]] = {}
        """By logger and message template, so that the number of keys is bounded by the lines of code."""

    def filter(self, record: logging.LogRecord) -> bool:
        if _is_own(record):
            return True
        key = (record.name, str(record.msg).partition("\n")[0])
        logged_at, withheld = self._latest.get(key, (-math.inf, 0))
        now = time.monotonic()
        if now < logged_at + self._every_s:
            self._latest[key] = (logged_at, withheld + 1)
            return False
        if len(self._latest) >= _MAX_MESSAGES:
            self._latest.clear()
        self._latest[key] = (now, 0)
        if withheld:
            record.fields = {"count": withheld + 1}
        return True


def _is_not_duplicate(record: logging.LogRecord) -> bool:
    """False for records of other packages about our own errors, which are logged where they are handled."""
    error = record.exc_info[1] if record.exc_info else None
    return _is_own(record) or not isinstance(error, SlideCascadeError)


def _is_own(record: logging.LogRecord) -> bool:
    return record.name.split(".")[0] == OWN


class JsonFormatter(logging.Formatter):
    """``{"time", "level", "logger", "service"?, "message", "request_id"?, ...fields, "exception"?}`` on one line.

    Fields come from ``extra={"fields": {...}}``.
    """

    def __init__(self, service: str = "") -> None:
        super().__init__()
        self._common = {"service": service} if service else {}

    def format(self, record: logging.LogRecord) -> str:
        trusted = record.name.split(".")[0] in _TRUSTED
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._common,
            "message": record.getMessage().strip() if trusted else _WITHHELD,
        }
        if request_id := _REQUEST_ID.get():
            line["request_id"] = request_id
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = exception_fields(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False, default=str)


def exception_fields(error: BaseException) -> list[dict[str, Any]]:
    """The error and its causes, outermost first: type and frames, without messages, which may contain an id."""
    chain: list[dict[str, Any]] = []
    current: BaseException | None = error
    while current is not None and len(chain) < 5:
        name = f"{type(current).__module__}.{type(current).__qualname__}".removeprefix("builtins.")
        chain.append({"type": name, "frames": _frames(current.__traceback__)})
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return chain


def _frames(trace: TracebackType | None) -> list[str]:
    frames = traceback.StackSummary.extract(traceback.walk_tb(trace), lookup_lines=False)[-_MAX_FRAMES:]
    return [f"{'/'.join(PurePath(frame.filename).parts[-2:])}:{frame.lineno} {frame.name}" for frame in frames]
