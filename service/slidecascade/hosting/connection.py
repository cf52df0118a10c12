"""One connection of a client: bounded in time, fair to the others, its errors as the API gives them."""

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
from slidecascade.metrics import UNMATCHED
from slidecascade.web.middleware.exchange import Exchange
from slidecascade.web.rest import problem_response

LOG = logging.getLogger(__name__)
ACCESS = logging.getLogger(f"{logs.OWN}.access")

_TURN_S: Final = 0.001
"""How long one connection's bytes are parsed at a time: a body in tiny chunks is a lot of work for each byte."""

_MAX_HEAD_BYTES: Final = 64 * 2**10
_RETRY_AFTER_S: Final = 2
_RESPONSE_STARTABLE: Final = (h11.IDLE, h11.SEND_RESPONSE)

Wait = Literal["head", "rest", "idle"]
"""What a connection waits for: a request's head, the rest of a body that nobody reads, or the next request."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client may keep a connection waiting, in seconds."""

    head_s: float = 10.0
    """For a request's head, from the connection or from the head's first byte."""

    rest_s: float = 10.0
    """For the rest of a body whose request was answered without it; a client needs some to see the answer."""

    idle_s: float = 30.0
    """Between requests; longer than clients keep connections, so that they do not send into one being closed."""

    read_s: float = 60.0
    """For a client that does not read its answer."""

    def of(self, wait: Wait) -> float:
        return {"head": self.head_s, "rest": self.rest_s, "idle": self.idle_s}[wait]


DEFAULT_PATIENCE: Final = Patience()


class Connection(H11Protocol):
    """uvicorn's connection with limits."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        all_open: OpenConnections,
        patience: Patience,
        timeouts: logs.Throttle,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn = _Parser(h11.SERVER, _MAX_HEAD_BYTES)
        self._all_open = all_open
        self._patience = patience
        self._timeouts = timeouts
        self._wait: Wait | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._write_limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self.flow = _Flow(transport)
        if self._all_open.add(self):
            self._watch()
        else:
            self._refuse(
                OverloadedError("All connections are in use: try again later.", retry_after_s=_RETRY_AFTER_S)
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._all_open.remove(self)
        self._set_limit(None)
        self.resume_writing()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        parser, flow = cast("_Parser", self.conn), cast("_Flow", self.flow)
        parser.begin_turn()
        super().handle_events()
        flow.hold(parser.turn_is_over)
        if parser.turn_is_over:
            self._all_open.later(self)
        self._watch()

    def take_turn(self) -> None:
        if not self.transport.is_closing():
            self.handle_events()

    def make_room(self) -> None:
        self.transport.abort()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_limit is None:
            self._write_limit = self.loop.call_later(self._patience.read_s, self._give_up, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_limit is not None:
            self._write_limit.cancel()
            self._write_limit = None

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        self._refuse(MalformedRequestError("The request is not valid HTTP/1.1: check what sent it."))

    def _watch(self) -> None:
        """Limit the time of what the connection waits for now."""
        if self.transport.is_closing():
            self._set_limit(None)
            return
        wait = self._waits_for()
        if wait == self._wait:
            return
        self._wait = wait
        if wait is None:
            self._all_open.work(self)
            self._set_limit(None)
        else:
            self._all_open.wait(self)
            self._set_limit(self._patience.of(wait))

    def _waits_for(self) -> Wait | None:
        if self.cycle is None:
            return "head"
        if not self.cycle.response_complete:
            return None  # the application has the request, and limits of its own
        if self.conn.our_state is not h11.IDLE:
            return "rest"
        return "head" if self.conn.trailing_data[0] else "idle"

    def _set_limit(self, seconds: float | None) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._limit = None if seconds is None else self.loop.call_later(seconds, self._give_up, self._time_out)

    def _give_up(self, close: Callable[[], None]) -> None:
        self._timeouts.note()
        close()

    def _time_out(self) -> None:
        if self._wait == "head" and self.conn.trailing_data[0]:
            self._refuse(SlowRequestError(f"The request's head did not arrive in {self._patience.head_s:g} s."))
        else:
            self.transport.abort()

    def _refuse(self, error: SlideCascadeError) -> None:
        """Answer what no application sees, and close."""
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
            self.cycle.disconnected = True  # the answer was this one
            self.cycle.message_event.set()
        self.transport.close()
        with logs.request(exchange.request_id):
            fields = {"route": UNMATCHED, "status": response.status_code, "problem": error.problem}
            ACCESS.info("request", extra={"fields": fields})


class _Parser(h11.Connection):
    """Parses for a short time, and says then that it needs more data: the rest is for the next turn."""

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
    """Reads from the socket only while the application wants to and all that was read has been parsed."""

    _unwanted = False
    _held = False

    def pause_reading(self) -> None:
        self._unwanted = True
        self._apply()

    def resume_reading(self) -> None:
        self._unwanted = False
        self._apply()

    def hold(self, held: bool) -> None:
        self._held = held
        self._apply()

    def _apply(self) -> None:
        if self._unwanted or self._held:
            super().pause_reading()
        else:
            super().resume_reading()
