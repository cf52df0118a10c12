"""Where jobs are submitted, queried and cancelled."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from slidecascade.access.caller import Caller
from slidecascade.access.limits import exceeded
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.errors import (
    JobFinishedError,
    JobNotFinishedError,
    NotReadyError,
    UnknownJobError,
    UnknownNotificationError,
)
from slidecascade.jobs.cellcrop import cell_crop
from slidecascade.jobs.dicomfiles import require_dicom
from slidecascade.jobs.fields import FIELD_TILES
from slidecascade.jobs.folders import Folders
from slidecascade.jobs.outbox import Notification
from slidecascade.jobs.records import NO_SUCH_JOB, JobRecord
from slidecascade.jobs.table import require_outputs
from slidecascade.jobs.uploads import Upload
from slidecascade.jobs.webhooks import read_webhooks
from slidecascade.jobs.workshop import Workshop
from slidecascade.metrics import JobNumbers
from slidecascade.settings import Settings
from slidecascade.slides.upload import RegionImage
from slidecascade.wire import JobRequest

T = TypeVar("T")


class Desk:
    """The jobs of one process; nothing is opened before `start`.

    Args:
        folder: of jobs, results, and of the database unless the settings name one.

    Raises:
        SettingsError: the file of webhook targets cannot be read or is wrong.
    """

    def __init__(
        self, analyser: Analyser, settings: Settings, folder: Path, *, field_tiles: int = FIELD_TILES
    ) -> None:
        self._field_tiles = field_tiles
        self._analyser = analyser
        self._settings = settings
        self._folder = folder
        self._webhooks = read_webhooks(settings.webhooks_file)
        self._open: Workshop | None = None

    def start(self) -> None:
        """Open the database and begin to work.

        Raises:
            SettingsError: another process works on the jobs of this folder, or the database cannot be reached.
            UnwritableOutputError: the folder cannot be made.
        """
        self._open = _beside(
            partial(
                Workshop,
                self._analyser,
                self._settings,
                self._folder,
                self._webhooks,
                field_tiles=self._field_tiles,
            )
        )

    def stop(self) -> None:
        """Interrupt the work, which the next process continues."""
        if self._open is not None:
            opened, self._open = self._open, None
            _beside(opened.close)

    @property
    def silent_s(self) -> float:
        """Seconds since this process has looked after the queue."""
        return 0.0 if self._open is None else self._open.durable.silent_s

    @property
    def max_upload_bytes(self) -> int:
        """Most bytes of a job's body."""
        return max(self._settings.max_job_upload_bytes, self._settings.max_upload_bytes)

    def begin_upload(self, stated_bytes: int) -> Upload:
        """A place for the image of a job that is submitted when all of it has arrived, else discarded.

        Raises:
            StorageFullError: there is no room for it.
        """
        opened = self._opened()
        opened.folders.require_room()
        return opened.folders.begin_upload(stated_bytes)

    def submit(
        self,
        request: JobRequest,
        caller: Caller,
        *,
        request_id: str,
        key: str | None,
        upload: Upload | None = None,
    ) -> tuple[JobRecord, bool]:
        """The durable job of `request`, which belongs to `caller`, and whether it is new.

        The `upload` has arrived; where it is not the image of a new job, the caller discards it. A request that is
        repeated with its `key` is given its job, whatever has become of slide, disk and limits meanwhile.

        Raises what `Analyser.prepare` does of the slide, and what `Records.add` does.

        Raises:
            InvalidRequestError: the pipeline's kind is not worked on field by field or has none of the outputs,
                there is no such target to notify, or DICOM objects are requested of another slide.
            StorageFullError: there is no room for results.
            LimitExceededError: the caller's jobs are as many, or as large, as they may be.
        """
        opened = self._opened()
        image = None if upload is None else upload.sha256
        record = opened.records.made_with(key, request, image=image, owner=caller.name)
        is_new = False
        if record is None:
            record, is_new = self._add(opened, request, caller, request_id=request_id, key=key, upload=upload)
        if record.status == "queued":
            opened.durable.submit(record.id, record.attempt)
        return record, is_new

    def _add(
        self,
        opened: Workshop,
        request: JobRequest,
        caller: Caller,
        *,
        request_id: str,
        key: str | None,
        upload: Upload | None,
    ) -> tuple[JobRecord, bool]:
        """A new job, checked, or that of another request with the same key at the same moment; see `submit`."""
        opened.folders.require_room()
        self._require_share(opened, caller)
        content_id = None
        if upload is None:
            task = self._analyser.prepare(
                request.region_request(), None, Control(), is_bounded=False, visible=caller.visible
            )
            require_outputs(task.pipeline, request.outputs)
            content_id = task.facts.content_id
            if "dicom" in request.outputs:
                require_dicom(task)
        else:
            self._keep(request, upload)
        opened.require_target(request.notify)
        return opened.records.add(
            request,
            request_id=request_id,
            key=key,
            most_active=self._settings.max_jobs,
            retry_after_s=self._settings.retry_after_s,
            content_id=content_id,
            upload=None if upload is None else (upload.job, upload.sha256),
            owner=caller.name,
            most_owned=caller.limits.queued_jobs,
        )

    def _keep(self, request: JobRequest, upload: Upload) -> None:
        """Check an upload as a slide is checked, and keep it in the form that it is worked on."""
        content = upload.content(self._analyser.recognises, max_image_bytes=self._settings.max_upload_bytes)
        share = self._analyser.memory.share()
        try:
            control = Control(deadline_s=self._settings.max_deadline_s)  # others may use the memory for decoding
            task = self._analyser.prepare(
                request.region_request(), content, control, share=share, is_bounded=isinstance(content, bytes)
            )
            require_outputs(task.pipeline, request.outputs)
            if "dicom" in request.outputs:
                require_dicom(task)
            if isinstance(content, bytes):
                with task.open_source() as image:
                    upload.keep_pixels(cast("RegionImage", image))
        finally:
            share.release()

    def _require_share(self, opened: Workshop, caller: Caller) -> None:
        """Raise LimitExceededError when the caller's jobs take as many bytes as they may."""
        most = caller.limits.stored_bytes
        if most is not None and opened.folders.used_bytes(opened.records.owned(caller.name)) >= most:
            raise exceeded("stored_bytes", most, retry_after_s=self._settings.retry_after_s)

    def show(self, job: str, caller: Caller) -> JobRecord:
        """Raises UnknownJobError, also for a job that is not the caller's."""
        return _theirs(self._opened(), job, caller)

    def list(
        self,
        caller: Caller,
        *,
        limit: int,
        before: tuple[float, str] | None,
        status: str | None,
        label: str | None,
    ) -> tuple[JobRecord, ...]:
        """The caller's jobs, or all where it sees all; see `Records.list`."""
        owners = () if caller.sees_all else (caller.name,)
        return self._opened().records.list(limit=limit, before=before, status=status, label=label, owners=owners)

    def numbers(self) -> JobNumbers | None:
        """What the metrics show; None while that cannot be known."""
        if (opened := self._open) is None or (backlog := opened.records.backlog()) is None:
            return None
        return JobNumbers(
            by_status=opened.records.counts(),
            fields=backlog.fields,
            cells=backlog.cells,
            waiting=backlog.waiting,
            oldest_s=backlog.oldest_s,
            take_overs=backlog.take_overs,
            notifications=opened.outbox.counts(),
            used_bytes=opened.used_bytes,
            free_bytes=opened.folders.free_bytes,
        )

    def cancel(self, job: str, caller: Caller) -> JobRecord:
        """Cancel the job and return it.

        Raises:
            UnknownJobError
            JobFinishedError: it has ended.
        """
        opened = self._opened()
        record = _theirs(opened, job, caller)
        if not opened.records.end(job, record.attempt, "cancelled"):
            raise JobFinishedError(f"The job has {record.status} already: there is nothing to cancel.")
        opened.durable.cancel(job, record.attempt)
        return opened.records.get(job)

    def retry(self, job: str, caller: Caller) -> JobRecord:
        """The job, queued again; fields that are done are not run again.

        Raises:
            UnknownJobError
            JobNotFinishedError: it is not done yet.
            JobFinishedError: it has succeeded.
            LimitExceededError: as many of the caller's jobs are not done as may be.
        """
        opened = self._opened()
        owner = _theirs(opened, job, caller).owner
        if owner == caller.name:
            opened.records.require_queue(
                owner, caller.limits.queued_jobs, retry_after_s=self._settings.retry_after_s
            )
        record = opened.records.retry(job)
        if record is None:
            record = opened.records.get(job)
            if record.ended:
                raise JobFinishedError("The job has succeeded: submit a new one to run it again.")
            raise JobNotFinishedError("The job is not done yet: cancel it before it is retried.")
        opened.durable.submit(record.id, record.attempt)
        return record

    def delete(self, job: str, caller: Caller) -> None:
        """Remove a job and its results.

        Raises:
            UnknownJobError
            JobNotFinishedError: it has not ended.
        """
        opened = self._opened()
        if not _theirs(opened, job, caller).ended:
            raise JobNotFinishedError("The job is not done yet: cancel it before it is deleted.")
        opened.remove(job)

    def notifications(self, *, state: str | None, limit: int) -> tuple[Notification, ...]:
        """See `Outbox.list`."""
        return self._opened().outbox.list(state=state, limit=limit)

    def resend(self, notification: str) -> Notification:
        """Deliver a notification again. Raises UnknownNotificationError."""
        found = self._opened().outbox.resend(notification)
        if found is None:
            raise UnknownNotificationError("There is no such notification: GET /v1/notifications lists them.")
        return found

    def field(self, job: str, index: int, caller: Caller) -> tuple[JobRecord, bytes | None]:
        """The job and the cells of one of its fields, see `Folders.field`. Raises UnknownJobError."""
        opened = self._opened()
        record = _theirs(opened, job, caller)
        return record, opened.folders.field(record, index)

    def fields(self, job: str, caller: Caller) -> tuple[int, ...]:
        """The fields that are done, see `Folders.fields`. Raises UnknownJobError."""
        opened = self._opened()
        return opened.folders.fields(_theirs(opened, job, caller))

    def crop(self, job: str, model: str, point_l0: tuple[float, float], caller: Caller) -> NDArray[np.uint8]:
        """What a network was given of the cell at a point; raises what `results` and `cell_crop` do."""
        folders = self.results(job, caller)
        record = self._opened().records.get(job)
        return cell_crop(self._analyser, folders, record, model, point_l0, visible=caller.visible)

    def results(self, job: str, caller: Caller) -> Folders:
        """The folders, in which the results of `job` are complete.

        Raises:
            UnknownJobError
            JobNotFinishedError: it has not succeeded.
        """
        opened = self._opened()
        record = _theirs(opened, job, caller)
        if record.status != "succeeded":
            raise JobNotFinishedError(f"The job is {record.status} and has no results: see its `error` or wait.")
        return opened.folders

    def _opened(self) -> Workshop:
        if self._open is None:
            raise NotReadyError("Jobs are not taken now: try again later.", retry_after_s=1)
        return self._open


def _theirs(opened: Workshop, job: str, caller: Caller) -> JobRecord:
    """The job, when the caller may see it.

    Raises:
        UnknownJobError: there is none, or it is not the caller's; the two are reported alike.
    """
    record = opened.records.get(job)
    if record.owner != caller.name and not caller.sees_all:
        raise UnknownJobError(NO_SUCH_JOB)
    return record


def _beside(work: Callable[[], T]) -> T:
    """What `work` returns, done in another thread: DBOS refuses to begin or end in one that has an event loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()
