"""How the clients try, wait, try again and give up: against a real server that misbehaves by script."""

from __future__ import annotations

import asyncio
import logging
import socket
import time as real_time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripted_server import (
    HTML_502,
    NO_PIPELINES,
    OVERLOADED,
    Answer,
    Ask,
    Drop,
    FakeTime,
    both_clients,
    problem,
    scripted,
)
from slidecascade_client import (
    AsyncClient,
    Client,
    ConnectionFailedError,
    DeadlineExceededError,
    DrainingError,
    NotReadyError,
    OverloadedError,
    RetryPolicy,
    ServiceFailedError,
    TilesFailedError,
    TimedOutError,
    UnexpectedAnswerError,
)
from slidecascade_client.retry import read_retry_after_s

PIPELINES = "/v1/pipelines"


@both_clients
@pytest.mark.parametrize(
    "act",
    [
        OVERLOADED,
        HTML_502,
        problem("draining", 503),
        problem("deadline-exceeded", 504),
        problem("model-failed", 502),
        Drop(),
        Answer(body=b'{"pipelines": []}', missing_bytes=10),
    ],
    ids=["429", "html-502", "503", "504", "502", "dropped", "cut-short"],
)
def test_a_passing_failure_is_survived(ask: Ask, act: Answer | Drop) -> None:
    """429, 502, 503, 504 and broken connections are tried again."""
    time = FakeTime()
    with scripted(act, act, NO_PIPELINES) as server:
        assert ask(server.url, "pipelines", time=time) == ()
    assert len(server.received) == 3
    assert len(time.sleeps) == 2


@both_clients
@pytest.mark.parametrize("status", [400, 404, 413, 422, 500, 501])
def test_a_permanent_failure_is_raised_immediately(ask: Ask, status: int) -> None:
    """Other statuses are not tried again, a 500 of the service included."""
    with scripted(problem("tiles-failed", status)) as server, pytest.raises(TilesFailedError) as caught:
        ask(server.url, "pipelines", time=FakeTime())
    assert len(server.received) == 1
    assert caught.value.tries == 1


@both_clients
def test_waits_grow_and_are_capped(ask: Ask) -> None:
    """The bound of the wait doubles up to max_delay_s."""
    time = FakeTime()
    options = {"retry": time.policy(max_tries=7, max_delay_s=4.0)}
    with scripted(HTML_502) as server, pytest.raises(ServiceFailedError) as caught:
        ask(server.url, "pipelines", time=time, options=options)
    assert time.sleeps == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert caught.value.tries == len(server.received) == 7
    assert "7 tries" in str(caught.value)


@both_clients
def test_retry_after_in_seconds_is_honoured(ask: Ask) -> None:
    """The wait is what the service asked for plus the jitter."""
    time = FakeTime()
    with scripted(OVERLOADED, NO_PIPELINES) as server:
        ask(server.url, "pipelines", time=time)
    assert time.sleeps == [2.5]


@both_clients
def test_retry_after_as_a_date_is_honoured(ask: Ask) -> None:
    """A date counts from the answer's own Date, so a wrong clock does not matter."""
    time = FakeTime()
    headers = {"Retry-After": "Sun, 06 Nov 1994 08:49:44 GMT", "Date": "Sun, 06 Nov 1994 08:49:37 GMT"}
    with scripted(Answer(503, headers=headers), NO_PIPELINES) as server:
        ask(server.url, "pipelines", time=time)
    assert time.sleeps == [7.5]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("Sun, 06 Nov 1994 08:49:44 GMT", 7.0),
        ("Sun, 06 Nov 1994 08:49:44 -0000", 7.0),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0.0),
        ("-1", None),
        ("1e9", None),
        ("NaN", None),
        ("soon", None),
        ("", None),
        ("٣", None),
    ],
)
def test_retry_after_is_read(value: str, seconds: float | None) -> None:
    """Seconds and dates are understood; nonsense counts as absent."""
    raw = [(b"Date", b"Sun, 06 Nov 1994 08:49:37 GMT"), (b"Retry-After", value.encode())]
    assert read_retry_after_s(httpx.Headers(raw)) == seconds


