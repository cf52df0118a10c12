"""What the clients make of a job that is cancelled, retried or deleted when the first reply is lost."""

from __future__ import annotations

import json
from typing import Protocol

import pytest

from scripted_server import HTML_502, Answer, Drop, FakeTime, act_async, act_sync, problem, scripted
from slidecascade.wire import JobStatus
from slidecascade_client import JobFinishedError, JobNotFinishedError, RequestRefusedError, UnknownJobError


class Act(Protocol):
    """A method of a job of one of the clients; its status after that."""

    def __call__(self, url: str, action: str, *, time: FakeTime) -> JobStatus: ...


both_clients = pytest.mark.parametrize("act", [act_sync, act_async], ids=["sync", "async"])
lost = pytest.mark.parametrize("reply", [Drop(), HTML_502], ids=["reset", "bad gateway"])


def job(status: str) -> Answer:
    """The job as the service reports it."""
    document = {
        "id": "j",
        "status": status,
        "pipeline": "nash",
        "slide": "liver.svs",
        "created_at": "2026-01-02T03:04:05Z",
        "progress": {"fields_done": 0, "fields_total": 4, "fraction": 0.0, "cells": 0, "eta_s": None},
        "links": {"self": "/v1/jobs/j", "events": "/v1/jobs/j/events"},
    }
    return Answer(body=json.dumps(document).encode())


FINISHED, NOT_FINISHED, UNKNOWN = (
    problem("job-finished", 409),
    problem("job-not-finished", 409),
    problem("unknown-job", 404),
)


@both_clients
@lost
@pytest.mark.parametrize(
    ("action", "before", "refusal", "after"),
    [
        ("cancel", "running", FINISHED, "cancelled"),
        ("retry", "failed", NOT_FINISHED, "queued"),
        ("retry", "failed", FINISHED, "succeeded"),
    ],
)
def test_an_action_whose_reply_is_lost_has_succeeded(
    act: Act, reply: Answer | Drop, action: str, before: str, refusal: Answer, after: str
) -> None:
    """The service rejects the repetition because of what the first did; the job has its new state."""
    with scripted(job(before), reply, refusal, job(after)) as server:
        assert act(server.url, action, time=FakeTime()) == after
    assert [request.method for request in server.received] == ["GET", "POST", "POST", "GET"]


@both_clients
@lost
def test_a_job_whose_deletion_got_no_reply_is_deleted(act: Act, reply: Answer | Drop) -> None:
    """The repetition finds no such job."""
    with scripted(job("succeeded"), reply, UNKNOWN) as server:
        act(server.url, "delete", time=FakeTime())
    assert [request.method for request in server.received] == ["GET", "DELETE", "DELETE"]


@both_clients
@pytest.mark.parametrize(
    ("action", "refusal", "error"),
    [
        ("cancel", FINISHED, JobFinishedError),
        ("retry", NOT_FINISHED, JobNotFinishedError),
        ("retry", FINISHED, JobFinishedError),
        ("delete", UNKNOWN, UnknownJobError),
    ],
)
def test_an_action_that_is_rejected_at_once_is_an_error(
    act: Act, action: str, refusal: Answer, error: type[RequestRefusedError]
) -> None:
    """It was the caller's only one, so that it did not change the job."""
    with scripted(job("cancelled"), refusal, job("cancelled")) as server, pytest.raises(error):
        act(server.url, action, time=FakeTime())
    assert len(server.received) == 2


@both_clients
def test_a_job_that_ended_otherwise_was_not_cancelled(act: Act) -> None:
    """The lost reply may have been that it had succeeded already."""
    with scripted(job("running"), Drop(), FINISHED, job("succeeded")) as server, pytest.raises(JobFinishedError):
        act(server.url, "cancel", time=FakeTime())


@both_clients
def test_a_job_that_is_still_running_is_not_deleted(act: Act) -> None:
    """A repetition is rejected for other reasons, too."""
    with scripted(job("running"), Drop(), NOT_FINISHED) as server, pytest.raises(JobNotFinishedError):
        act(server.url, "delete", time=FakeTime())
