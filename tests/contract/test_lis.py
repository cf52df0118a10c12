"""The bridge to a LIS, as a process, with a stand-in for the service."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import re
import resource
import socket
import sqlite3
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from benchmarks.lis.kills import Bridge, measure, write_config
from benchmarks.lis.standin import MODEL_SHA256, PIPELINE, SLIDE, StandIn, standing_in
from PIL import Image

from lis_messages import (
    LIMIT_S,
    PATIENT,
    PATIENT_ID,
    Mllp,
    Reply,
    hostile,
    message,
    msh,
    new_order,
    number,
    order,
    pid,
    wait,
    write_certificates,
)
from postgres import postgres
from served_process import free_port
from slidecascade.cli import main
from slidecascade.wire import RESEARCH_USE_ONLY
from slidecascade_lis.simulator import OrderPlan, ResultReceiver, Tally


class Lis:
    """A receiver of results in a thread."""

    def __init__(self, port: int | None = None) -> None:
        self.tally = Tally()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = port or free_port()
        self.receiver = ResultReceiver(self.tally, port=self.port)

    def start(self) -> None:
        asyncio.run_coroutine_threadsafe(self.receiver.start(), self._loop).result(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.receiver.stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def results(self, placer: str) -> list[Reply]:
        """The results of an order."""
        found = [Reply.read(text) for text in list(self.receiver.messages)]
        return [reply for reply in found if reply.all("ORC") and reply.all("ORC")[0][1:3] == ("RE", placer)]

    def result(self, placer: str) -> Reply:
        """The only result of an order, once it is there."""
        wait(lambda: bool(self.results(placer)))
        (reply,) = self.results(placer)
        return reply


@dataclass
class House:
    """A bridge with a service and a LIS."""

    folder: Path
    service: StandIn
    lis: Lis
    bridge: Bridge

    @property
    def port(self) -> int:
        return self.bridge.port

    @property
    def config(self) -> str:
        return str(self.bridge.config)

    def ask(self, content: str | bytes) -> Reply:
        with Mllp(self.port) as mllp:
            return mllp.ask(content)

    def restart(self) -> None:
        self.bridge = Bridge.start(self.bridge.config, self.port)
        asyncio.run(self.bridge.listens())


@contextmanager
def housed(
    folder: Path,
    *,
    listen: bool = True,
    where: dict[str, object] | None = None,
    max_jobs: int = 16,
    **parts: object,
) -> Iterator[House]:
    """`listen`: whether the LIS takes results from the start; `where`: fields of ``listen``; `parts` replaced."""
    lis = Lis()
    if listen:
        lis.start()
    with standing_in() as service:
        port = free_port()
        listen_at = {"port": port, "frame_timeout_s": 1.0} | (where or {})
        parts["listen"] = listen_at
        parts["service"] = {"url": service.url, "poll_s": 0.1, "max_jobs": max_jobs}
        config = write_config(folder, service_url=service.url, port=port, result_port=lis.port, **parts)
        bridge = Bridge.start(config, port)
        try:
            asyncio.run(bridge.listens())
            house = House(folder, service, lis, bridge)
            yield house
            bridge = house.bridge
        finally:
            bridge.stop()
            lis.stop()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    receivers = {"messages": ["ORU^R01"], "host": "127.0.0.1", "first_retry_s": 0.1, "max_retry_s": 0.5}
    folder = tmp_path_factory.mktemp("bridge")
    lis = Lis()
    lis.start()
    key = folder / "pseudonym.key"
    key.write_text("a secret of this test", encoding="utf-8")
    pointer = {
        "code": ["cells", "Cells", "99T"],
        "url": "https://host/v1/jobs/{job}/result",
        "subtype": "geo+json",
    }
    with standing_in() as service:
        port = free_port()
        config = write_config(
            folder,
            service_url=service.url,
            port=port,
            result_port=lis.port,
            listen={"port": port, "frame_timeout_s": 1.0, "max_connections": 60},
            receivers={
                "lis": receivers | {"port": lis.port},
                "registry": receivers | {"port": lis.port, "messages": ["OUL^R21"], "senders": ["REGISTRY"]},
            },
            orders={
                "slide": {"take": ["SPM-2.1", "OBR-13"], "pattern": r"([\w.\-/:?#^]+)"},
                "pipeline": {"take": ["OBR-4"], "table": {PIPELINE: PIPELINE, "odd": "not-there"}},
                "region": {"take": ["OBR-39"]},
                "priority": {"take": ["TQ1-9"], "table": {"S": "100", "R": "0"}, "default": "R"},
                "label": {"take": ["PID-3.1"]},
            },
            pseudonym_key_file=str(key),
            results={"pointers": [pointer], "codes": {"count.Other": ["12345-6", "Other cells", "LN"]}},
        )
        bridge = Bridge.start(config, port)
        try:
            asyncio.run(bridge.listens())
            yield House(folder, service, lis, bridge)
        finally:
            bridge.stop()
            lis.stop()


def test_an_order_becomes_a_preliminary_result(house: House) -> None:
    """Counts, fractions with denominators, UCUM units, models with sha256, warnings, and what the order said."""
    placer = number()
    reply = house.ask(new_order(placer))
    assert (reply.code, reply.all("MSH")[0][8], reply.all("ORC")[0][1]) == ("AA", "ORL^O22^ORL_O22", "OK")
    filler = reply.all("ORC")[0][3]

    result = house.lis.result(placer)
    assert result.all("MSH")[0][8] == "ORU^R01^ORU_R01"
    assert PATIENT in result.all("PID")[0][5]
    assert "Secret Street" not in str(result.lines)
    obr = result.all("OBR")[0]
    assert (obr[2], obr[3], obr[25]) == (placer, filler, "P")
    assert result.all("ORC")[0][5] == "CM"
    observations = {line[3].split("^")[0]: line for line in result.all("OBX")}
    assert observations["12345-6"][3:7] == ("12345-6^Other cells^LN", "1", "10", "1^count^UCUM")
    assert observations["fraction.ballooning"][5:7] == ("40", "%^percent^UCUM")
    assert observations["ratio.ballooning"][2:6] == (
        "SN", "ratio.ballooning^ballooning of classified hepatocytes^99SLIDECASCADE", "1", "^12^/^30",
    )  # fmt: skip
    assert (observations["fraction.steatosis"][5], observations["fraction.steatosis"][11]) == ("", "X")
    assert {line[11] for line in result.all("OBX")} == {"P", "X"}
    assert all(line[18] == f"nuclei:1^sha256^{MODEL_SHA256}^L" for line in result.all("OBX"))
    job = house.service.jobs[filler]
    assert observations["cells"][2] == "RP"
    assert observations["cells"][5] == f"https://host/v1/jobs/{job}/result^SlideCascade^AP^geo+json"
    notes = [line[3] for line in result.all("NTE")]
    assert notes == [RESEARCH_USE_ONLY, "Warning ink: 3 tiles \\F\\ hold ink."]


def test_the_service_gets_no_name_of_the_patient(house: House) -> None:
    """The job's label is a keyed hash: the same for one patient, and without the id."""
    placers = [number(), number()]
    fillers = [house.ask(new_order(placer)).all("ORC")[0][3] for placer in placers]
    for placer in placers:
        house.lis.result(placer)
    labels = {house.service.requests[house.service.jobs[filler]].label for filler in fillers}
    (label,) = labels
    assert label is not None
    assert re.fullmatch("[0-9a-f]{32}", label)


