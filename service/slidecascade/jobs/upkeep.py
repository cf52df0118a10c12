"""What is done from time to time: delete jobs that have been kept long enough, and what no job belongs to."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final, Protocol

from slidecascade.jobs.folders import Folders
from slidecascade.jobs.outbox import Outbox
from slidecascade.jobs.records import Records

LOG = logging.getLogger(__name__)

INTERVAL_S: Final = 60.0
_DAY_S: Final = 86_400.0
_UPLOADING_S: Final = 2 * 3600.0
"""A folder without a job may be that of an upload that another process receives; never for so long."""


class Store(Protocol):
    """What is kept in order."""

    records: Records
    outbox: Outbox
    folders: Folders

    def remove(self, job: str) -> bool:
        """Delete a job that has ended, whole."""
        ...

    def sweep(self, job: str) -> None:
        """Remove what a job without a row has left."""
        ...


class Upkeep:
    """Looks after `store` in a thread of its own: at once, then every `INTERVAL_S`.

    Args:
        keep_days: days after its end until a job is deleted; None: never.
        is_alone: no other process uses the folder.
    """

    def __init__(self, store: Store, *, keep_days: float | None, is_alone: bool) -> None:
        self._store = store
        self._keep_s = None if keep_days is None else keep_days * _DAY_S
        self._is_alone = is_alone
        self.used_bytes = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        """Sweep what a process has left that died, then begin."""
        # Before the first upload of this process: a folder without a job belongs to nobody now.
        self._once(0.0 if self._is_alone else _UPLOADING_S)
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end."""
        self._stopping.set()

    def join(self, ends_at: float) -> None:
        """Wait for its end, at most until `ends_at` on the monotonic clock."""
        if self._thread.is_alive():
            self._thread.join(max(0.0, ends_at - time.monotonic()))

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.used_bytes = self._store.folders.used_bytes(is_stopping=self._stopping.is_set)
            wait_s = INTERVAL_S if self._keep_s is None else min(INTERVAL_S, max(self._keep_s, 1.0))
            self._stopping.wait(wait_s)
            if not self._stopping.is_set():
                self._once(_UPLOADING_S)

    def _once(self, unused_s: float) -> None:
        try:
            self._expire()
            self._sweep(unused_s)
            self._store.outbox.prune()
        except Exception:  # the worker boundary: a database or a disk that is away comes back
            LOG.exception("upkeep failed")

    def _expire(self) -> None:
        if self._keep_s is None:
            return
        for job in self._store.records.expired(ended_before=time.time() - self._keep_s):
            if self._stopping.is_set():
                return
            if self._store.remove(job):
                LOG.info("job expired", extra={"fields": {"job": job}})

    def _sweep(self, unused_s: float) -> None:
        found = self._store.folders.unused_since(unused_s)
        orphans = set(found) - self._store.records.known(found)
        for job in sorted(orphans):
            if self._stopping.is_set():
                return
            self._store.sweep(job)
        if orphans:
            LOG.info("orphaned folders removed", extra={"fields": {"folders": len(orphans)}})
