"""The job objects of both clients."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from slidecascade.wire import PROBLEM_PREFIX, JobFile, JobInfo, JobProgress, JobStatus, Summary
from slidecascade_client import jobcalls
from slidecascade_client.cells import Cells
from slidecascade_client.download import Download
from slidecascade_client.errors import (
    ConnectionFailedError,
    JobCancelledError,
    JobFailedError,
    JobFinishedError,
    JobNotFinishedError,
    SlideCascadeClientError,
    TimedOutError,
)
from slidecascade_client.exchange import Call
from slidecascade_client.fieldcells import FieldCells
from slidecascade_client.localfiles import stays_inside
from slidecascade_client.result import RegionResult

T = TypeVar("T")
ENDED = ("succeeded", "failed", "cancelled")
_NOT_SATISFIABLE = 416
POLL_S = 1.0
"""Polling interval while waiting for a job."""


class Perform(Protocol):
    """What a client does with a call."""

    def __call__(self, call: Call[T], /) -> T: ...


class AsyncPerform(Protocol):
    """The same for asyncio."""

    def __call__(self, call: Call[T], /) -> Awaitable[T]: ...


class _Known:
    """What is known of a job without asking."""

    def __init__(self, info: JobInfo) -> None:
        self.info = info

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def status(self) -> JobStatus:
        """Time of the last poll."""
        return self.info.status

    @property
    def ended(self) -> bool:
        return self.info.status in ENDED

    def _require_success(self) -> None:
        """Raises JobFailedError or JobCancelledError for a job that ended in another way."""
        if self.info.status == "cancelled":
            raise JobCancelledError(f"The job {self.id} was cancelled: call `retry` to resume it.")
        if self.info.status == "failed":
            problem = self.info.error
            detail = problem.detail if problem else "The service reported no cause."
            name = problem.type.removeprefix(PROBLEM_PREFIX) if problem else "unknown"
            raise JobFailedError(f"The job {self.id} failed ({name}): {detail}", problem=problem)

    def _was_retried(self, error: SlideCascadeClientError) -> bool:
        """Whether `error` may be that of a repetition of `retry` whose first reply was lost."""
        return error.tries > 1 and self.info.status != "succeeded"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}: {self.status}>"


def _require_progress(download: Download, before: int, error: SlideCascadeClientError) -> None:
    """Returns when the rest of a file is worth another try, else raises `error`."""
    if error.status == _NOT_SATISFIABLE and before:  # it has become another file, shorter than what has arrived
        download.restart()
    elif not isinstance(error, ConnectionFailedError | TimedOutError) or download.received_bytes <= before:
        raise error


class Job(_Known):
    """A job of a `Client`. `info` is its last reported state."""

    def __init__(self, info: JobInfo, *, perform: Perform, sleep: Callable[[float], None]) -> None:
        super().__init__(info)
        self._perform = perform
        self._sleep = sleep

    def refresh(self) -> JobInfo:
        """Ask the service how the job is."""
        self.info = self._perform(jobcalls.show(self.id))
        return self.info

    def progress(self, *, poll_s: float = POLL_S) -> Iterator[JobProgress]:
        """Yield after each progress of the job, and at its end.

        Raises:
            JobFailedError, JobCancelledError: when it ended so.
        """
        yielded = None
        while True:
            progress = self.refresh().progress
            if yielded is None or (progress.fields_done, progress.fields_total) != yielded or self.ended:
                yielded = (progress.fields_done, progress.fields_total)
                yield progress
            if self.ended:
                break
            self._sleep(poll_s)
        self._require_success()

    def wait(self, *, poll_s: float = POLL_S) -> JobInfo:
        """The job when it has succeeded; raises as `progress` does."""
        for _ in self.progress(poll_s=poll_s):
            pass
        return self.info

    def result(self) -> RegionResult:
        """All that came of the slide, as of a region; waits for the job's end."""
        if self.status != "succeeded":
            self.wait()
        return self._perform(jobcalls.result(self.id))

    def summary(self) -> Summary:
        """Counts, fractions, models and warnings alone; waits for the job's end."""
        if self.status != "succeeded":
            self.wait()
        return self._perform(jobcalls.summary(self.id))

    def cells(self, *, bbox: tuple[int, int, int, int], class_name: str | None = None) -> Cells:
        """The cells whose outlines' boxes meet (x, y, width, height) in level-0 pixels."""
        return self._perform(jobcalls.cells(self.id, bbox, class_name))

    def files(self) -> tuple[str, ...]:
        """The names of the job's files."""
        return tuple(file.name for file in self.file_list())

    def file_list(self) -> tuple[JobFile, ...]:
        """The job's files with their sizes, media types and digests."""
        return self._perform(jobcalls.files(self.id)).files

    def fetch(self, folder: str | os.PathLike[str], *, names: Sequence[str] | None = None) -> Path:
        """Write the job's files, or those of `names`, into `folder`, made if needed; each appears whole.

        An interrupted download goes on where it ended, for as long as something arrives, and also when `fetch` is
        called again later.
        """
        target = Path(folder)
        for name in self.files() if names is None else names:
            download = Download(target, stays_inside(name), source=self.id)
            while not download.is_done:
                before = download.received_bytes
                try:
                    self._perform(jobcalls.download(self.id, name, download))
                except SlideCascadeClientError as error:
                    _require_progress(download, before, error)
        return target

    def field(self, index: int) -> FieldCells:
        """The cells of one field, also while the job runs; there are `info.progress.fields_total` of them."""
        return self._perform(jobcalls.field(self.id, index))

    def layer(self, name: str, *, level: int, column: int, row: int) -> bytes:
        """A PNG tile of ``classes`` or of a heatmap, by its level of Deep Zoom."""
        return self._perform(jobcalls.layer(self.id, name, level, column, row))

    def cancel(self) -> JobInfo:
        """Stop the work."""
        try:
            self.info = self._perform(jobcalls.cancel(self.id))
        except JobFinishedError as error:
            # A try before it may have cancelled the job, and its reply been lost.
            if error.tries == 1 or self.refresh().status != "cancelled":
                raise
        return self.info

    def retry(self) -> JobInfo:
        """Resume a job that failed or was cancelled; finished fields are kept."""
        try:
            self.info = self._perform(jobcalls.retry(self.id))
        except (JobNotFinishedError, JobFinishedError) as error:
            if not self._was_retried(error):
                raise
            self.refresh()
        return self.info

    def delete(self) -> None:
        """Delete the finished job and its files on the service."""
        self._perform(jobcalls.delete(self.id))


