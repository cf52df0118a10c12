"""A stand-in for the service: jobs end after a time without any work, so that only the bridge is measured."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Final

from slidecascade.wire import (
    PNG,
    PROBLEM,
    PROBLEM_PREFIX,
    JobInfo,
    JobProgress,
    PipelineInfo,
    RegionBox,
    SlideInfo,
    Summary,
)
from slidecascade.wire.jobs import (
    JobBatch,
    JobBatchItem,
    JobBatchResult,
    JobFile,
    JobFileList,
    JobLinks,
    JobStatus,
)
from slidecascade.wire.results import AnswerWarning, ModelUse, Share, Tiles

PIPELINE: Final = "nash"
SLIDE: Final = "S-1.svs"
MODEL_SHA256: Final = "5f" * 32
SUMMARY: Final = Summary(
    pipeline=PIPELINE,
    coordinate_space="level0-pixels",
    region=RegionBox(x=0, y=0, width=1000, height=1000),
    mpp=0.25,
    cells=40,
    counts={"Hepatocyte": 30, "Hepatocyte: Ballooned": 12, "Other": 10},
    fractions={
        "ballooning": Share(value=0.4, numerator=12, denominator=30, of="classified hepatocytes"),
        "steatosis": Share(value=None, numerator=0, denominator=0, of="classified hepatocytes"),
    },
    densities_per_mm2={"Other": 160.0},
    area_mm2=0.0625,
    tissue_area_mm2=0.0625,
    thresholds={"nuclei": 0.5},
    tiles=Tiles(total=1, background=0),
    models=(ModelUse(name="nuclei", version=1, sha256=MODEL_SHA256, role="segmenter", mpp=0.25, downsample=1.0),),
    heatmaps=(),
    timings_s={"total": 0.1},
    warnings=(AnswerWarning(code="ink", message="3 tiles | hold ink."),),
)


class StandIn(ThreadingHTTPServer):
    """Jobs by idempotency key.

    Attributes:
        jobs: id of the job by idempotency key.
        ends: how jobs of a pipeline or slide end, if not with success.
        seconds: how long a job runs.
        delay_s: between a submission and its answer, so that a kill finds submissions without an answer.
        away: whether every request is answered with 503.
        bare_status: what every request is answered with, as by a proxy, without a problem document; 0: nothing.
        order: the slides of the jobs, in the order of their submission.
        refused: requests for unknown slides.
        overlay: the content of every job's ``overlay.png``; empty: jobs have no files.
    """

    daemon_threads = True

    def __init__(self, port: int = 0, *, seconds: float = 0.1) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.seconds = seconds
        self.delay_s = 0.0
        self.away = False
        self.bare_status = 0
        self.slides = {SLIDE}
        self.ends: dict[str, JobStatus] = {}
        self.jobs: dict[str, str] = {}
        self.requests: dict[str, JobInfo] = {}
        self.order: list[str] = []
        self.refused = 0
        self.overlay = b""
        self.cancelled: set[str] = set()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections of killed bridges are not reported."""

    def submitted(self, body: bytes) -> JobBatchResult:
        """The answer to a batch."""
        items = []
        for order in JobBatch.model_validate_json(body).jobs:
            with self.lock:
                key = order.idempotency_key or uuid.uuid4().hex
                if order.slide not in self.slides:
                    self.refused += 1
                    problem = {**_problem("unknown-slide", 404), "detail": f"There is no slide {order.slide!r}."}
                    items.append(JobBatchItem.model_validate({"status": 404, "problem": problem}))
                    continue
                status = 200 if key in self.jobs else 202
                if status == 202:
                    self.jobs[key] = str(uuid.uuid4())
                    self.order.append(order.slide)
                    self.requests[self.jobs[key]] = _info(self.jobs[key], order.pipeline, order.slide, order.label)
                items.append(JobBatchItem(status=status, job=self.requests[self.jobs[key]]))
        return JobBatchResult(jobs=tuple(items))

    def state(self, job: str) -> JobInfo | None:
        info = self.requests.get(job)
        if info is None:
            return None
        status: JobStatus = "running"
        if job in self.cancelled:
            status = "cancelled"
        elif time.time() - info.created_at.timestamp() >= self.seconds:
            status = self.ends.get(info.slide or "", "succeeded")
        problem = (
            {**_problem("tiles-failed", 500), "detail": "2 tiles failed twice."} if status == "failed" else None
        )
        return info.model_validate({**info.model_dump(), "status": status, "error": problem})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the client's delayed ACK adds 40 ms to each answer
    server: StandIn

    def do_GET(self) -> None:
        parts = self.path.split("?", maxsplit=1)[0].strip("/").split("/")
        if self.server.bare_status:
            self._send(self.server.bare_status, b"<html>A page of a proxy</html>", "text/html")
        elif self.server.away:
            self._problem("not-ready", 503)
        elif parts[1] == "pipelines" and parts[2] == PIPELINE:
            info = PipelineInfo(name=PIPELINE, title="", description="", classifiers=(), classes=(), heatmaps=())
            self._answer(200, info.model_dump_json())
        elif parts[1] == "slides" and parts[2] in self.server.slides:
            slide = SlideInfo(
                id=parts[2], width=1, height=1, mpp=0.25, objective_power=None, vendor=None, levels=()
            )
            self._answer(200, slide.model_dump_json())
        elif parts[1] == "jobs" and parts[-1] == "files":
            overlay = self.server.overlay
            sha1 = hashlib.sha1(overlay, usedforsecurity=False).hexdigest()
            file = JobFile(name="overlay.png", bytes=len(overlay), media_type=PNG, sha1=sha1)
            files = (file,) if overlay else ()
            self._answer(200, JobFileList(files=files).model_dump_json())
        elif parts[1] == "jobs" and parts[-1] == "overlay.png":
            self._send(200, self.server.overlay, PNG)
        elif parts[1] == "jobs" and (info_or_none := self.server.state(parts[2])) is not None:
            self._answer(200, (SUMMARY if parts[-1] == "result" else info_or_none).model_dump_json())
        else:
            self._problem(
                {"slides": "unknown-slide", "pipelines": "unknown-pipeline"}.get(parts[1], "unknown-job"), 404
            )

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.bare_status:
            self._send(self.server.bare_status, b"<html>A page of a proxy</html>", "text/html")
        elif self.server.away:
            self._problem("not-ready", 503)
        elif self.path.endswith("/cancel"):
            job = self.path.split("/")[-2]
            self.server.cancelled.add(job)
            state = self.server.state(job)
            self._answer(200, "" if state is None else state.model_dump_json())
        else:
            answer = self.server.submitted(body).model_dump_json()
            time.sleep(self.server.delay_s)
            self._answer(200, answer)

    def _problem(self, name: str, status: int) -> None:
        self._answer(status, json.dumps(_problem(name, status)), PROBLEM)

    def _answer(self, status: int, text: str, media_type: str = "application/json") -> None:
        self._send(status, text.encode(), media_type)

    def _send(self, status: int, content: bytes, media_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature of the base class
        """Requests are not logged."""


@contextmanager
def standing_in(*, port: int = 0, seconds: float = 0.1) -> Iterator[StandIn]:
    """A running stand-in."""
    server = StandIn(port, seconds=seconds)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def standing_in_apart(*, seconds: float, delay_s: float) -> Iterator[StandInApart]:
    """A stand-in in a process of its own, which takes no time of this one."""
    spawning = multiprocessing.get_context("spawn")
    own, its = spawning.Pipe()
    process = spawning.Process(target=_stand_in, args=(its, seconds, delay_s), daemon=True)
    process.start()
    try:
        yield StandInApart(own.recv(), own)
    finally:
        own.close()
        process.join()


@dataclass(frozen=True, slots=True)
class StandInApart:
    """A stand-in elsewhere."""

    url: str
    connection: Connection

    def jobs(self) -> int:
        """How many it has made."""
        self.connection.send(None)
        count: int = self.connection.recv()
        return count


def _stand_in(connection: Connection, seconds: float, delay_s: float) -> None:
    """Serve, and report the number of jobs when asked, until the other end closes."""
    with standing_in(seconds=seconds) as service, suppress(EOFError):
        service.delay_s = delay_s
        connection.send(service.url)
        while True:
            connection.recv()
            connection.send(len(service.jobs))


def _problem(name: str, status: int) -> dict[str, str | int]:
    return {
        "type": PROBLEM_PREFIX + name,
        "title": name,
        "status": status,
        "detail": f"This is {name}.",
        "request_id": "stand-in",
    }


def _info(job: str, pipeline: str, slide: str, label: str | None) -> JobInfo:
    return JobInfo(
        id=job,
        status="queued",
        pipeline=pipeline,
        slide=slide,
        label=label,
        created_at=datetime.now(UTC),
        progress=JobProgress(fields_done=0, fields_total=None, fraction=0.0, cells=0, eta_s=None),
        links=JobLinks(self=f"/v1/jobs/{job}", events=f"/v1/jobs/{job}/events"),
    )
