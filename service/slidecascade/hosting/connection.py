"""A client connection with timeouts, fair parsing time and errors in the API's format."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import h11
from starlette.datastructures import MutableHeaders
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from slidecascade import logs
from slidecascade.errors import MalformedRequestError, OverloadedError, SlideCascadeError, SlowRequestError
from slidecascade.hosting.openconnections import OpenConnections
from slidecascade.hosting.tls import certificate_names
from slidecascade.metrics import UNMATCHED
from slidecascade.web.middleware.auth import CERTIFICATE_NAMES
from slidecascade.web.middleware.exchange import Exchange
from slidecascade.web.rest import problem_response

LOG = logging.getLogger(__name__)
ACCESS = logging.getLogger(f"{logs.OWN}.access")

_TURN_S: Final = 0.001
"""Parsing time of one connection per turn: a body in tiny chunks is expensive to parse."""

_MAX_HEAD_BYTES: Final = 64 * 2**10
_RESPONSE_STARTABLE: Final = (h11.IDLE, h11.SEND_RESPONSE)

Wait = Literal["head", "rest", "idle"]
"""What a connection waits for: a request's head, the unread rest of a body, or the next request."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Timeouts of a connection that waits for its client, in seconds."""

    head_s: float = 10.0
    """For a request's head, from the connection or from the head's first byte."""

    rest_s: float = 10.0
    """For the rest of a body after an early response; some clients read the response only after sending it."""

    idle_s: float = 30.0
    """Between requests; longer than clients keep idle connections, so that they do not send on a closing one."""

    read_s: float = 60.0
    """For a client that does not read its response."""

    def of(self, wait: Wait) -> float:
        return {"head": self.head_s, "rest": self.rest_s, "idle": self.idle_s}[wait]


DEFAULT_TIMEOUTS: Final = Timeouts()


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 connection with timeouts and a connection limit."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        all_open: OpenConnections,
        timeouts: Timeouts,
        timeout_log: logs.Throttle,
        retry_after_s: int,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn = _Parser(h11.SERVER, _MAX_HEAD_BYTES)
        self._all_open = all_open
        self._timeouts = timeouts
        self._timeout_log = timeout_log
        self._retry_after_s = retry_after_s
        self._wait: Wait | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        if names := certificate_names(transport.get_extra_info("peercert")):
            self.app_state = {**self.app_state, CERTIFICATE_NAMES: names}  # in the state of every request
        self.flow = _Flow(transport)
        if self._all_open.add(self):
            self._update_timeout()
        else:
            self._reject(
                OverloadedError("All connections are in use: try again later.", retry_after_s=self._retry_after_s)
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._all_open.remove(self)
        self._set_timer(None)
        self.resume_writing()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        parser, flow = cast("_Parser", self.conn), cast("_Flow", self.flow)
        parser.begin_turn()
        super().handle_events()
        flow.hold(parser.turn_is_over)
        if parser.turn_is_over:
            self._all_open.schedule_turn(self)
        self._update_timeout()

    def take_turn(self) -> None:
        if not self.transport.is_closing():
            self.handle_events()

    def evict(self) -> None:
        self.transport.abort()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update_timeout()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self._timeouts.read_s, self._expire, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's handler of all parse errors
        self._reject(MalformedRequestError("The request is not valid HTTP/1.1: check the client."))

    def _update_timeout(self) -> None:
        """Start or stop the timeout for what the connection waits for now."""
        if self.transport.is_closing():
            self._set_timer(None)
            return
        wait = self._waits_for()
        if wait == self._wait:
            return
        self._wait = wait
        if wait is None:
            self._all_open.mark_busy(self)
            self._set_timer(None)
        else:
            self._all_open.mark_waiting(self)
            self._set_timer(self._timeouts.of(wait))

    def _waits_for(self) -> Wait | None:
        if self.cycle is None:
            return "head"
        if not self.cycle.response_complete:
            return None  # the application handles the request, with its own deadline
        if self.conn.our_state is not h11.IDLE:
            return "rest"
        return "head" if self.conn.trailing_data[0] else "idle"

    def _set_timer(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._expire, self._time_out)

    def _expire(self, close: Callable[[], None]) -> None:
        self._timeout_log.note()
        close()

    def _time_out(self) -> None:
        if self._wait == "head" and self.conn.trailing_data[0]:
            self._reject(SlowRequestError(f"The request's head did not arrive in {self._timeouts.head_s:g} s."))
        else:
            self.transport.abort()

    def _reject(self, error: SlideCascadeError) -> None:
        """Send an error that does not pass through the application, and close."""
        if self.transport.is_closing() or self.conn.our_state not in _RESPONSE_STARTABLE:
            self.transport.abort()
            return
        exchange = Exchange()
        response = problem_response(error, exchange.request_id)
        headers = MutableHeaders(raw=list(response.raw_headers))
        exchange.mark(headers)
        headers["Connection"] = "close"
        for event in (
            h11.Response(status_code=response.status_code, headers=headers.raw),
            h11.Data(data=bytes(response.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # its response was replaced by this one
            self.cycle.message_event.set()
        self.transport.close()
        with logs.request(exchange.request_id):
            fields = {"route": UNMATCHED, "status": response.status_code, "problem": error.problem}
            ACCESS.info("request", extra={"fields": fields})


class _Parser(h11.Connection):
    """Parses for a short time, then reports NEED_DATA and leaves the rest to the next turn."""

    _ends_at = 0.0
    turn_is_over = False

    def begin_turn(self) -> None:
        self._ends_at = time.perf_counter() + _TURN_S
        self.turn_is_over = False

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if time.perf_counter() >= self._ends_at:
            self.turn_is_over = True
            return h11.NEED_DATA
        return super().next_event()


class _Flow(FlowControl):
    """Reads from the socket only while the application accepts data and all received data was parsed."""

    _paused = False
    _held = False

    def pause_reading(self) -> None:
        self._paused = True
        self._apply()

    def resume_reading(self) -> None:
        self._paused = False
        self._apply()

    def hold(self, held: bool) -> None:
        self._held = held
        self._apply()

    def _apply(self) -> None:
        if self._paused or self._held:
            super().pause_reading()
        else:
            super().resume_reading()
