"""What works on the jobs in this process: their database, queue and foreman, webhooks and upkeep."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Final

from slidecascade.analysis.analyser import Analyser
from slidecascade.errors import InvalidRequestError, SettingsError
from slidecascade.jobs.claim import locked
from slidecascade.jobs.database import open_database
from slidecascade.jobs.folders import Folders
from slidecascade.jobs.outbox import Outbox
from slidecascade.jobs.records import Records
from slidecascade.jobs.upkeep import Upkeep
from slidecascade.jobs.webhooks import Notifier, Webhooks
from slidecascade.jobs.workers import Workers
from slidecascade.settings import Settings

LOG = logging.getLogger(__name__)

_GRACE_S: Final = 2.0
"""How long an orderly stop waits for attempts of notifications and for upkeep."""


class Workshop:
    """Works on the jobs of `folder` from when it is made until it is closed.

    Args:
        folder: of jobs, results, and of the database unless the settings name one.

    Raises:
        SettingsError: another process works on the jobs of this folder, or the database cannot be reached.
        UnwritableOutputError: the folder cannot be made.
    """

    def __init__(
        self, analyser: Analyser, settings: Settings, folder: Path, webhooks: Webhooks, *, field_tiles: int
    ) -> None:
        # Here, for it takes a second: processes without jobs do without.
        from slidecascade.jobs.durable import Durable
        from slidecascade.jobs.foreman import Foreman

        self._webhooks = webhooks
        self.folders = Folders(folder, min_free_bytes=settings.jobs_min_free_bytes)
        url = settings.jobs_database_url
        self._lock = None if url is not None else _lock(folder)
        self._engines = (open_database(url, folder), open_database(url, folder))
        self.records = Records(self._engines[0])
        self.outbox = Outbox(self._engines[0])
        self.durable = Durable(
            self._engines[1],
            self.records,
            Workers(self._engines[0]),
            fields=settings.max_fields_in_flight,
            lease_s=settings.jobs_lease_s,
            is_alone=url is None,
        )
        self._foreman = Foreman(analyser, self.records, self.folders, self.durable, field_tiles=field_tiles)
        self.durable.start(self._foreman)
        self._notifier = Notifier(self.outbox, self._webhooks)
        self._notifier.start()
        self._upkeep = Upkeep(self, keep_days=settings.jobs_keep_days, is_alone=url is None)
        self._upkeep.start()
        LOG.info("jobs are worked on", extra={"fields": {"unfinished": len(self.records.active())}})

    def require_target(self, name: str | None) -> None:
        """Raises InvalidRequestError when there is no target of that name to notify."""
        if name is not None and name not in self._webhooks.targets:
            known = ", ".join(self._webhooks.targets) or "none: the operator configures them"
            message = f"There is no target {name!r} to notify; there are {known}."
            raise InvalidRequestError(message, (("notify", message),))

    @property
    def used_bytes(self) -> int:
        """Size of the folder of jobs, as it was about a minute ago."""
        return self._upkeep.used_bytes

    def remove(self, job: str) -> bool:
        """Delete a job that has ended, whole; False where it has not, or is gone.

        The folder goes last: a process that dies before leaves one without a job, which the next process sweeps.
        """
        if not self.records.remove(job):
            return False
        self.sweep(job)
        return True

    def sweep(self, job: str) -> None:
        """Remove what a job without a row has left in the queue and on the disk."""
        self.durable.forget(job)
        self.folders.remove(job)

    def close(self) -> None:
        """Interrupt the work, which the next process continues.

        The queue first: a process that is ended before it has left it counts as dead over its work. Targets and
        disks that do not answer are waited for `_GRACE_S` only.
        """
        self._upkeep.stop()
        self._notifier.stop()
        self._foreman.stop()
        self.durable.stop()
        ends_at = time.monotonic() + _GRACE_S
        self._upkeep.join(ends_at)
        self._notifier.join(ends_at)
        for engine in self._engines:
            engine.dispose()
        if self._lock is not None:
            os.close(self._lock)


def _lock(folder: Path) -> int:
    """An open file that locks `folder`, because SQLite is for one process."""
    handle = locked(folder)
    if handle is None:
        raise SettingsError(
            "Another process works on the jobs of this SLIDECASCADE_JOBS_DIR: stop it, or set "
            "SLIDECASCADE_JOBS_DATABASE_URL to a Postgres database that both use."
        )
    return handle
