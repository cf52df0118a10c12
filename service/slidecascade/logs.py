"""JSON lines on stderr, one per record, that never name a slide, a file, a path or a query.

Messages of this package are written to be safe. Messages of others (image readers name files, asyncio prints
exceptions) are withheld but for the few servers whose messages are known; of an exception only its type and the
places it passed are told, never its own words.
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
    """Every record of this context carries `request_id`."""
    token = _REQUEST_ID.set(request_id)
    try:
        yield
    finally:
        _REQUEST_ID.reset(token)


def configure(*, level: int = logging.INFO, stream: TextIO | None = None, service: str = "") -> None:
    """Send every logger of this process through one handler; may be called again.

    Where processes share a log, `service` says in every line which one speaks.

    Access lines of uvicorn and BentoML hold raw paths and are switched off: `boundary` writes ours.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    handler.addFilter(_is_news)
    handler.addFilter(_Flood())
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
    """One line a second at most about something that may happen thousands of times; it carries how often."""

    def __init__(self, logger: logging.Logger, message: str, *, every_s: float = 1.0) -> None:
        self._logger = logger
        self._message = message
        self._every_s = every_s
        self._next_at = 0.0
        self._count = 0

    def note(self) -> None:
        """It has happened."""
        self._count += 1
        now = time.monotonic()
        if now >= self._next_at:
            self._logger.warning(self._message, extra={"fields": {"count": self._count}})
            self._next_at, self._count = now + self._every_s, 0


class _Flood(logging.Filter):
    """Of what another package says in the same words, one record a second is let through; it carries how many."""

    def __init__(self, *, every_s: float = 1.0) -> None:
        super().__init__()
        self._every_s = every_s
        self._latest: dict[tuple[str, str], tuple[float, int]] = {}
        """By logger and message, its arguments left out: these are as many as there are lines of code."""

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


def _is_news(record: logging.LogRecord) -> bool:
    """False for what another package says about an error of ours: whoever handles it says it once."""
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
            line["exception"] = _told(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False, default=str)


def _told(error: BaseException) -> list[dict[str, Any]]:
    """The error and its causes, outermost first: type and frames, without the message, which may hold an id."""
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