def test_a_repeated_message_is_answered_the_same_and_done_once(house: House) -> None:
    """Byte for byte, also with another MSH-7; other content with the same control id is rejected."""
    placer, control = number(), number()
    content = new_order(placer, control=control)
    with Mllp(house.port) as mllp:
        mllp.send(content)
        first = mllp.reply()
        mllp.send(content)
        assert mllp.reply() == first
        mllp.send(content.replace("20261126190000", "20261126190501"))
        assert mllp.reply() == first
        other = mllp.ask(new_order(control=control))
    assert (other.code, other.errors[0][:2]) == ("AE", ("MSH^1^10^1", "205"))
    house.lis.result(placer)
    assert len(house.service.jobs) == len(set(house.service.jobs))
    again = house.ask(new_order(placer))
    assert (again.code, again.errors[0][:2]) == ("AE", ("ORC^1^2^1", "205"))


@pytest.mark.parametrize(
    ("content", "codes"), [pytest.param(content, codes, id=name) for name, content, codes in hostile()]
)
def test_hostile_messages_are_answered(house: House, content: bytes, codes: Sequence[str]) -> None:
    """Each one gets one reply, rejects with a reason, and the connection takes the next message."""
    before = _orders(house)
    with Mllp(house.port) as mllp:
        reply = mllp.ask(content)
        assert reply.code in codes
        assert reply.errors
        assert mllp.ask(new_order("-", control="-").replace("NW", "SS")).code == "AE"
    assert _orders(house) == before


