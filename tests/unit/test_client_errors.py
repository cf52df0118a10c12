"""Problems of the service as typed errors of the client."""

from __future__ import annotations

import pickle

import pytest

from scripted_server import HTML_502, Answer, Ask, FakeTime, both_clients, problem, scripted
from slidecascade import errors as service_errors
from slidecascade.wire import PROBLEM, FieldError
from slidecascade_client import (
    AccessDeniedError,
    DeadlineExceededError,
    InvalidRequestError,
    MissingResolutionError,
    OverloadedError,
    RequestRefusedError,
    RetryLaterError,
    ServiceFailedError,
    SlideCascadeClientError,
    TilesFailedError,
    UnexpectedAnswerError,
)
from slidecascade_client.errors import error_class

# Told at start, on a machine without a server, or to a caller who is gone: never in an answer.
NOT_OVER_HTTP = {
    "rejected-message",
    "conversion",
    "model-package",
    "pipeline-spec",
    "head-plugin",
    "unusable-data",
    "training-failed",
    "settings",
    "listen",
    "unwritable-output",
    "missing-extra",
    "broken-audit-log",
    "cancelled",
    "empaia",
    "fhir-denied",
    "fhir-rejected",
    "fhir-unavailable",
}


def _problem_names(base: type[service_errors.SlideCascadeError]) -> set[str]:
    return {base.problem}.union(*(_problem_names(child) for child in base.__subclasses__()))


@pytest.mark.parametrize("name", sorted(_problem_names(service_errors.SlideCascadeError) - NOT_OVER_HTTP))
def test_every_problem_of_the_service_has_a_class(name: str) -> None:
    """Callers can catch each problem by a class of its own, called like the service's."""
    found = error_class(name, 400)
    assert found.problem_name == name
    words = "".join(word.title() for word in name.split("-"))
    assert found.__name__.removesuffix("Error") in {words, "InternalService"}


@both_clients
def test_an_error_keeps_what_the_service_said(ask: Ask) -> None:
    """Type, status, detail and request id of the problem document reach the caller."""
    refused = problem("missing-resolution", 422, detail="Give mpp.")
    with scripted(refused) as server, pytest.raises(MissingResolutionError) as caught:
        ask(server.url, "analyze_region", b"image", pipeline="nash", time=FakeTime())
    error = caught.value
    assert str(error) == "Give mpp. (missing-resolution, HTTP 422, request id-of-the-server)"
    assert (error.status, error.request_id, error.retry_after_s) == (422, "id-of-the-server", None)
    assert error.problem is not None
    assert error.problem.name == "missing-resolution"
    assert isinstance(error, RequestRefusedError)
    assert isinstance(error, SlideCascadeClientError)


@both_clients
def test_field_errors_are_listed(ask: Ask) -> None:
    """Which fields were wrong is not only prose."""
    refused = problem("invalid-request", 422, errors=[{"field": "mpp", "message": "must be above 0"}])
    with scripted(refused) as server, pytest.raises(InvalidRequestError) as caught:
        ask(server.url, "analyze_region", b"image", pipeline="nash", time=FakeTime())
    assert caught.value.errors == (FieldError(field="mpp", message="must be above 0"),)


@both_clients
def test_failed_tiles_are_listed(ask: Ask) -> None:
    """The places that failed can be read from the error."""
    tile = {"x": 0, "y": 256, "width": 256, "height": 256, "reason": "unreadable"}
    with scripted(problem("tiles-failed", 500, tiles=[tile])) as server, pytest.raises(TilesFailedError) as caught:
        ask(server.url, "analyze_region", b"image", pipeline="nash", time=FakeTime())
    assert [failed.y for failed in caught.value.tiles] == [256]


@both_clients
@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (HTML_502, ServiceFailedError),
        (Answer(500, b""), ServiceFailedError),
        (Answer(401, b'{"error": "no key"}'), AccessDeniedError),
        (Answer(403), AccessDeniedError),
        (Answer(404, b"Not Found", "text/plain"), RequestRefusedError),
        (Answer(418, b"\xff\xfe\x00", "application/octet-stream"), RequestRefusedError),
        (Answer(429), RetryLaterError),
        (Answer(503, b"<html>", "text/html"), RetryLaterError),
        (Answer(304), UnexpectedAnswerError),
        (Answer(399), UnexpectedAnswerError),
        (Answer(400, b"[]", PROBLEM), RequestRefusedError),
        (Answer(400, b'{"type": "about:blank", "title": "?"}', PROBLEM), RequestRefusedError),
        (Answer(500, b"[" * 100_000, PROBLEM), ServiceFailedError),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Answer) else value.__name__,
)
def test_an_answer_without_a_problem_falls_back_to_its_status(
    ask: Ask, act: Answer, expected: type[SlideCascadeClientError]
) -> None:
    """A proxy's page, an empty body or garbage become an error of the status's family."""
    time = FakeTime()
    options = {"retry": time.policy(max_tries=1)}
    with scripted(act) as server, pytest.raises(expected) as caught:
        ask(server.url, "pipelines", time=time, options=options)
    assert type(caught.value) is expected
    assert caught.value.status == act.status
    assert caught.value.problem is None
    assert caught.value.request_id == server.received[0].headers["X-Request-Id"]
    assert "<html" not in str(caught.value)


@both_clients
def test_a_problem_of_a_later_version_is_still_read(ask: Ask) -> None:
    """An unknown type and unknown members fall back by status but keep the detail."""
    newer = problem("quota-used-up", 402, detail="Buy more.", quota=3)
    with scripted(newer) as server, pytest.raises(RequestRefusedError, match="Buy more") as caught:
        ask(server.url, "pipelines", time=FakeTime())
    assert type(caught.value) is RequestRefusedError
    assert caught.value.problem is not None
    assert caught.value.problem.name == "quota-used-up"


@both_clients
@pytest.mark.parametrize("body", [b"", b"<html>Log in</html>", b"[]", b'{"models": []}', b'{"pipelines": 1}'])
def test_a_success_that_is_something_else_is_unexpected(ask: Ask, body: bytes) -> None:
    """A portal's log-in page with status 200 is not accepted as a response."""
    with scripted(Answer(200, body)) as server, pytest.raises(UnexpectedAnswerError, match="base_url") as caught:
        ask(server.url, "pipelines", time=FakeTime())
    assert len(server.received) == 1
    assert caught.value.request_id


@both_clients
def test_a_body_that_is_not_what_its_encoding_says_is_unexpected(ask: Ask) -> None:
    """A broken gzip is an error without retry."""
    broken = Answer(200, b"not gzip", headers={"Content-Encoding": "gzip"})
    with scripted(broken) as server, pytest.raises(UnexpectedAnswerError, match="unpacked"):
        ask(server.url, "pipelines", time=FakeTime())
    assert len(server.received) == 1


def test_errors_survive_pickling() -> None:
    """An error may cross a process pool."""
    before = OverloadedError("Busy.", status=429, request_id="r", retry_after_s=2.0)
    before.tries = 3
    after = pickle.loads(pickle.dumps(before))  # noqa: S301  # made here
    assert isinstance(after, OverloadedError)
    assert str(after) == str(before) == "Busy. (HTTP 429, request r, 3 tries)"
    assert after.retry_after_s == 2.0


def test_time_limits_are_timeout_errors() -> None:
    """Code that catches TimeoutError catches the service's deadline too."""
    assert issubclass(DeadlineExceededError, TimeoutError)
