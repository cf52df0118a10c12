"""The queue that survives its processes: DBOS. The only module that imports it.

Three kinds of work: a job is planned, its fields are run, its parts are collected; each is a workflow that DBOS
keeps in the database until it has ended. What is done twice after a crash must be harmless, and is: parts are
files that exist or not.

DBOS leaves the workflows of a process that died to a process of the same name. So every process has a name of its
own and records heartbeats (`workers.py`); the others take over what belongs to those that are silent. That needs
one private call (`DBOS._recover_pending_workflows`); a contract test holds it, and the version is pinned.

Who dies is counted here, not by DBOS, which counts every start: a process that is stopped in order, or waits for a
disk through three updates, is no reason to give a slide up.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from typing import Final, Protocol

from dbos import DBOS, DBOSConfig, SetWorkflowID

from slidecascade.cancellation import Control
from slidecascade.errors import NotReadyError, StorageFullError
from slidecascade.jobs.database import Database, database_errors
from slidecascade.jobs.quarantine import Quarantine
from slidecascade.jobs.records import Records
from slidecascade.jobs.workers import Liveness, Workers

LOG = logging.getLogger(__name__)

VERSION: Final = "1"
"""Of the workflows' arguments; DBOS runs those of its own version only."""

MAX_DEATHS: Final = 3
"""Processes that may die over the same piece of work; then its job is given up."""

_JOBS: Final = "slidecascade-jobs"
_FIELDS: Final = "slidecascade-fields"
_POLL_S: Final = 0.2
_OPEN: Final = ("PENDING", "ENQUEUED")


class Stopped(BaseException):
    """The process stops: its current work is left to the next process.

    No Exception, for DBOS would note one as the work's end.
    """


class Work(Protocol):
    """What is done for a job; `job` is its id, and `attempt` the number of its retries and one more."""

    def plan(self, job: str, attempt: int) -> None: ...

    def field(self, job: str, attempt: int, index: int) -> None: ...

    def collect(self, job: str, attempt: int) -> None: ...

    def give_up(self, job: str, attempt: int) -> None:
        """Work for this job has killed `MAX_DEATHS` processes."""
        ...


