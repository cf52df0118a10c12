"""The work of jobs in this process: cut a slide, run a field, collect the parts. The worker boundary."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.errors import (
    CancelledError,
    ModelPackageError,
    NotReadyError,
    RetryLaterError,
    SlideCascadeError,
    SlideChangedError,
    StorageFullError,
    UnwritableOutputError,
)
from slidecascade.jobs.durable import MAX_DEATHS, Durable, Stopped
from slidecascade.jobs.fields import FIELD_TILES, Field
from slidecascade.jobs.folders import Folders
from slidecascade.jobs.records import Failure, JobRecord, Records
from slidecascade.jobs.survey import Survey
from slidecascade.jobs.table import open_survey

LOG = logging.getLogger(__name__)

KEPT_SURVEYS: Final = 8
_ASK_S: Final = 0.5
"""How often work asks whether its job was cancelled."""

_LONGEST_WAIT_S: Final = 30.0
"""Between two tries where networks or the disk are not there."""


class Foreman:
    """Does what `Durable` hands out, from many threads at once; `field_tiles` are tiles of a field each way."""

    def __init__(
        self,
        analyser: Analyser,
        records: Records,
        folders: Folders,
        durable: Durable,
        *,
        field_tiles: int = FIELD_TILES,
    ) -> None:
        self._field_tiles = field_tiles
        self._analyser = analyser
        self._records = records
        self._folders = folders
        self._durable = durable
        self._surveys: OrderedDict[tuple[str, int], Survey] = OrderedDict()
        self._opening: dict[tuple[str, int], threading.Lock] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._controls: set[Control] = set()

    def stop(self) -> None:
        """Break off all work, which is left to the next process."""
        self._stopping.set()
        for control in tuple(self._controls):
            control.cancel()

    def plan(self, job: str, attempt: int) -> None:
        """Cut the slide into fields and queue those that are not done."""

        def cut(record: JobRecord, _control: Control) -> None:
            survey = self._survey(record)
            reports = {field.index: report for field, report in survey.reports()}
            done = {index: report.cells for index, report in reports.items() if report is not None}
            if not self._records.start(job, attempt, fields_total=len(reports), done=done):
                return
            self._durable.submit_fields(job, attempt, [index for index in reports if index not in done])
            if len(done) == len(reports):
                self._durable.submit_collect(job, attempt)

        self._do(f"{job}.{attempt}", job, attempt, cut)

    def field(self, job: str, attempt: int, index: int) -> None:
        """Run a field, unless its part is there; the last one queues the end of the job."""

        def run(record: JobRecord, control: Control) -> None:
            self._folders.require_room()
            survey = self._survey(record)
            field = survey.fields[index]
            report = survey.done(field)
            if report is None:
                with self._memory(survey, field, control):
                    report = survey.run(field, control, progress=self._watch(record, control))
            LOG.info("field done", extra={"fields": {"job": job, "field": index, "cells": report.cells}})
            if self._records.finish_field(job, attempt, index, report.cells):
                self._durable.submit_collect(job, attempt)

        self._do(f"{job}.{attempt}.{index}", job, attempt, run)

    def collect(self, job: str, attempt: int) -> None:
        """Write the files of a job; fields with missing parts are run again."""

        def write(record: JobRecord, control: Control) -> None:
            self._folders.require_room()
            survey = self._survey(record)
            largest = max(survey.fields, key=survey.memory_bytes)
            with self._memory(survey, largest, control):  # one field at a time is run again, or held
                self._write(record, survey, control)

        self._do(f"{job}.{attempt}.collect", job, attempt, write)
        self._forget(job, attempt)

    def _write(self, record: JobRecord, survey: Survey, control: Control) -> None:
        watch = self._watch(record, control)
        reports = [report or survey.run(field, control, progress=watch) for field, report in survey.reports()]
        control.check()
        self._analyser.trim()  # pictures of the slide need no more memory than its tiles did
        seconds = max(0.0, time.time() - (record.started_at or record.created_at))  # clocks can be set back
        self._folders.write_results(record, survey.collect(reports, seconds=seconds), survey.task)
        has_cells = self._folders.has_cells(record.id)
        if self._records.end(record.id, record.attempt, "succeeded", has_cells=has_cells):
            LOG.info("job succeeded", extra={"fields": {"job": record.id, "fields": len(reports)}})

    @contextmanager
    def _memory(self, survey: Survey, field: Field, control: Control) -> Iterator[None]:
        """Reserve what `field` may take, in what is left by regions."""
        share = self._analyser.memory.share(is_job=True)
        try:
            share.reserve(survey.memory_bytes(field), control)
            yield
        finally:
            share.release()

    def give_up(self, job: str, attempt: int) -> None:
        """The job fails: its work has killed too many processes."""
        failure = Failure(
            "worker-lost",
            "Worker lost",
            f"{MAX_DEATHS} processes died while they ran the same part of this slide: check their logs, then "
            "retry the job.",
        )
        if self._records.end(job, attempt, "failed", failure):
            LOG.error("job given up", extra={"fields": {"job": job}})
            self._durable.cancel(job, attempt)

    def _do(self, name: str, job: str, attempt: int, work: Callable[[JobRecord, Control], None]) -> None:
        """`work`, again and again while something it needs is not there; its errors end the job.

        Args:
            name: the workflow's id.
        """
        pause = _Pause(self._stopping)
        while True:
            control = Control(is_job=True)
            self._controls.add(control)
            try:
                self._stop_here()
                if self._records.is_current(job, attempt):
                    with self._durable.at_work(name, control):
                        work(self._records.get(job), control)
            except CancelledError:
                self._stop_here()
            except (RetryLaterError, UnwritableOutputError) as error:
                LOG.warning("job waits", extra={"fields": {"job": job, "problem": error.problem}})
                pause.wait()
                continue
            except SlideCascadeError as error:
                self._stop_here()
                self._fail(job, attempt, error)
            except Exception as error:  # the worker boundary: a fault in one job ends that job
                self._stop_here()
                LOG.exception("a job failed unexpectedly", extra={"fields": {"job": job}})
                self._fail(job, attempt, error)
            finally:
                self._controls.discard(control)
            return

    def _stop_here(self) -> None:
        """While the process stops, queue, networks and threads go away under the work: that is not its fault."""
        if self._stopping.is_set():
            raise Stopped

    def _fail(self, job: str, attempt: int, error: Exception) -> None:
        if isinstance(error, SlideCascadeError) and not isinstance(error, ModelPackageError):
            failure = Failure(error.problem, error.title, error.detail)
        else:
            failure = Failure("internal-error", "Internal error", "The job failed unexpectedly: see the log.")
        pause = _Pause(self._stopping)
        while True:
            try:
                if self._records.end(job, attempt, "failed", failure):
                    LOG.error("job failed", extra={"fields": {"job": job, "problem": failure.problem}})
                self._durable.cancel(job, attempt)
            except (NotReadyError, StorageFullError):
                self._stop_here()
                pause.wait()
                continue
            break
        self._forget(job, attempt)

    def _watch(self, record: JobRecord, control: Control) -> Callable[[int, int], None]:
        """Called after each tile: breaks the work off when its job was cancelled."""
        asked_at = time.monotonic()

        def look(_done: int, _total: int) -> None:
            nonlocal asked_at
            if time.monotonic() - asked_at >= _ASK_S:
                asked_at = time.monotonic()
                with suppress(NotReadyError, StorageFullError):  # the database comes back: the work is not lost
                    if not self._records.is_current(record.id, record.attempt):
                        control.cancel()
            control.check()

        return look

    def _survey(self, record: JobRecord) -> Survey:
        """The survey of this attempt of a job, kept for its next fields.

        Raises:
            SlideChangedError: the slide is not the one that was submitted; a retry takes it as it is.
            ModelChangedError: models are not those that the attempt began with.
            CancelledError: the attempt ended while its slide was opened.
        """
        key = (record.id, record.attempt)
        with self._lock:
            opening = self._opening.setdefault(key, threading.Lock())
        with opening:  # one lock for each: a disk that does not answer holds up the jobs of its slides only
            survey = self._kept(key)
            if survey is None:
                survey = self._open(record)
                self._keep(key, survey)
            return survey

    def _open(self, record: JobRecord) -> Survey:
        sent = self._folders.sent(record)
        task = self._analyser.prepare(record.request.region_request(), sent, Control(), is_bounded=False)
        if record.attempt == 1 and record.content_id not in (None, task.facts.content_id):
            raise SlideChangedError(
                "The slide was replaced after the job was submitted: retry the job to analyse the new one."
            )
        if not self._records.is_current(record.id, record.attempt):  # it may have taken long
            raise CancelledError("The attempt of the job ended while its slide was opened.")
        folder = self._folders.of(record.id) / "parts"
        return open_survey(self._analyser, task, folder, field_tiles=self._field_tiles, attempt=record.attempt)

    def _kept(self, key: tuple[str, int]) -> Survey | None:
        with self._lock:
            survey = self._surveys.get(key)
            if survey is not None:
                self._surveys.move_to_end(key)
            return survey

    def _keep(self, key: tuple[str, int], survey: Survey) -> None:
        with self._lock:
            self._surveys[key] = survey
            self._opening.pop(key, None)  # not after an error: then those who wait open it one after the other
            while len(self._surveys) > KEPT_SURVEYS:
                self._surveys.popitem(last=False)

    def _forget(self, job: str, attempt: int) -> None:
        with self._lock:
            self._surveys.pop((job, attempt), None)
            self._opening.pop((job, attempt), None)


class _Pause:
    """Growing waits between tries, cut short when the process stops."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._wait_s = 1.0

    def wait(self) -> None:
        self._stopping.wait(self._wait_s)
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
