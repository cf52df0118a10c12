"""Jobs in one process, with slides that are gone or held: submissions, work and an orderly stop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_analyser import FakeAnalyser
from slidecascade import wire
from slidecascade.access.caller import Caller, Limits
from slidecascade.analysis.plan import RegionTask
from slidecascade.errors import IdempotencyMismatchError, StorageFullError, UnknownSlideError
from slidecascade.jobs.desk import Desk
from slidecascade.jobs.records import JobRecord
from slidecascade.settings import Settings
from slidecascade.wire import JobRequest

REQUEST = JobRequest(pipeline="nash", slide="gone.svs")


class NoSlides(FakeAnalyser):
    """All slides are gone."""

    def prepare(self, request: wire.RegionRequest, *_: object, **__: object) -> RegionTask:
        raise UnknownSlideError(f"There is no slide {request.slide!r}.")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def desk(folder: Path) -> Iterator[Desk]:
    made = Desk(NoSlides(), Settings(jobs_dir=folder, jobs_min_free_bytes=2**60), folder)
    made.start()
    yield made
    made.stop()


def submit(desk: Desk, caller: Caller, request: JobRequest = REQUEST) -> tuple[JobRecord, bool]:
    return desk.submit(request, caller, request_id="r", key="k")


def test_a_repeated_key_is_answered_whatever_has_changed(desk: Desk, folder: Path) -> None:
    """The disk is full, the caller's share is used and the slide is gone: the job that was made is given. Another
    request with the key is a mismatch, a new key a new job, which is rejected."""
    caller = Caller("lab", frozenset({"jobs:write"}), limits=Limits(queued_jobs=1, stored_bytes=1))
    opened = desk._opened()
    made, _ = opened.records.add(
        REQUEST, request_id="r", key="k", most_active=1, retry_after_s=1, owner=caller.name
    )
    (folder / made.id).mkdir()
    (folder / made.id / "result").write_bytes(bytes(10))
    again, is_new = submit(desk, caller)
    assert (again.id, is_new) == (made.id, False)
    with pytest.raises(IdempotencyMismatchError):
        submit(desk, caller, REQUEST.model_copy(update={"label": "other"}))
    with pytest.raises(StorageFullError):
        submit(desk, Caller("lis", caller.scopes))