class Durable:
    """This process's share in the queue; there can be one at a time.

    Args:
        engine: the database of the queue; made for this object.
        fields: fields worked on at a time in this process.
        lease_s: a process that says nothing for so long is taken for dead.
        is_alone: no other process uses the database: what others left is taken over at once.
    """

    def __init__(
        self,
        engine: Database,
        records: Records,
        workers: Workers,
        *,
        fields: int,
        lease_s: float,
        is_alone: bool,
    ) -> None:
        self.worker = str(uuid.uuid4())
        self._records = records
        self._workers = workers
        self._quarantine = Quarantine()
        self._liveness = Liveness(lease_s)
        self._looked_at = time.monotonic()
        self._lost: dict[str, float] = {}
        self._lease_s = lease_s
        self._is_alone = is_alone
        self._fields = fields
        self._stopping = threading.Event()
        self._reaper = threading.Thread(target=self._reap, name="reaper", daemon=True)
        config: DBOSConfig = {
            "name": "slidecascade",
            "system_database_engine": engine,
            "application_version": VERSION,
            "executor_id": self.worker,
            "log_level": "CRITICAL",  # it writes stack traces for what is cancelled; we log what happens
            "console_log_level": "CRITICAL",
            "max_executor_threads": fields + 8,
        }
        self._dbos = DBOS(config=config)

    def start(self, work: Work) -> None:
        """Begin to take work."""
        _hand.work = work
        self._workers.beat(self.worker)
        DBOS.launch()
        DBOS.register_queue(_JOBS, worker_concurrency=2, polling_interval_sec=_POLL_S)
        DBOS.register_queue(_FIELDS, worker_concurrency=self._fields, polling_interval_sec=_POLL_S)
        self._reaper.start()

    def stop(self) -> None:
        """Accept no more work; current work must have been stopped, and is left to the next process."""
        self._stopping.set()
        if self._reaper.is_alive():
            self._reaper.join()
            DBOS.destroy(workflow_completion_timeout_sec=0)
            with suppress(NotReadyError, StorageFullError):  # then it counts as a death, once
                self._workers.leave(self.worker)
        _hand.work = None

    @property
    def silent_s(self) -> float:
        """Seconds since the last look at the queue began; it may have failed."""
        return time.monotonic() - self._looked_at

    def submit(self, job: str, attempt: int) -> None:
        """Queue a job; once more changes nothing."""
        with database_errors(), SetWorkflowID(f"{job}.{attempt}"):
            DBOS.enqueue_workflow(_JOBS, _plan, job, attempt)

    def submit_fields(self, job: str, attempt: int, indices: Iterable[int]) -> None:
        """Queue fields of a job; once more changes nothing."""

        def submit() -> None:
            for index in indices:
                with SetWorkflowID(f"{job}.{attempt}.{index}"):
                    DBOS.enqueue_workflow(_FIELDS, _field, job, attempt, index)

        _outside_workflows(submit)

    def submit_collect(self, job: str, attempt: int) -> None:
        """Queue the end of a job; once more changes nothing."""

        def submit() -> None:
            with SetWorkflowID(f"{job}.{attempt}.collect"):
                DBOS.enqueue_workflow(_JOBS, _collect, job, attempt)

        _outside_workflows(submit)

    def cancel(self, job: str, attempt: int) -> None:
        """Take everything of an attempt of a job out of the queue; the next one may be queued already."""
        plan = f"{job}.{attempt}"
        with database_errors():
            known = self._of(plan, _OPEN)
            if waiting := [work for work in known if work == plan or work.startswith(f"{plan}.")]:
                DBOS.cancel_workflows(waiting)

    def forget(self, job: str) -> None:
        """Remove a job that has ended from the database."""
        with database_errors():
            if known := self._of(f"{job}.", None):
                DBOS.delete_workflows(known)
        self._workers.forget(job)

    @contextmanager
    def at_work(self, work: str, control: Control) -> Iterator[None]:
        """A block that does `work`, a workflow id; alone in this process if others have died over it."""
        alone = self._workers.deaths(work) > 0
        with (
            self._quarantine.entered(control, alone=alone),
            self._workers.alone(self.worker, work) if alone else nullcontext(),
        ):
            yield

    def _of(self, prefix: str, status: tuple[str, ...] | None) -> list[str]:
        found = DBOS.list_workflows(
            workflow_id_prefix=prefix,
            status=None if status is None else list(status),
            load_input=False,
            load_output=False,
        )
        return [item.workflow_id for item in found]

    def _reap(self) -> None:
        """Record heartbeats; take over from those without; queue what was accepted and is not queued."""
        while not self._stopping.wait(self._lease_s / 6):
            self._looked_at = time.monotonic()
            try:
                beats = self._workers.beat(self.worker)
                self._take_over(beats)
            except (NotReadyError, StorageFullError) as error:
                self._liveness.forget()
                LOG.warning("the queue cannot be reached", extra={"fields": {"problem": error.problem}})
            except Exception:  # the worker boundary: a fault of the queue must not end the heartbeats
                self._liveness.forget()
                LOG.exception("the queue cannot be reached")

    def _take_over(self, beats: Mapping[str, int]) -> None:
        silent = self._liveness.silent(beats, time.monotonic())
        if self._is_alone:
            silent = frozenset(beats)
        pending = DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
        owned: dict[str, list[str]] = {worker: [] for worker in silent}
        for item in pending:
            if item.executor_id and (item.executor_id in silent or item.executor_id not in beats):
                owned.setdefault(item.executor_id, []).append(item.workflow_id)
        owned.pop(self.worker, None)
        for worker, works in owned.items():
            self._take_over_from(worker, works)
        self._find_lost([item.workflow_id for item in pending if item.executor_id == self.worker])
        for record in self._records.active():
            if record.status == "queued" and DBOS.get_workflow_status(f"{record.id}.{record.attempt}") is None:
                self.submit(record.id, record.attempt)  # its process died between the row and the queue

    def _take_over_from(self, worker: str, works: list[str]) -> None:
        """Work of a process that stopped or died; what has killed too many is given up."""
        deaths = self._workers.bury(worker, works)
        if not works:
            return
        LOG.warning("work taken over", extra={"fields": {"works": len(works), "deaths": max(deaths.values())}})
        for work in works:
            if deaths[work] >= MAX_DEATHS and _hand.work is not None:
                job, attempt, *_ = work.split(".")
                _hand.work.give_up(job, int(attempt))
        DBOS._recover_pending_workflows([worker])

    def _find_lost(self, mine: list[str]) -> None:
        """Queue again what the database says is at work here and is not.

        A database that fails when the end of a piece of work is to be recorded leaves it like that.
        """
        now = time.monotonic()
        idle = set(mine) - _hand.running
        self._lost = {work: self._lost.get(work, now) for work in idle}
        for work, since in self._lost.items():
            if now - since >= self._lease_s:
                LOG.warning("work queued again", extra={"fields": {"work": work}})
                DBOS.resume_workflow(work, queue_name=_queue_of(work))


def _queue_of(work: str) -> str:
    """The queue of a workflow id: ``job.attempt``, ``job.attempt.index`` or ``job.attempt.collect``."""
    _, _, *step = work.split(".")
    return _FIELDS if step and step[0] != "collect" else _JOBS


def _outside_workflows(submit: Callable[[], None]) -> None:
    """Run `submit` in a thread of its own, and so outside of the workflow at hand.

    In a workflow DBOS numbers what is enqueued: done again after a crash, its first call gets the work that was
    enqueued first, whatever is asked for. Fields that have ended meanwhile are not asked for again.
    """
    with database_errors(), ThreadPoolExecutor(1) as thread:
        thread.submit(submit).result()


class _Hand:
    """The foreman of this process and its work, global because workflows are functions of their module."""

    def __init__(self) -> None:
        self.work: Work | None = None
        self.running: set[str] = set()


_hand: Final = _Hand()


@contextmanager
def _work() -> Iterator[Work]:
    name = str(DBOS.workflow_id)
    _hand.running.add(name)
    try:
        if _hand.work is None:
            raise Stopped
        yield _hand.work
    finally:
        _hand.running.discard(name)


@DBOS.workflow(name="slidecascade.plan", max_recovery_attempts=None)
def _plan(job: str, attempt: int) -> None:
    with _work() as work:
        work.plan(job, attempt)


@DBOS.workflow(name="slidecascade.field", max_recovery_attempts=None)
def _field(job: str, attempt: int, index: int) -> None:
    with _work() as work:
        work.field(job, attempt, index)


@DBOS.workflow(name="slidecascade.collect", max_recovery_attempts=None)
def _collect(job: str, attempt: int) -> None:
    with _work() as work:
        work.collect(job, attempt)
