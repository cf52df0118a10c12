"""The one path of a call, without I/O: what to send, when to try again, how to read the answer.

`exchange` is a generator. It yields a `Send`, is given what came of it (a `Reply`, or the httpx error) and
goes on until the call's result is its return value or a `SlideCascadeClientError` is raised. The two clients
only wait, send and receive.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import IO, Generic, TypeVar
from uuid import uuid4

import httpx

from slidecascade import __version__
from slidecascade_client.body import Body
from slidecascade_client.download import Download
from slidecascade_client.endpoint import Endpoint
from slidecascade_client.errors import SlideCascadeClientError, TimedOutError, UnexpectedAnswerError
from slidecascade_client.failures import failure_of_error, failure_of_reply, is_worth_a_retry
from slidecascade_client.proxy import Dialled
from slidecascade_client.reply import Reply
from slidecascade_client.spool import spool

T = TypeVar("T")
Outcome = Reply | httpx.RequestError

_CONNECT_S = 10.0  # a server that is there accepts within seconds, however long an analysis takes
_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REDIRECTS_WITH_BODY = frozenset({307, 308})  # the others would turn a POST into a GET

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One call of the API.

    `path` may hold a query; `headers` go beside those of every call. `read` turns a successful reply into the
    result; `recover` may turn a failure into one. The content of a successful reply goes into `download`, which
    asks each time for what it has not received. No further try starts after `retry_within_s`, whatever the retry
    policy allows; `time_limit_s` bounds the whole call.
    """

    method: str
    path: str
    accept: str
    read: Callable[[Reply], T]
    body: Body | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    recover: Callable[[SlideCascadeClientError], T] | None = None
    download: Download | None = None
    retry_within_s: float = math.inf
    time_limit_s: float = math.inf

    def close(self) -> None:
        """Close the files of the body that are not the caller's; again is harmless."""
        if self.body is not None:
            self.body.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Wait `after_s` seconds, then send this and receive the response, before the clock time `ends_at`."""

    method: str
    url: httpx.URL
    headers: Mapping[str, str]
    body: Body | None
    request_id: str
    after_s: float
    ends_at: float
    clock: Callable[[], float]
    download: Download | None = None

    @contextmanager
    def content_of(self, response: httpx.Response) -> Iterator[IO[bytes]]:
        """Where the content of `response` is written to; open when the block ends unless it goes to a file."""
        is_success = 200 <= response.status_code < 300
        with self.download.receiving(response) if self.download and is_success else spool() as body:
            yield body

    def timeout(self) -> httpx.Timeout:
        """Limits of the single reads and writes of a try that starts now."""
        left_s = max(self.ends_at - self.clock(), 0.001)
        return httpx.Timeout(left_s, connect=min(left_s, _CONNECT_S))

    def checked_chunks(self) -> Iterator[bytes]:
        """The body to send, from its beginning, as long as there is time."""
        if self.body is not None:
            for chunk in self.body.chunks():
                self.check_time()
                yield chunk

    def check_time(self) -> None:
        """Check the deadline between blocks, because each read or write may be fast while the total is too slow.

        Raises:
            httpx.ReadTimeout: when the time is up.
        """
        if self.clock() > self.ends_at:
            raise httpx.ReadTimeout("The time limit of the call passed.")


def exchange(call: Call[T], endpoint: Endpoint, dialled: Dialled) -> Generator[Send, Outcome, T]:
    """Run `call` against `endpoint`; see the module's docstring for the protocol."""
    try:
        reply = yield from _answered(call, endpoint, dialled)
        return call.read(reply)
    except SlideCascadeClientError as error:
        if call.recover is None:
            raise
        return call.recover(error)
    finally:
        call.close()


