"""A LIS for the first day and for tests: sends orders at a rate, receives results, counts what became of each."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

from slidecascade_lis.charsets import decoded
from slidecascade_lis.er7 import Segment, joined, read_lines, read_message
from slidecascade_lis.framing import Frame, FrameReader, framed
from slidecascade_lis.peer import Peer, PeerUnavailableError
from slidecascade_lis.rejection import RejectedMessageError
from slidecascade_lis.replies import STANDARD, Party, acknowledgement, header, timestamp

_MAX_BYTES: Final = 2**20
_RETRY_S: Final = 0.2
_OWN: Final = Party("SIMULATOR", "")


@dataclass(frozen=True, slots=True)
class OrderPlan:
    """What is ordered and how fast; the bridge must take the slide from OBR-13 and the pipeline from OBR-4."""

    slide: str
    pipeline: str
    orders: int
    rate_hz: float
    connections: int = 4


@dataclass
class Tally:
    """What a simulation counted. `results` has the control ids of all results by placer order number; `sent_at` is
    when a message was first sent, by `time.perf_counter`; `result_s` counts from then to the first result."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    results: dict[str, set[str]] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    sends: int = 0
    ack_s: list[float] = field(default_factory=list)
    sent_at: dict[str, float] = field(default_factory=dict)
    result_s: list[float] = field(default_factory=list)
    repeated_results: int = 0

    @property
    def lost(self) -> list[str]:
        """Orders that were acknowledged and have no result."""
        return [number for number in self.acknowledged if number not in self.results]

    @property
    def doubled(self) -> list[str]:
        """Orders with more than one result; the same message twice is one."""
        return [number for number, controls in self.results.items() if len(controls) > 1]

    def report(self, seconds: float) -> str:
        """What was counted, line by line."""
        ack_p50_s, ack_p95_s = quantiles(self.ack_s)
        result_p50_s, result_p95_s = quantiles(self.result_s)
        ended = ", ".join(f"{count} {status}" for status, count in sorted(self.statuses.items())) or "none"
        return (
            f"{len(self.acknowledged)} acknowledged, {len(self.rejected)} rejected, "
            f"{self.sends} sends, {seconds:.1f} s\n"
            f"acknowledgement after {1000 * ack_p50_s:.1f} ms (p50), {1000 * ack_p95_s:.1f} ms (p95)\n"
            f"result after {result_p50_s:.2f} s (p50), {result_p95_s:.2f} s (p95)\n"
            f"results: {ended}; {self.repeated_results} of them repeated\n"
            f"lost: {len(self.lost)}; answered twice: {len(self.doubled)}\n"
        )


def quantiles(values: Sequence[float]) -> tuple[float, float]:
    """The 50th and the 95th percentile; zeros for no values."""
    ordered = sorted(values) or [0.0]
    return ordered[int(0.5 * (len(ordered) - 1))], ordered[int(0.95 * (len(ordered) - 1))]


class ResultReceiver:
    """An MLLP server that acknowledges results with `code` and adds them to `tally`."""

    def __init__(self, tally: Tally, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._tally = tally
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.messages: list[str] = []
        self.code = "AA"

    async def start(self) -> int:
        """Listen; the port."""
        self._server = await asyncio.start_server(self._serve, self._host, self._port)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in self._writers:
                writer.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = FrameReader(reader, max_bytes=_MAX_BYTES, idle_s=3600, frame_s=60)
        self._writers.add(writer)
        try:
            while (frame := await frames.next()) is not None:
                writer.write(framed(self._take(frame)))
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            return
        finally:
            self._writers.discard(writer)
            writer.close()

    def _take(self, frame: Frame) -> bytes:
        text = decoded(frame.content)
        message = read_message(read_lines(text))
        if self.code == "AA":
            self.messages.append(text)
            self._count(message.control_id, message.first("ORC"))
        return acknowledgement(message, self.code, own=_OWN).encode()

    def _count(self, control: str, orc: Segment | None) -> None:
        if orc is None or orc.text(1) != "RE":  # an application response
            return
        sent_at = self._tally.sent_at.get(orc.text(2))
        if sent_at is not None and orc.text(2) not in self._tally.results:
            self._tally.result_s.append(time.perf_counter() - sent_at)
        seen = self._tally.results.setdefault(orc.text(2), set())
        self._tally.repeated_results += control in seen
        if control not in seen:
            self._tally.statuses[orc.text(5)] += 1
        seen.add(control)


def order_message(plan: OrderPlan, number: str) -> str:
    """An OML^O21 with one new order of an invented patient; `number` is its placer order number and control id."""
    head = header(("OML", "O21", "OML_O21"), sender=_OWN, receiver=Party("SLIDECASCADE", ""), control=number[:20])
    return joined(
        [
            head,
            "PID|1||TEST-1^^^SIMULATOR^MR||Test^Simulated",
            f"ORC|NW|{number}|||||||{timestamp()}",
            f"OBR|1|{number}||{STANDARD.escaped(plan.pipeline)}|||||||||{STANDARD.escaped(plan.slide)}",
        ]
    )


async def simulate(plan: OrderPlan, tally: Tally, *, host: str, port: int, wait_s: float) -> None:
    """Send all orders of a plan, each until AA or AE answers it, then wait up to `wait_s` for the results."""
    queue: asyncio.Queue[str | None] = asyncio.Queue()
    senders = [asyncio.create_task(_send_all(plan, tally, queue, host, port)) for _ in range(plan.connections)]
    started = time.monotonic()
    for index in range(plan.orders):
        late_s = started + index / plan.rate_hz - time.monotonic()
        if late_s > 0:
            await asyncio.sleep(late_s)
        queue.put_nowait(uuid4().hex[:20])
    for _ in senders:
        queue.put_nowait(None)
    await asyncio.gather(*senders)
    ends_at = time.monotonic() + wait_s
    while tally.lost and time.monotonic() < ends_at:  # noqa: ASYNC110 - results arrive in tasks of their own
        await asyncio.sleep(_RETRY_S)


async def send_message(text: str, *, host: str, port: int, reply_s: float = 30.0) -> str:
    """Send the content of a file once; the reply, with line ends of the platform.

    Raises:
        PeerUnavailableError: nothing replied.
    """
    peer = Peer(host, port, tls=None, server_name=None, reply_s=reply_s)
    try:
        reply = await peer.exchange(joined(read_lines(text)).encode())
    finally:
        peer.close()
    return "\n".join(segment.encoded(STANDARD) for segment in reply.message.segments)


async def _send_all(plan: OrderPlan, tally: Tally, queue: asyncio.Queue[str | None], host: str, port: int) -> None:
    peer = Peer(host, port, tls=None, server_name=None, reply_s=30.0)
    try:
        while (number := await queue.get()) is not None:
            await _send(order_message(plan, number), number, tally, peer)
    finally:
        peer.close()


async def _send(message: str, number: str, tally: Tally, peer: Peer) -> None:
    """Repeat a message, byte for byte, until the bridge accepts or rejects it."""
    tally.sent_at[number] = time.perf_counter()
    while True:
        tally.sends += 1
        started = time.perf_counter()
        try:
            reply = await peer.exchange(message.encode())
        except (PeerUnavailableError, RejectedMessageError):
            await asyncio.sleep(_RETRY_S)
            continue
        if reply.code == "AA":
            tally.ack_s.append(time.perf_counter() - started)
            tally.acknowledged[number] = reply.message.control_id
            return
        if reply.code == "AE":
            tally.rejected[number] = reply.message.control_id
            return
        await asyncio.sleep(_RETRY_S)