def _orders(house: House) -> int:
    """How many orders were ever accepted."""
    connection = sqlite3.connect(house.folder / "lis.sqlite", timeout=30)
    try:
        count: int = connection.execute("SELECT count(*) FROM slidecascade_lis_orders").fetchone()[0]
        return count
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("lines", "place", "code"),
    [
        (order("W", slide="nowhere.svs"), "OBR^1^13^1", "204"),
        (["ORC|NW|W", f"OBR|1|W||{PIPELINE}", "SPM|1|nowhere.svs"], "SPM^1^2^1^1", "204"),
        (order("W", pipeline="odd"), "OBR^1^4^1", "204"),
        (order("W", pipeline="nope"), "OBR^1^4^1", "103"),
        ([order("W")[0], order("W")[1] + "|" * 26 + "1,2,x,4"], "OBR^1^39^1", "102"),
        ([*order("W"), "TQ1|||||||||Q"], "TQ1^1^9^1", "103"),
        ([*order("U"), *order("V", slide="nowhere.svs")], "OBR^2^13^1", "204"),
    ],
)
def test_errors_say_what_and_where(house: House, lines: list[str], place: str, code: str) -> None:
    """ERR names segment, occurrence, field and component, and the code of table 0357."""
    reply = house.ask(message(msh(), pid(), *lines))
    assert (reply.code, [error[:2] for error in reply.errors]) == ("AE", [(place, code)])


def test_orders_for_slides_that_come_later_can_be_sent_again(house: House) -> None:
    """The same message is accepted when its slide is there."""
    placer, slide = number(), f"{number()}.svs"
    content = message(msh(), pid(), *order(placer, slide=slide))
    assert house.ask(content).code == "AE"
    house.service.slides.add(slide)
    assert house.ask(content).code == "AA"
    house.lis.result(placer)


def test_specimens_orders_and_message_types(house: House) -> None:
    """OML^O33 with two specimens, OML^O21 with an order of two slides, ORM^O01: each has its answer."""
    slides = [f"{number()}.svs" for _ in range(2)]
    house.service.slides.update(slides)
    placers = [number(), number(), number(), number()]
    by_specimen = [
        *(f"SPM|1|{slides[0]}", f"ORC|NW|{placers[0]}", f"OBR|1|{placers[0]}||{PIPELINE}"),
        *(f"SPM|2|{slides[1]}", f"ORC|NW|{placers[1]}", f"OBR|1|{placers[1]}||{PIPELINE}"),
    ]
    reply = house.ask(message(msh("OML^O33^OML_O33"), pid(), *by_specimen))
    assert (reply.code, reply.all("MSH")[0][8], len(reply.all("ORC"))) == ("AA", "ORL^O34^ORL_O34", 2)
    assert house.lis.result(placers[1]).all("SPM")[0][2] == slides[1]

    two = [f"ORC|NW|{placers[2]}", f"OBR|1|{placers[2]}||{PIPELINE}", f"SPM|1|{slides[0]}", f"SPM|2|{slides[1]}"]
    assert len(house.ask(message(msh(), pid(), *two)).all("ORC")) == 2
    wait(lambda: len(house.lis.results(placers[2])) == 2)
    assert {result.all("SPM")[0][2] for result in house.lis.results(placers[2])} == set(slides)

    reply = house.ask(message(msh("ORM^O01", version="2.3"), pid(), *order(placers[3])))
    assert (reply.code, reply.all("MSH")[0][8]) == ("AA", "ORR^O02^ORR_O02")
    assert house.lis.result(placers[3]).code_of_order() == "CM"