def _answered(call: Call[T], endpoint: Endpoint, dialled: Dialled) -> Generator[Send, Outcome, Reply]:
    """Try until there is a successful reply, or no further try is allowed."""
    policy = endpoint.retry
    time_limit_s = min(endpoint.timeout_s, call.time_limit_s)
    last_start_s = min(policy.max_elapsed_s, call.retry_within_s, time_limit_s)
    started = policy.clock()
    send = _first_send(call, endpoint, ends_at=started + time_limit_s)
    previous: SlideCascadeClientError | None = None
    tries = 0
    while True:
        outcome = yield from _redirected(send, endpoint)
        tries += 1
        if isinstance(outcome, Reply) and 200 <= outcome.status < 300:
            return outcome
        failure = _failure(outcome, send, endpoint, dialled.proxy_of(send.url))
        failure.tries = tries
        if isinstance(failure, TimedOutError):
            failure.last_error = previous
        wait_s = policy.delay_s(tries=tries, retry_after_s=failure.retry_after_s)
        too_late = policy.clock() - started + wait_s >= last_start_s
        if tries >= policy.max_tries or too_late or not is_worth_a_retry(failure):
            raise failure
        kind = type(failure).__name__  # not the message: it may name a slide
        logger.info("Request %s failed (%s); try %d in %.1f s.", send.request_id, kind, tries + 1, wait_s)
        send, previous = replace(send, after_s=wait_s, headers=_headers(call, send.headers)), failure


def _headers(call: Call[T], before: Mapping[str, str]) -> Mapping[str, str]:
    """The headers of the next try."""
    if call.download is None:
        return before
    kept = {name: value for name, value in before.items() if name not in ("range", "if-range")}
    return {**kept, **call.download.headers()}


def _first_send(call: Call[T], endpoint: Endpoint, *, ends_at: float) -> Send:
    request_id = uuid4().hex
    headers = {
        "accept": call.accept,
        "user-agent": f"slidecascade-client/{__version__}",
        "x-request-id": request_id,
        **call.headers,
    }
    if endpoint.api_key is not None:
        headers["authorization"] = f"Bearer {endpoint.api_key}"
    if call.body is not None:
        headers["content-type"] = call.body.content_type
        headers["content-length"] = str(call.body.size_bytes)
    return Send(
        method=call.method,
        url=endpoint.url(call.path),
        headers=_headers(call, headers),
        body=call.body,
        request_id=request_id,
        after_s=0.0,
        ends_at=ends_at,
        clock=endpoint.retry.clock,
        download=call.download,
    )


def _failure(outcome: Outcome, send: Send, endpoint: Endpoint, proxy: str | None) -> SlideCascadeClientError:
    if isinstance(outcome, Reply):
        return failure_of_reply(outcome, origin=endpoint.origin, proxy=proxy)
    return failure_of_error(outcome, origin=endpoint.origin, request_id=send.request_id, proxy=proxy)


def _redirected(send: Send, endpoint: Endpoint) -> Generator[Send, Outcome, Outcome]:
    """Follow redirects within the service's own host: key and image are never sent to another host."""
    for _ in range(_MAX_REDIRECTS + 1):
        outcome = yield send
        location = outcome.headers.get("location") if isinstance(outcome, Reply) else None
        if isinstance(outcome, httpx.RequestError) or location is None or outcome.status not in _REDIRECTS:
            return outcome
        outcome.body.close()
        target = _target(send.url, location)
        keeps_request = send.body is None or outcome.status in _REDIRECTS_WITH_BODY
        if target is None or not endpoint.is_home(target) or not keeps_request:
            there = f"{target.scheme}://{target.netloc.decode()}" if target else "an unreadable address"
            raise UnexpectedAnswerError(
                f"{endpoint.origin} redirects to {there}, which is not followed; if that is the service, "
                "use its address as base_url.",
                status=outcome.status,
                request_id=outcome.request_id,
            )
        send = replace(send, url=target, after_s=0.0)
    raise UnexpectedAnswerError(f"{endpoint.origin} redirects in a circle.", request_id=send.request_id)


def _target(url: httpx.URL, location: str) -> httpx.URL | None:
    try:
        return url.join(location)
    except httpx.InvalidURL:
        return None
