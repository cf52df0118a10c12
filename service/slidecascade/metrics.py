"""All Prometheus metrics of the service. Labels are bounded and never name a slide, request or patient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from slidecascade import __version__
from slidecascade.errors import DrainingError, NotReadyError, OverloadedError
from slidecascade.warning import WARNING_CODES
from slidecascade.wire import JobStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
UNMATCHED = "unmatched"
"""The route label of requests to unknown paths."""

_REASONS = (DrainingError.problem, NotReadyError.problem, OverloadedError.problem)
_OUTCOMES = ("background", "done", "failed", "retried")
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_REQUEST_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300, 600)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_RUN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_STAGE_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


_JOB_NUMBERS = {
    "fields_done": "Fields done of all jobs that are kept.",
    "cells": "Cells found by all jobs that are kept.",
    "fields_waiting": "Fields of unfinished jobs that are not done.",
    "oldest_seconds": "Age of the oldest unfinished job.",
    "take_overs": "Dead processes whose work was taken over, since the database was created.",
    "disk_used_bytes": "Size of the folder of jobs, as of about a minute ago.",
    "disk_free_bytes": "Free space in the folder of jobs.",
}


@dataclass(frozen=True, slots=True)
class JobNumbers:
    """Numbers of all jobs that are kept.

    `fields` are done and have found `cells`; `waiting` are those of unfinished jobs that are not done; `oldest_s`
    is the age of the oldest of these jobs in seconds. `take_overs` and `notifications` (by state) count since the
    database was created; the disk's bytes are those of the folder of jobs.
    """

    by_status: Mapping[JobStatus, int]
    fields: int
    cells: int
    waiting: int
    oldest_s: float
    take_overs: int
    notifications: Mapping[str, int]
    used_bytes: int
    free_bytes: int


class Metrics:
    """The metrics of one process in a separate registry. Thread-safe.

    Implements `Observer` and `RunObserver`.
    """

    def __init__(self) -> None:
        # Creation times double the number of series and are not used.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._requests = Counter(
            "slidecascade_requests_total", "Completed requests.", ("route", "method", "status"), registry=registry
        )
        self._request_seconds = Histogram(
            "slidecascade_request_duration_seconds",
            "Time from the first byte of the request to the last byte of the response.",
            ("route", "method"),
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "slidecascade_stage_duration_seconds",
            "Duration of one execution of a stage.",
            ("stage",),
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self._cells = Counter(
            "slidecascade_cells_total", "Cells found.", ("pipeline", "class_name"), registry=registry
        )
        self._warnings = Counter(
            "slidecascade_warnings_total", "Warnings in responses.", ("code",), registry=registry
        )
        self._tiles = Counter("slidecascade_tiles_total", "Tiles by outcome.", ("outcome",), registry=registry)
        self._ready = Gauge(
            "slidecascade_ready", "1 while requests are accepted, 0 while the process drains.", registry=registry
        )
        self._networks = Gauge(
            "slidecascade_networks_ready",
            "1 while every network is available, 0 while a remote one is not; checked at every scrape.",
            registry=registry,
        )
        self._limit = Gauge("slidecascade_regions_limit", "Maximum concurrent regions.", registry=registry)
        self._batch_size = Histogram(
            "slidecascade_batch_size",
            "Images per run of a network.",
            ("model",),
            buckets=_BATCH_SIZES,
            registry=registry,
        )
        self._batch_wait = Histogram(
            "slidecascade_batch_wait_seconds",
            "Queueing time of the images of one call.",
            ("model",),
            buckets=_RUN_SECONDS,
            registry=registry,
        )
        self._run_seconds = Histogram(
            "slidecascade_model_run_seconds",
            "Duration of one run of a network.",
            ("model",),
            buckets=_RUN_SECONDS,
            registry=registry,
        )
        self._queue = Gauge(
            "slidecascade_batch_queue_items", "Images queued for a network.", ("model",), registry=registry
        )
        self._in_flight = Gauge("slidecascade_regions_in_flight", "Regions being processed.", registry=registry)
        self._memory = Gauge(
            "slidecascade_memory_reserved_bytes", "Memory reserved by regions in flight.", registry=registry
        )
        self._memory_limit = Gauge(
            "slidecascade_memory_limit_bytes", "Maximum memory of regions in flight.", registry=registry
        )
        self._inferences = Gauge(
            "slidecascade_inferences_in_flight", "Inferences being processed.", registry=registry
        )
        self._inferences_limit = Gauge(
            "slidecascade_inferences_limit", "Maximum concurrent inferences.", registry=registry
        )
        self._bodies = Gauge("slidecascade_bodies_arriving", "Request bodies being received.", registry=registry)
        self._body_bytes = Gauge(
            "slidecascade_bodies_arriving_bytes", "Size of the request bodies being received.", registry=registry
        )
        self._jobs = Gauge(
            "slidecascade_jobs",
            "Jobs that are kept, by status; asked at every scrape.",
            ("status",),
            registry=registry,
        )
        self._job_numbers: dict[str, Gauge] = {}
        self._notifications = Gauge(
            "slidecascade_jobs_notifications",
            "Notifications of ended jobs, by state.",
            ("state",),
            registry=registry,
        )
        self._rejections = Counter(
            "slidecascade_rejections_total", "Requests rejected temporarily.", ("reason",), registry=registry
        )
        self._cancelled = Counter(
            "slidecascade_cancelled_total", "Regions cancelled by a client disconnect.", registry=registry
        )
        self._decoders = Counter(
            "slidecascade_decoders_ended_total",
            "Processes that ended while they decoded an upload or read a slide.",
            registry=registry,
        )
        Gauge(
            "slidecascade_build_info", "Always 1; the version is a label.", ("version",), registry=registry
        ).labels(__version__).set(1)
        # rate() misses the first event of a series that starts with it, so series used by alerts start at 0.
        for reason in _REASONS:
            self._rejections.labels(reason)
        for outcome in _OUTCOMES:
            self._tiles.labels(outcome)
        for code in WARNING_CODES:
            self._warnings.labels(code)

    def request(self, *, route: str, method: str, status: int, seconds: float) -> None:
        """`route` is a template such as ``/v1/slides/{id}``, never the requested path."""
        known = method if method in _METHODS else "other"
        self._requests.labels(route, known, str(status)).inc()
        self._request_seconds.labels(route, known).observe(seconds)

    def memory(self, reserved: int) -> None:
        self._memory.set(reserved)

    def memory_limit(self, total: int) -> None:
        """Regions in flight may reserve so many bytes."""
        self._memory_limit.set(total)

    def limits(self, *, regions: int, inferences: int) -> None:
        """Set the limits of concurrent regions and inferences."""
        self._limit.set(regions)
        self._inferences_limit.set(inferences)

    def ready(self, is_open: bool) -> None:
        """Set whether requests are accepted."""
        self._ready.set(is_open)

    def networks_ready(self, can_run: bool) -> None:
        """Set whether every network is available."""
        self._networks.set(can_run)

    def regions(self, count: int) -> None:
        """Set the number of regions in flight."""
        self._in_flight.set(count)

    def inferences(self, count: int) -> None:
        """Set the number of inferences in flight."""
        self._inferences.set(count)

    def arriving(self, bodies: int, size_bytes: int) -> None:
        """Set the number and the received bytes of incomplete request bodies."""
        self._bodies.set(bodies)
        self._body_bytes.set(size_bytes)

    def jobs(self, numbers: JobNumbers) -> None:
        """Set the numbers of jobs."""
        for status, count in numbers.by_status.items():
            self._jobs.labels(status).set(count)
        values = {
            "fields_done": numbers.fields,
            "cells": numbers.cells,
            "fields_waiting": numbers.waiting,
            "oldest_seconds": numbers.oldest_s,
            "take_overs": numbers.take_overs,
            "disk_used_bytes": numbers.used_bytes,
            "disk_free_bytes": numbers.free_bytes,
        }
        for name, value in values.items():
            if name not in self._job_numbers:  # not shown by processes that take no jobs
                text = _JOB_NUMBERS[name]
                self._job_numbers[name] = Gauge(f"slidecascade_jobs_{name}", text, registry=self._registry)
            self._job_numbers[name].set(value)
        for state, count in numbers.notifications.items():
            self._notifications.labels(state).set(count)

    def rejected(self, reason: str) -> None:
        self._rejections.labels(reason).inc()

    def cancelled(self) -> None:
        self._cancelled.inc()

    def decoder_ended(self) -> None:
        """Count a process that ended while it decoded."""
        self._decoders.inc()

    def stage(self, name: str, seconds: float) -> None:
        self._stage_seconds.labels(name).observe(seconds)

    def tiles(self, outcome: str, count: int) -> None:
        self._tiles.labels(outcome).inc(count)

    def cells(self, pipeline: str, class_name: str, count: int) -> None:
        self._cells.labels(pipeline, class_name).inc(count)

    def warning(self, code: str) -> None:
        self._warnings.labels(code).inc()

    def ran(self, model: str, *, size: int, seconds: float) -> None:
        self._batch_size.labels(model).observe(size)
        self._run_seconds.labels(model).observe(seconds)

    def waited(self, model: str, seconds: float) -> None:
        self._batch_wait.labels(model).observe(seconds)

    def queued(self, model: str, items: int) -> None:
        self._queue.labels(model).set(items)

    def expose(self) -> bytes:
        """All series in the Prometheus text format."""
        return generate_latest(self._registry)