def test_a_batch_is_answered_message_by_message(house: House) -> None:
    placers = [number(), number()]
    good = [line for placer in placers for line in (msh(), pid(), *order(placer))]
    wrong = [msh(), pid(), *order(number(), slide="nowhere.svs")]
    for frame in (["BHS|^~\\&|HIS", "BTS"], ["FHS|^~\\&|HIS", "BHS|^~\\&|HIS", "BTS|3", "FTS|1"]):
        end = frame.index(next(name for name in frame if name.startswith("BTS")))
        reply = house.ask(message(*frame[:end], *good, *wrong, *frame[end:]))
        assert [line[1] for line in reply.all("MSA")] == ["AA", "AA", "AE"]
        assert reply.lines[0][0] == "BHS"
        assert reply.lines[-1] == ("BTS", "3")
    for placer in placers:
        house.lis.result(placer)


def test_latin_1_is_read_and_answered_in_latin_1(house: House) -> None:
    placer = number()
    with Mllp(house.port) as mllp:
        mllp.send(new_order(placer, charset="8859/1").encode("latin-1"))
        mllp.socket.settimeout(30)
        raw = b""
        while not raw.endswith(b"\x1c\r"):
            raw += mllp.socket.recv(4096)
    assert PATIENT.encode("latin-1") in raw
    assert PATIENT in house.lis.result(placer).all("PID")[0][5]


def test_enhanced_mode_accepts_first_and_responds_later(house: House) -> None:
    """CA at once; the application response comes by the outbox; MSH-15 and MSH-16 say what is wanted."""
    control = number()
    assert house.ask(new_order(control=control, accept="AL", application="AL")).code == "CA"
    wait(lambda: any(f"MSA|AA|{control}" in text for text in list(house.lis.receiver.messages)))
    placer = number()
    with Mllp(house.port) as mllp:
        mllp.send(new_order(placer, accept="NE", application="NE"))
        assert mllp.ask(message(msh("ADT^A01", accept="AL"))).code == "CE"
    house.lis.result(placer)
    control = number()
    wrong = message(
        msh(control=control, accept="SU", application="ER"), pid(), *order(number(), slide="nowhere.svs")
    )
    with Mllp(house.port) as mllp:
        mllp.send(wrong)
        assert mllp.ask(new_order(accept="AL", application="NE")).code == "CA"
    wait(lambda: any(f"MSA|AE|{control}" in text for text in list(house.lis.receiver.messages)))


def test_a_sender_can_have_its_own_receiver_and_message(house: House) -> None:
    placer = number()
    assert house.ask(new_order(placer, sender="REGISTRY")).code == "AA"
    assert house.lis.result(placer).all("MSH")[0][8] == "OUL^R21^OUL_R21"


