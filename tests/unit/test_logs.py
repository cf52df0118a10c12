"""Log lines: one JSON object each, and nothing in them that names a slide."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from slidecascade import logs
from slidecascade.errors import UnknownSlideError
from slidecascade.metrics import Metrics
from slidecascade.web.pool import Pool

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What was logged; the loggers are put back afterwards."""
    names = (
        None,
        "slidecascade",
        "bentoml",
        "circus",
        "uvicorn",
        "uvicorn.error",
        "uvicorn.access",
        "bentoml.access",
    )
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    stream = io.StringIO()
    logs.configure(stream=stream)
    logs.configure(stream=stream)  # a second time must not double the lines
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def fail() -> None:
    try:
        raise OSError("cannot open /data/Doe.svs")
    except OSError as error:
        raise ValueError("Doe.svs") from error


def test_a_line_holds_what_is_needed(lines: Lines) -> None:
    """Time, level, logger, message, request id and fields, on one line whatever the message holds."""
    with logs.request("id-7"):
        logging.getLogger("slidecascade.x").info("two\nlines", extra={"fields": {"in_flight": 3}})
    (line,) = lines()

    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "slidecascade.x",
        "message": "two\nlines",
        "request_id": "id-7",
        "in_flight": 3,
    }


def test_a_line_says_which_process_speaks() -> None:
    """Where several write to one log."""
    record = logging.LogRecord(
        "slidecascade.web.middleware.drain", logging.INFO, __file__, 1, "draining", None, None
    )
    assert json.loads(logs.JsonFormatter("model-nash-cell").format(record))["service"] == "model-nash-cell"
    assert "service" not in json.loads(logs.JsonFormatter().format(record))


def test_an_exception_is_logged_by_type_and_place(lines: Lines) -> None:
    """Its own words, and those of its cause, may name a file; the frames do not."""
    try:
        fail()
    except ValueError:
        logging.getLogger("slidecascade").exception("unexpected")
    (line,) = lines()

    assert [link["type"] for link in line["exception"]] == ["ValueError", "OSError"]
    assert line["exception"][0]["frames"][-1].endswith(" fail")
    assert "Doe" not in json.dumps(line)


def test_words_of_other_packages_are_withheld(lines: Lines) -> None:
    """Image readers name the files they complain about."""
    logging.getLogger("tifffile").error("<TiffFile 'Doe.svs'> is corrupt")
    logging.getLogger("asyncio").error("Task exception was never retrieved: Doe")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("uvicorn.access").info("GET /v1/slides/Doe.svs")

    assert "Doe" not in json.dumps(lines())
    assert [line["logger"] for line in lines()] == ["tifffile", "asyncio", "uvicorn.error"]
    assert lines()[2]["message"] == "Invalid HTTP request received."


def test_our_own_error_is_logged_once(lines: Lines) -> None:
    """What BentoML says about an error that becomes an answer is left out."""
    for name in ("bentoml.serve", "slidecascade"):
        logging.getLogger(name).error("failed", exc_info=UnknownSlideError("Doe"))

    assert [line["logger"] for line in lines()] == ["slidecascade"]


async def test_threads_keep_the_request_id(lines: Lines) -> None:
    """Work in a thread logs with the id of the request it belongs to."""
    pool = Pool(2, name="test")

    async def ask(request_id: str) -> None:
        with logs.request(request_id):
            await pool.run(logging.getLogger("slidecascade").info, "in a thread")

    await asyncio.gather(*(ask(f"id-{number}") for number in range(4)))
    pool.close()

    assert {line["request_id"] for line in lines()} == {"id-0", "id-1", "id-2", "id-3"}


def test_the_work_is_observed() -> None:
    """Stages, tiles and cells appear under their names, with the process's own numbers beside them."""
    metrics = Metrics()
    metrics.stage("segment", 0.2)
    metrics.tiles("done", 4)
    metrics.cells("nash", "Hepatocyte: Steatosis", 17)
    page = metrics.expose().decode()

    for line in (
        'slidecascade_stage_duration_seconds_count{stage="segment"} 1.0',
        'slidecascade_tiles_total{outcome="done"} 4.0',
        'slidecascade_cells_total{class_name="Hepatocyte: Steatosis",pipeline="nash"} 17.0',
        'slidecascade_build_info{version="',
        "process_resident_memory_bytes ",
    ):
        assert line in page
    assert "_created" not in page


def test_a_flood_of_one_foreign_message_is_one_line_a_second(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio reports two thousand times a second that there are no more files; the next line says how often."""
    now = 100.0
    monkeypatch.setattr("slidecascade.logs.time.monotonic", lambda: now)
    foreign = logging.getLogger("asyncio")
    for number in range(1000):
        foreign.error("no more files\nsocket %d", number)
        foreign.error("another")
        logging.getLogger("slidecascade.x").warning("ours")
    messages = [(line["logger"], line.get("count")) for line in lines()]
    assert messages.count(("asyncio", None)) == 2
    assert messages.count(("slidecascade.x", None)) == 1000
    now = 101.0
    foreign.error("no more files\nsocket %d", 7)
    assert lines()[-1]["count"] == 1000


def test_a_throttled_line_says_how_often(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what happens a thousand times in a second there is one line, and later one that counts the others."""
    now = 100.0
    monkeypatch.setattr("slidecascade.logs.time.monotonic", lambda: now)
    throttle = logs.Throttle(logging.getLogger("slidecascade.x"), "closed")
    for _ in range(1000):
        throttle.note()
    now = 101.5
    throttle.note()
    assert [line["count"] for line in lines()] == [1, 1000]