class AsyncJob(_Known):
    """`Job` for asyncio; see there."""

    def __init__(self, info: JobInfo, *, perform: AsyncPerform, sleep: Callable[[float], Awaitable[None]]) -> None:
        super().__init__(info)
        self._perform = perform
        self._sleep = sleep

    async def refresh(self) -> JobInfo:
        """Ask the service how the job is."""
        self.info = await self._perform(jobcalls.show(self.id))
        return self.info

    async def progress(self, *, poll_s: float = POLL_S) -> AsyncIterator[JobProgress]:
        """See `Job.progress`."""
        yielded = None
        while True:
            progress = (await self.refresh()).progress
            if yielded is None or (progress.fields_done, progress.fields_total) != yielded or self.ended:
                yielded = (progress.fields_done, progress.fields_total)
                yield progress
            if self.ended:
                break
            await self._sleep(poll_s)
        self._require_success()

    async def wait(self, *, poll_s: float = POLL_S) -> JobInfo:
        """See `Job.wait`."""
        async for _ in self.progress(poll_s=poll_s):
            pass
        return self.info

    async def result(self) -> RegionResult:
        """See `Job.result`."""
        if self.status != "succeeded":
            await self.wait()
        return await self._perform(jobcalls.result(self.id))

    async def summary(self) -> Summary:
        """See `Job.summary`."""
        if self.status != "succeeded":
            await self.wait()
        return await self._perform(jobcalls.summary(self.id))

    async def cells(self, *, bbox: tuple[int, int, int, int], class_name: str | None = None) -> Cells:
        """See `Job.cells`."""
        return await self._perform(jobcalls.cells(self.id, bbox, class_name))

    async def files(self) -> tuple[str, ...]:
        """See `Job.files`."""
        return tuple(file.name for file in await self.file_list())

    async def file_list(self) -> tuple[JobFile, ...]:
        """See `Job.file_list`."""
        return (await self._perform(jobcalls.files(self.id))).files

    async def fetch(self, folder: str | os.PathLike[str], *, names: Sequence[str] | None = None) -> Path:
        """See `Job.fetch`."""
        target = Path(folder)
        for name in await self.files() if names is None else names:
            download = Download(target, stays_inside(name), source=self.id)
            while not download.is_done:
                before = download.received_bytes
                try:
                    await self._perform(jobcalls.download(self.id, name, download))
                except SlideCascadeClientError as error:
                    _require_progress(download, before, error)
        return target

    async def field(self, index: int) -> FieldCells:
        """See `Job.field`."""
        return await self._perform(jobcalls.field(self.id, index))

    async def layer(self, name: str, *, level: int, column: int, row: int) -> bytes:
        """See `Job.layer`."""
        return await self._perform(jobcalls.layer(self.id, name, level, column, row))

    async def cancel(self) -> JobInfo:
        """See `Job.cancel`."""
        try:
            self.info = await self._perform(jobcalls.cancel(self.id))
        except JobFinishedError as error:
            if error.tries == 1 or (await self.refresh()).status != "cancelled":
                raise
        return self.info

    async def retry(self) -> JobInfo:
        """See `Job.retry`."""
        try:
            self.info = await self._perform(jobcalls.retry(self.id))
        except (JobNotFinishedError, JobFinishedError) as error:
            if not self._was_retried(error):
                raise
            await self.refresh()
        return self.info

    async def delete(self) -> None:
        """See `Job.delete`."""
        await self._perform(jobcalls.delete(self.id))