def test_orders_are_cancelled_changed_and_asked_about(house: House) -> None:
    """A cancelled order is answered, its job is cancelled, and it cannot be cancelled twice."""
    house.service.seconds = 600
    try:
        placer = number()
        filler = house.ask(new_order(placer)).all("ORC")[0][3]
        wait(lambda: filler in house.service.jobs)

        def status() -> str:
            return house.ask(message(msh(), f"ORC|SS|{placer}")).all("ORC")[0][5]

        assert status() == "IP"
        changed = house.ask(message(msh(), pid(), *order(placer, control="XO"))).all("ORC")[0]
        assert (changed[1], changed[3] != filler) == ("XR", True)
        wait(lambda: house.service.jobs[filler] in house.service.cancelled)
        wait(lambda: changed[3] in house.service.jobs)
        assert house.ask(message(msh("ORM^O01"), f"ORC|CA|{placer}")).all("ORC")[0][1] == "CR"
        result = house.lis.result(placer)
        assert (result.code_of_order(), result.all("OBR")[0][25]) == ("CA", "X")
        wait(lambda: house.service.jobs[changed[3]] in house.service.cancelled)
        assert status() == "CA"
        again = house.ask(message(msh(), f"ORC|CA|{placer}"))
        assert (again.code, again.errors[0][1]) == ("AE", "206")
    finally:
        house.service.seconds = 0.1


def test_an_order_of_two_specimens_is_cancelled_and_replaced(house: House) -> None:
    """By the same lines as it was ordered with: both analyses end."""
    slides = [f"{number()}.svs" for _ in range(2)]
    house.service.slides.update(slides)
    house.service.seconds = 600

    def ask(placer: str, *controls: str) -> list[tuple[str, ...]]:
        """The orders of the reply."""
        specimens = [f"SPM|{at}|{slide}" for at, slide in enumerate(slides, start=1)]
        lines = [
            line
            for control in controls
            for line in (f"ORC|{control}|{placer}", f"OBR|1|{placer}||{PIPELINE}", *specimens)
        ]
        reply = house.ask(message(msh(), pid(), *lines))
        assert (reply.code, reply.errors) == ("AA", [])
        return reply.all("ORC")

    def jobs(orders: Sequence[tuple[str, ...]]) -> set[str | None]:
        return {house.service.jobs.get(order[3]) for order in orders}

    try:
        placer = number()
        first = ask(placer, "NW")
        wait(lambda: None not in jobs(first))
        replaced = ask(placer, "RP", "RO")
        assert [order[1] for order in replaced] == ["RQ", "RQ", "OK", "OK"]
        wait(lambda: jobs(first) <= house.service.cancelled)
        wait(lambda: None not in jobs(replaced[2:]))
        assert [order[1] for order in ask(placer, "CA")] == ["CR", "CR"]
        wait(lambda: jobs(replaced[2:]) <= house.service.cancelled)
        wait(lambda: [one.code_of_order() for one in house.lis.results(placer)].count("CA") >= 2)
    finally:
        house.service.seconds = 0.1


def test_failed_jobs_are_answered(house: House) -> None:
    slide, placer = f"{number()}.svs", number()
    house.service.slides.add(slide)
    house.service.ends[slide] = "failed"
    house.ask(message(msh(), pid(), *order(placer, slide=slide)))
    result = house.lis.result(placer)
    assert (result.code_of_order(), result.all("OBR")[0][25]) == ("ER", "X")
    assert "2 tiles failed twice." in result.all("NTE")[1][3]
    (observation,) = result.all("OBX")
    assert (observation[5], observation[11]) == (result.all("NTE")[1][3], "X")


def test_too_large_too_slow_and_truncated_frames_are_answered(house: House) -> None:
    """AE with the control id, then the connection is closed; after a truncated frame the next one is read."""
    with Mllp(house.port) as mllp:
        mllp.send(new_order(control="LARGE").encode() + b"NTE|1||" + b"x" * 10 * 2**20)
        reply = Reply.read(mllp.reply())
        assert (reply.code, reply.all("MSA")[0][2]) == ("AE", "LARGE")
        assert mllp.reply() == ""
    with Mllp(house.port) as mllp:
        mllp.socket.sendall(b"\x0b" + new_order(control="SLOW").encode()[:-20])
        reply = Reply.read(mllp.reply())
        assert (reply.code, reply.all("MSA")[0][2]) == ("AE", "SLOW")
    with Mllp(house.port) as mllp:
        mllp.socket.sendall(b"\x0b" + new_order(control="CUT").encode()[:-20])
        placer = number()
        assert mllp.ask(new_order(placer)).all("MSA")[0][1:] == ("AE", "CUT")
        assert Reply.read(mllp.reply()).code == "AA"
    house.lis.result(placer)