def test_retry_after_date_without_a_date_header_uses_the_clock() -> None:
    """Some servers send no Date."""
    due = datetime.fromtimestamp(real_time.time() + 30, UTC)
    found = read_retry_after_s(httpx.Headers({"retry-after": format_datetime(due, usegmt=True)}))
    assert found is not None
    assert 25 < found <= 31


@given(value=st.text(max_size=40))
def test_no_retry_after_breaks_the_client(value: str) -> None:
    """Whatever a proxy writes, the wait is absent or a finite number from 0 on."""
    found = read_retry_after_s(httpx.Headers([(b"retry-after", value.encode())]))
    assert found is None or 0 <= found < 1e12


@given(tries=st.integers(1, 10_000), jitter=st.floats(0, 1, exclude_max=True))
def test_a_wait_stays_within_its_bound(tries: int, jitter: float) -> None:
    """Full jitter: anywhere from 0 to the bound, also after thousands of tries."""
    policy = RetryPolicy(jitter=lambda: jitter)
    assert 0 <= policy.delay_s(tries=tries, retry_after_s=None) <= policy.max_delay_s


@both_clients
def test_the_total_time_is_bounded(ask: Ask) -> None:
    """No try starts after max_elapsed_s, and no wait is begun that would end later."""
    time = FakeTime()
    options = {"retry": time.policy(max_elapsed_s=10.0)}
    with scripted(OVERLOADED) as server, pytest.raises(OverloadedError) as caught:
        ask(server.url, "pipelines", time=time, options=options)
    assert time.sleeps == [2.5, 3.0, 4.0]  # 9.5 s in all; the next wait, 6 s, would end at 15.5 s
    assert caught.value.retry_after_s == 2.0
    assert len(server.received) == 4


@both_clients
def test_a_long_retry_after_is_not_waited_for(ask: Ask) -> None:
    """For a Retry-After of an hour the error is raised immediately."""
    time = FakeTime()
    with (
        scripted(problem("not-ready", 503, headers={"Retry-After": "3600"})) as server,
        pytest.raises(NotReadyError) as caught,
    ):
        ask(server.url, "pipelines", time=time)
    assert time.sleeps == []
    assert caught.value.retry_after_s == 3600.0


@both_clients
def test_retries_never_outlast_the_callers_limit(ask: Ask) -> None:
    """timeout_s bounds tries and waits together, whatever the policy would allow."""
    time = FakeTime()
    with scripted(problem("draining", 503)) as server, pytest.raises(DrainingError):
        ask(server.url, "pipelines", time=time, options={"timeout_s": 4.0})
    assert time.sleeps == [0.5, 1.0, 2.0]


@both_clients
def test_no_try_starts_after_the_deadline(ask: Ask) -> None:
    """With a limit of a second there are no retries that cannot finish in time."""
    time = FakeTime()
    with scripted(problem("deadline-exceeded", 504)) as server, pytest.raises(DeadlineExceededError):
        ask(server.url, "analyze_region", b"x", pipeline="nash", mpp=0.5, deadline_s=1.0, time=time)
    assert time.sleeps == [0.5]


@both_clients
def test_a_slow_answer_runs_into_the_time_limit(ask: Ask) -> None:
    """A server that takes longer than timeout_s is given up, and not asked again."""
    started = real_time.monotonic()
    with (
        scripted(Answer(body=b'{"pipelines": []}', stall_s=5.0)) as server,
        pytest.raises(TimedOutError) as caught,
    ):
        ask(server.url, "pipelines", time=FakeTime(), options={"retry": RetryPolicy(), "timeout_s": 0.2})
    assert real_time.monotonic() - started < 2.0
    assert len(server.received) == 1
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.last_error is None
    assert caught.value.request_id == server.received[0].headers["X-Request-Id"]


@both_clients
def test_a_dripping_answer_runs_into_the_time_limit(ask: Ask) -> None:
    """An answer whose every piece is quick is given up too when the whole takes too long."""
    started = real_time.monotonic()
    drip = Answer(body=b" " * 100, pieces=100, stall_s=0.05)
    with scripted(drip) as server, pytest.raises(TimedOutError):
        ask(server.url, "pipelines", time=FakeTime(), options={"retry": RetryPolicy(), "timeout_s": 0.3})
    assert real_time.monotonic() - started < 2.0


