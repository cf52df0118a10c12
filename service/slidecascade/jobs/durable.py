"""The queue that survives its processes: DBOS. The only module that imports it.

Three kinds of work: a job is planned, its fields are run, its parts are collected; each is a workflow that DBOS
keeps in the database until it has ended. What is done twice after a crash must be harmless, and is: parts are
files that exist or not.

DBOS leaves the workflows of a process that died to a process of the same name. So every process has a name of its
own and says all the time that it lives; the others take over what belongs to those that are silent. That needs one
private call (`DBOS._recover_pending_workflows`; the public one would forget how often a workflow has killed its
process before); a contract test holds it, and the version is pinned.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterable
from typing import Final, Protocol

from dbos import DBOS, DBOSConfig, SetWorkflowID

from slidecascade.jobs.records import Records
from slidecascade.jobs.schema import Database

LOG = logging.getLogger(__name__)

VERSION: Final = "1"
"""Of the workflows' arguments; DBOS runs those of its own version only."""

MAX_DEATHS: Final = 5
"""How many processes a piece of work may have under it when they die; then it is given up."""

_JOBS: Final = "slidecascade-jobs"
_FIELDS: Final = "slidecascade-fields"
_POLL_S: Final = 0.2
_PARKED: Final = "MAX_RECOVERY_ATTEMPTS_EXCEEDED"
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

    def __init__(self, engine: Database, records: Records, *, fields: int, lease_s: float, is_alone: bool) -> None:
        self.worker = str(uuid.uuid4())
        self._records = records
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
        self._records.beat(self.worker, lease_s=self._lease_s)
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
            self._records.leave(self.worker)
        _hand.work = None

    def submit(self, job: str, attempt: int) -> None:
        """Queue a job; once more changes nothing."""
        with SetWorkflowID(f"{job}.{attempt}"):
            DBOS.enqueue_workflow(_JOBS, _plan, job, attempt)

    def submit_fields(self, job: str, attempt: int, indices: Iterable[int]) -> None:
        """Queue fields of a job, from within its planning."""
        for index in indices:
            with SetWorkflowID(f"{job}.{attempt}.{index}"):
                DBOS.enqueue_workflow(_FIELDS, _field, job, attempt, index)

    def submit_collect(self, job: str, attempt: int) -> None:
        """Queue the end of a job; once more changes nothing."""
        with SetWorkflowID(f"{job}.{attempt}.collect"):
            DBOS.enqueue_workflow(_JOBS, _collect, job, attempt)

    def cancel(self, job: str) -> None:
        """Take everything of a job out of the queue."""
        if waiting := self._of(job, _OPEN):
            DBOS.cancel_workflows(waiting)

    def forget(self, job: str) -> None:
        """Remove a job that has ended from the database."""
        if known := self._of(job, None):
            DBOS.delete_workflows(known)

    def _of(self, job: str, status: tuple[str, ...] | None) -> list[str]:
        found = DBOS.list_workflows(
            workflow_id_prefix=f"{job}.",
            status=None if status is None else list(status),
            load_input=False,
            load_output=False,
        )
        return [item.workflow_id for item in found]

    def _reap(self) -> None:
        """Say that this process lives; take over from those that do not; queue what was accepted and is not."""
        while not self._stopping.wait(self._lease_s / 6):
            try:
                alive = self._records.beat(self.worker, lease_s=self._lease_s)
                self._take_over(frozenset({self.worker} if self._is_alone else alive))
            except Exception:  # the worker boundary: a database that is away comes back
                LOG.exception("the queue cannot be reached")

    def _take_over(self, alive: frozenset[str]) -> None:
        pending = DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
        if silent := sorted({item.executor_id for item in pending if item.executor_id} - alive):
            LOG.warning("work taken over", extra={"fields": {"workers": len(silent)}})
            DBOS._recover_pending_workflows(silent)
            self._records.took_over(len(silent))
        for item in DBOS.list_workflows(status=_PARKED, load_input=False, load_output=False):
            job, attempt, *_ = item.workflow_id.split(".")
            if _hand.work is not None:
                _hand.work.give_up(job, int(attempt))
            DBOS.cancel_workflow(item.workflow_id)
        for record in self._records.active():
            if record.status == "queued" and DBOS.get_workflow_status(f"{record.id}.{record.attempt}") is None:
                self.submit(record.id, record.attempt)  # its process died between the row and the queue


class _Hand:
    """The foreman of this process, global because workflows are functions of their module."""

    work: Work | None = None


_hand: Final = _Hand()


def _work() -> Work:
    if _hand.work is None:
        raise Stopped
    return _hand.work


@DBOS.workflow(name="slidecascade.plan", max_recovery_attempts=MAX_DEATHS)
def _plan(job: str, attempt: int) -> None:
    _work().plan(job, attempt)


@DBOS.workflow(name="slidecascade.field", max_recovery_attempts=MAX_DEATHS)
def _field(job: str, attempt: int, index: int) -> None:
    _work().field(job, attempt, index)


@DBOS.workflow(name="slidecascade.collect", max_recovery_attempts=MAX_DEATHS)
def _collect(job: str, attempt: int) -> None:
    _work().collect(job, attempt)