def test_bytes_outside_of_frames_are_skipped_and_counted(house: House) -> None:
    with Mllp(house.port) as mllp:
        mllp.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert mllp.ask(message(msh("ADT^A01"))).code == "AE"
    assert '"bytes outside of frames", "bytes": 14}' in house.bridge.log.read_text()


def test_many_connections_and_half_open_ones(house: House) -> None:
    """50 connections at a time, some of which send nothing or half a message, do not hold up the others."""
    silent = [socket.create_connection(("127.0.0.1", house.port)) for _ in range(5)]
    for half in silent[:3]:
        half.sendall(b"\x0bMSH|")
    replies: list[str] = []

    def one() -> None:
        replies.append(house.ask(message(msh(), f"ORC|SS|{number()}")).code)

    threads = [threading.Thread(target=one) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for left in silent:
        left.close()
    assert replies == ["AE"] * 50


def test_messages_are_listed_shown_and_sent_again(
    house: House, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    placer = number()
    filler = house.ask(new_order(placer)).all("ORC")[0][3]
    house.lis.result(placer)
    delivered = ["lis", "messages", "--config", house.config, "--state", "delivered"]
    wait(lambda: main(delivered) == 0 and capsys.readouterr().out.count("delivered") > 0)
    assert main(["lis", "messages", "--config", house.config, "--limit", "1"]) == 0
    line = capsys.readouterr().out
    assert "OML^O21  accepted" in line
    assert main(["lis", "show", filler, "--config", house.config]) == 0
    shown = capsys.readouterr().out
    assert f"ORC|NW|{placer}" in shown
    assert "ORU^R01" in shown
    assert line.split()[0] in shown
    assert main(["lis", "resend", filler, "--config", house.config]) == 0
    assert capsys.readouterr().out == "1 queued\n"
    wait(lambda: len(house.lis.results(placer)) == 2)
    assert house.lis.tally.doubled == [] or placer not in house.lis.tally.doubled
    assert main(["lis", "resend", "nothing", "--config", house.config]) == 2
    file = tmp_path / "order.hl7"
    file.write_text(new_order(placer).replace("\r", "\n"), encoding="utf-8")
    assert main(["lis", "send", str(file), "--port", str(house.port)]) == 0
    assert "MSA|AE|" in capsys.readouterr().out


def test_nothing_of_a_patient_is_logged(house: House) -> None:
    """After all kinds of messages, the log has ids of the bridge only."""
    house.ask(new_order())
    log = house.bridge.log.read_text()
    assert '"accepted": true' in log
    for secret in (PATIENT.split("^")[0], "Gudrun", PATIENT_ID, "Secret", SLIDE, "N0000", "HOSTILE", "Traceback"):
        assert secret not in log
    assert "a message failed" not in log


def test_service_and_lis_may_be_away(tmp_path: Path) -> None:
    """Orders are accepted meanwhile; results arrive in their order; rejected ones are dead until sent again."""
    with housed(tmp_path, listen=False) as house:
        house.service.away = True
        placers = [number() for _ in range(3)]
        assert [house.ask(new_order(placer)).code for placer in placers] == ["AA"] * 3
        house.service.away = False
        wait(lambda: len(house.service.jobs) == 3)
        wait(lambda: len(_outbox(house)) == 3)
        house.lis.receiver.code = "AR"
        house.lis.start()
        wait(lambda: any(attempts >= 2 for _, _, attempts in _outbox(house)))
        house.lis.receiver.code = "AE"
        wait(lambda: {state for _, state, _ in _outbox(house)} == {"dead"})
        house.lis.receiver.code = "AA"
        for control, _, _ in _outbox(house):
            assert main(["lis", "resend", control, "--config", house.config]) == 0
        wait(lambda: len(house.lis.receiver.messages) == 3)
        received = [Reply.read(text).all("MSH")[0][9] for text in house.lis.receiver.messages]
        assert received == [control for control, _, _ in _outbox(house)]


def _outbox(house: House) -> list[tuple[str, str, int]]:
    """Control id, state and attempts of all answers, in their order."""
    connection = sqlite3.connect(house.folder / "lis.sqlite", timeout=30)
    try:
        wanted = "SELECT control_id, state, attempts FROM slidecascade_lis_outbox ORDER BY position"
        return connection.execute(wanted).fetchall()
    finally:
        connection.close()


def test_greater_priority_is_submitted_first(tmp_path: Path) -> None:
    """Orders that wait for a free job are submitted by priority, then by age."""
    rules = {
        "slide": {"take": ["OBR-13"]},
        "pipeline": {"take": ["OBR-4"]},
        "priority": {"take": ["TQ1-9"], "table": {"S": "100", "R": "0"}},
    }
    with housed(tmp_path, orders=rules, max_jobs=1) as house:
        slides = ["running.svs", "routine.svs", "later.svs", "urgent.svs"]
        house.service.slides.update(slides)
        house.service.seconds = 600
        for slide, priority in zip(slides, "RRRS", strict=True):
            house.ask(message(msh(), pid(), *order(number(), slide=slide), f"TQ1|||||||||{priority}"))
            wait(lambda: house.service.order == ["running.svs"])
        house.service.seconds = 0.1
        wait(lambda: len(house.service.order) == 4)
        assert house.service.order == ["running.svs", "urgent.svs", "routine.svs", "later.svs"]


def test_a_result_can_have_a_picture(tmp_path: Path) -> None:
    """As encapsulated PNG in base64 where it is configured; a job without the file has a result without it."""
    picture = io.BytesIO()
    Image.new("RGB", (1200, 600), (200, 30, 90)).save(picture, "PNG")
    with housed(tmp_path, results={"picture": {"max_side_px": 256}}) as house:
        without, placer = number(), number()
        house.ask(new_order(without))
        assert not [line for line in house.lis.result(without).all("OBX") if line[2] == "ED"]
        house.service.overlay = picture.getvalue()
        house.ask(new_order(placer))
        (seen,) = (line for line in house.lis.result(placer).all("OBX") if line[2] == "ED")
        assert (seen[3], seen[11]) == ("picture^Overview^99SLIDECASCADE", "P")
        *kind, content = seen[5].split("^")
        assert kind == ["SlideCascade", "IM", "png", "Base64"]
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as image:
            assert (image.format, image.size) == ("PNG", (256, 128))


@pytest.mark.parametrize(("hours", "status"), [(1.0, "CM"), (1e-9, "ER")])
def test_an_order_can_wait_for_its_slide(tmp_path: Path, hours: float, status: str) -> None:
    """It is accepted, and done when the slide is there; after the time configured it has failed."""
    rules: dict[str, object] = {"slide": {"take": ["OBR-13"]}, "pipeline": {"take": ["OBR-4"]}}
    rules |= {"unknown_slide": "wait", "wait_for_slide_hours": hours, "slide_retry_s": 0.1}
    with housed(tmp_path, orders=rules) as house:
        placer = number()
        assert house.ask(message(msh(), pid(), *order(placer, slide="later.svs"))).code == "AA"
        if status == "CM":
            wait(lambda: house.service.refused >= 2)
            house.service.slides.add("later.svs")
        assert house.lis.result(placer).code_of_order() == status


def test_mutual_tls(tmp_path: Path) -> None:
    """Clients without a certificate of the CA are refused; plain text is not understood."""
    write_certificates(tmp_path)
    tls = {name: str(tmp_path / file) for name, file in
           {"certificate": "server.pem", "key": "server.key", "client_ca": "ca.pem"}.items()}  # fmt: skip
    with housed(tmp_path, where={"host": "0.0.0.0", "tls": tls}) as house:  # noqa: S104
        port = house.port
        known = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        known.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
        placer = number()
        with Mllp(port, tls=known) as mllp:
            assert mllp.ask(new_order(placer)).code == "AA"
        house.lis.result(placer)
        stranger = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        with pytest.raises((ssl.SSLError, ConnectionError)):
            _refused(port, stranger)
        with suppress(ConnectionError), Mllp(port) as mllp:
            mllp.send(new_order())
            assert mllp.socket.recv(1) != b"\x0b"


def _refused(port: int, tls: ssl.SSLContext) -> None:
    """TLS 1.3 reports a missing certificate with the first read; a closed connection is a refusal too."""
    with Mllp(port, tls=tls) as mllp:
        mllp.send(new_order())
        if mllp.reply() == "":
            raise ConnectionResetError


def test_a_full_disk_is_answered_with_ar(tmp_path: Path) -> None:
    """The sender may retry; what was acknowledged is there after a restart with room."""
    limit = 700_000
    with housed(tmp_path) as house:
        house.bridge.stop()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            house.bridge = Bridge.start(house.bridge.config, house.port)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        asyncio.run(house.bridge.listens())
        acknowledged: list[str] = []
        note = "NTE|1||" + "x" * 100_000
        for _ in range(20):
            placer = number()
            last = new_order(placer) + message(note)
            if (code := house.ask(last).code) != "AA":
                break
            acknowledged.append(placer)
        assert code == "AR"
        assert acknowledged
        house.bridge.stop()
        house.restart()
        assert house.ask(last).code == "AA"
        for stored in [*acknowledged, placer]:
            house.lis.result(stored)


def test_nothing_is_lost_or_done_twice_when_the_bridge_is_killed(tmp_path: Path) -> None:
    """kill -9 at random moments while orders arrive: each is acknowledged, has one job and one result."""
    orders = int(os.environ.get("LIS_ORDERS", "40"))
    plan = OrderPlan(SLIDE, PIPELINE, orders, rate_hz=20.0, connections=4)
    with standing_in(seconds=0.3) as service:
        service.delay_s = 0.5
        tally = asyncio.run(measure(tmp_path, service.url, plan, port=free_port(), kills=3, wait_s=LIMIT_S))
    assert (len(tally.acknowledged), tally.rejected) == (orders, {})
    assert (tally.lost, tally.doubled) == ([], [])
    assert len(service.jobs) == orders


def test_postgres_keeps_what_was_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After kill -9 a repeated message has its first reply, and its order one job and one result."""
    with postgres() as url, housed(tmp_path, store={"database": url}) as house:
        placer = number()
        content = new_order(placer)
        with Mllp(house.port) as mllp:
            mllp.send(content)
            first = mllp.reply()
        house.bridge.kill()
        house.restart()
        with Mllp(house.port) as mllp:
            mllp.send(content)
            assert mllp.reply() == first
        house.lis.result(placer)
        assert len(house.service.jobs) == 1
        assert main(["lis", "messages", "--config", house.config]) == 0
        assert capsys.readouterr().out.count("accepted") == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"listen": {"host": "0.0.0.0"}}, "listen"),  # noqa: S104
        ({"orders": {"slide": {"take": ["OBR13"]}, "pipeline": {"default": "nash"}}}, "orders.slide.take"),
        (
            {"orders": {"slide": {"take": ["OBR-13"], "pattern": "("}, "pipeline": {"default": "nash"}}},
            "orders.slide.pattern",
        ),
        ({"receivers": {}}, "receiver"),
        ({"extra": 1}, "extra"),
        ({"listen": {"tls": {"certificate": "nowhere.pem", "key": "nowhere.key"}}}, "listen.tls"),
    ],
)
def test_a_wrong_configuration_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], named: str
) -> None:
    config = write_config(tmp_path, service_url="http://127.0.0.1:1", port=free_port(), result_port=1, **change)
    assert main(["lis", "serve", "--config", str(config)]) == 2
    assert named in capsys.readouterr().err