@both_clients
def test_running_out_of_time_keeps_what_was_said_before(ask: Ask) -> None:
    """The reason of the try before is not lost."""
    options = {"retry": RetryPolicy(jitter=lambda: 0.0), "timeout_s": 0.3}
    with (
        scripted(problem("draining", 503), Answer(stall_s=5.0)) as server,
        pytest.raises(TimedOutError) as caught,
    ):
        ask(server.url, "pipelines", time=FakeTime(), options=options)
    assert isinstance(caught.value.last_error, DrainingError)


@both_clients
def test_nobody_listening_is_a_connection_error(ask: Ask) -> None:
    """A refused connection is retried, then raised."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        time = FakeTime()
        with pytest.raises(ConnectionFailedError, match="3 tries") as caught:
            ask(url, "pipelines", time=time, options={"retry": time.policy(max_tries=3)})
    assert isinstance(caught.value, ConnectionError)
    assert caught.value.status is None
    assert isinstance(caught.value.__cause__, httpx.ConnectError)
    assert url in str(caught.value)


@both_clients
def test_one_request_id_is_kept_over_the_tries(ask: Ask) -> None:
    """The operator finds all tries of a call under one id; the next call has another."""
    with scripted(HTML_502, Drop(), NO_PIPELINES) as server:
        ask(server.url, "pipelines", time=FakeTime())
        ask(server.url, "pipelines", time=FakeTime())
    ids = [request.headers["X-Request-Id"] for request in server.received]
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert len(bytes.fromhex(ids[0])) == 16


@both_clients
def test_the_key_is_sent_as_bearer_and_never_shown(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    """Neither logs, errors nor reprs hold the key."""
    caplog.set_level(logging.DEBUG)
    options = {"api_key": "s3cret-key"}
    time = FakeTime()
    with scripted(OVERLOADED, Answer(401)) as server, pytest.raises(Exception, match="api_key") as caught:
        ask(server.url, "pipelines", time=time, options=options)
    assert server.received[1].headers["Authorization"] == "Bearer s3cret-key"
    assert "try 2 in" in caplog.text
    assert "s3cret" not in caplog.text + str(caught.value) + repr(caught.value)
    with Client(server.url, api_key="s3cret-key") as client:
        assert "s3cret" not in repr(client) + repr(vars(client))


@both_clients
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_nothing_is_sent_to_another_host(ask: Ask, status: int) -> None:
    """A redirect elsewhere gets neither the key nor the image, and is an error."""
    with scripted(NO_PIPELINES) as other:
        redirect = Answer(status, headers={"Location": f"{other.url}{PIPELINES}?token=t0ken"})
        with scripted(redirect) as server:
            for call in ({"method": "pipelines"}, {"method": "analyze_region", "pipeline": "p", "slide": "s"}):
                with pytest.raises(UnexpectedAnswerError, match="redirects to") as caught:
                    ask(server.url, time=FakeTime(), options={"api_key": "s3cret"}, **call)
                assert other.url in str(caught.value)
                assert "t0ken" not in str(caught.value)
    assert other.received == []


@both_clients
def test_a_redirect_on_the_same_host_is_followed(ask: Ask) -> None:
    """A moved path keeps method, key, body and request id."""
    moved = Answer(307, headers={"Location": "/prefix/v1/regions"})
    with scripted(moved, problem("unknown-slide", 404)) as server, pytest.raises(Exception, match="unknown-slide"):
        ask(server.url, "analyze_region", pipeline="p", slide="s", time=FakeTime(), options={"api_key": "k"})
    first, second = server.received
    assert (second.method, second.path, second.body) == ("POST", "/prefix/v1/regions", first.body)
    assert second.headers["Authorization"] == "Bearer k"
    assert second.headers["X-Request-Id"] == first.headers["X-Request-Id"]


@both_clients
@pytest.mark.parametrize("location", ["/v1/regions", "http://[", "ftp://x/"])
def test_a_redirect_that_would_lose_the_body_is_refused(ask: Ask, location: str) -> None:
    """A 302 would make a GET of the POST; an unreadable address leads nowhere."""
    with (
        scripted(Answer(302, headers={"Location": location})) as server,
        pytest.raises(UnexpectedAnswerError, match="base_url"),
    ):
        ask(server.url, "analyze_region", pipeline="p", slide="s", time=FakeTime())
    assert len(server.received) == 1


@both_clients
def test_redirects_in_a_circle_end(ask: Ask) -> None:
    """A loop is an error, not a hang."""
    with (
        scripted(Answer(302, headers={"Location": PIPELINES})) as server,
        pytest.raises(UnexpectedAnswerError, match="circle"),
    ):
        ask(server.url, "pipelines", time=FakeTime())
    assert len(server.received) == 6


@both_clients
def test_a_prefix_in_the_address_is_kept(ask: Ask) -> None:
    """A service behind a proxy may live below a path."""
    with scripted(NO_PIPELINES) as server:
        ask(f"{server.url}/pathology/", "pipelines", time=FakeTime())
    assert server.received[0].path == "/pathology/v1/pipelines"


@pytest.mark.parametrize(
    "url", ["", "localhost:3000", "ftp://host", "http://", "http://h/?a=1", "http://h/#a", "h\x00"]
)
def test_a_wrong_address_is_refused(url: str) -> None:
    """An address without http(s) is rejected by the constructor."""
    with pytest.raises(ValueError, match="base_url"):
        Client(url)


@pytest.mark.parametrize("key", ["", " ", "a\nb", "a\r\nX-Evil: 1", "ключ"])
def test_a_key_that_cannot_be_a_header_is_refused_without_being_quoted(key: str) -> None:
    """The HTTP library would put the key into its own message."""
    with pytest.raises(ValueError, match="api_key must be printable ASCII") as caught:
        Client("http://h", api_key=key)
    assert not key.strip() or key not in str(caught.value)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_time_limit_is_a_positive_number(seconds: float) -> None:
    """Zero, negative and unbounded limits are refused."""
    with pytest.raises(ValueError, match="timeout_s"):
        Client("http://h", timeout_s=seconds)


@pytest.mark.parametrize("wrong", [{"max_tries": 0}, {"max_elapsed_s": -1.0}, {"base_delay_s": -0.1}])
def test_an_impossible_policy_is_refused(wrong: dict[str, float]) -> None:
    """A policy without attempts or with negative delays is rejected by the constructor."""
    with pytest.raises(ValueError, match=r"max_tries|seconds"):
        RetryPolicy(**wrong)  # type: ignore[arg-type]  # one field at a time


def test_credentials_in_the_address_stay_out_of_messages() -> None:
    """A password in base_url is used but never shown."""
    with Client("http://user:passw0rd@127.0.0.1:9", retry=RetryPolicy(max_tries=1)) as client:
        with pytest.raises(ConnectionFailedError) as caught:
            client.pipelines()
        assert "passw0rd" not in str(caught.value) + repr(client)


def test_a_given_http_client_stays_open() -> None:
    """Connections of the caller are closed by the caller."""
    with scripted(NO_PIPELINES) as server, httpx.Client() as http:
        with Client(server.url, http_client=http) as client:
            assert client.pipelines() == ()
        assert not http.is_closed


def test_a_client_may_be_shared_by_threads() -> None:
    """Calls at the same time do not disturb each other."""
    with scripted(NO_PIPELINES) as server, Client(server.url) as client, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: client.pipelines(), range(32))) == [()] * 32
    assert len({request.headers["X-Request-Id"] for request in server.received}) == 32


async def test_a_cancelled_call_ends_at_once() -> None:
    """Cancelling a task leaves no connection and no open file behind, and the client usable."""
    with scripted(Answer(stall_s=5.0), NO_PIPELINES) as server:
        async with AsyncClient(server.url) as client:
            started = real_time.monotonic()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.analyze_region(b"image", pipeline="p"), 0.2)
            assert real_time.monotonic() - started < 2.0
            assert await client.pipelines() == ()
