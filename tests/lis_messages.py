"""Order messages and a client that speaks MLLP with plain sockets, independent of the bridge's code."""

from __future__ import annotations

import itertools
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from benchmarks.lis.standin import PIPELINE, SLIDE

PATIENT = "Müllersdottir^Gudrun"
PATIENT_ID = "PAT-4711"
LIMIT_S = 60.0
_numbers = itertools.count(1)


def wait(condition: Callable[[], bool], *, seconds: float = LIMIT_S) -> None:
    """Look until a condition holds."""
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at, f"not within {seconds} s"
        time.sleep(0.02)


def number() -> str:
    """A new control id or order number."""
    return f"N{next(_numbers):06d}"


def msh(
    kind: str = "OML^O21^OML_O21",
    *,
    control: str | None = None,
    charset: str = "UNICODE UTF-8",
    accept: str = "",
    application: str = "",
    processing: str = "P",
    version: str = "2.5.1",
    sender: str = "HIS",
) -> str:
    control = number() if control is None else control
    return (
        f"MSH|^~\\&|{sender}|WARD|SLIDECASCADE||20261126190000||{kind}|{control}|{processing}|{version}"
        f"|||{accept}|{application}||{charset}"
    )


def pid() -> str:
    return f"PID|1||{PATIENT_ID}^^^HOSPITAL^MR||{PATIENT}||19430101|F|||Secret Street 5"


def order(placer: str, *, control: str = "NW", slide: str = SLIDE, pipeline: str = PIPELINE) -> list[str]:
    return [f"ORC|{control}|{placer}|||||||20261126", f"OBR|1|{placer}||{pipeline}^Analysis^L|||||||||{slide}"]


def message(*lines: str) -> str:
    return "".join(f"{line}\r" for line in lines)


def new_order(placer: str | None = None, **header: str) -> str:
    return message(msh(**header), pid(), *order(placer or number()))


@dataclass(frozen=True)
class Reply:
    """The segments of a reply, by fields."""

    lines: tuple[tuple[str, ...], ...]

    @classmethod
    def read(cls, text: str) -> Reply:
        return cls(tuple(tuple(line.split("|")) for line in text.split("\r") if line))

    def all(self, name: str) -> list[tuple[str, ...]]:
        return [line for line in self.lines if line[0] == name]

    @property
    def code(self) -> str:
        return self.all("MSA")[0][1]

    def code_of_order(self) -> str:
        """ORC-5: CM, CA or ER."""
        return self.all("ORC")[0][5]

    @property
    def errors(self) -> list[tuple[str, str, str]]:
        """Place, code and text of each ERR."""
        return [(line[2], line[3].split("^")[0], line[8]) for line in self.all("ERR")]


class Mllp:
    """A connection to the bridge; closed by ``with``."""

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket = tls.wrap_socket(plain, server_hostname="localhost") if tls else plain
        self._received = b""

    def send(self, content: str | bytes) -> None:
        self.socket.sendall(b"\x0b" + (content.encode() if isinstance(content, str) else content) + b"\x1c\r")

    def reply(self) -> str:
        """The next frame; an empty text when the connection was closed."""
        while b"\x1c\r" not in self._received:
            chunk = self.socket.recv(65536)
            if not chunk:
                return ""
            self._received += chunk
        frame, self._received = self._received.split(b"\x1c\r", 1)
        assert frame[:1] == b"\x0b"
        return frame[1:].decode()

    def ask(self, content: str | bytes) -> Reply:
        self.send(content)
        return Reply.read(self.reply())

    def __enter__(self) -> Mllp:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()


def hostile() -> list[tuple[str, bytes, Sequence[str]]]:
    """Name, frame content and the codes that may answer it."""
    good = new_order("HOSTILE", control="HOSTILE")
    cases: list[tuple[str, bytes, Sequence[str]]] = []
    head = good.index("\r")
    obr = good.index("OBR") + len("OBR|1|HOSTILE||nash")
    cut = [*range(0, head - 20, 2), *range(head + 1, obr, 5)]
    cases += [(f"cut after {at} bytes", good[:at].encode(), ("AE",)) for at in cut]
    for mark in "|^~&\\":
        for other in ("", "A", " ", "\t", "é", "1"):
            cases.append((f"{mark!r} is {other!r}", good.replace(mark, other).encode(), ("AE",)))
    for charset in (
        "UNICODE UTF-16",
        "ISO IR87",
        "8859/2",
        "8859/15",
        "GB 18030-2000",
        "BIG-5",
        "KS X 1001",
        "x" * 300,
    ):
        cases.append((f"charset {charset[:20]}", new_order(control="C", charset=charset).encode(), ("AE",)))
    cases.append(("Latin-1 that says UTF-8", new_order(control="C").encode("latin-1"), ("AE",)))
    cases.append(("ASCII with umlauts", new_order(control="C", charset="ASCII").encode(), ("AE",)))
    for kind in (
        "",
        "OML",
        "OML^",
        "ADT^A01",
        "ORU^R01",
        "oml^o21",
        "OML^O211",
        "OML" * 50,
        "ACK",
        "^",
        "OML&O21",
        "QRY^Q01",
    ):
        cases.append((f"type {kind[:20]}", message(msh(kind, control="T"), *order("T")).encode(), ("AE",)))
    for version in ("", "2", "2.0", "3.0", "2.5.1.7", "x", "2.5;DROP TABLE"):
        cases.append((f"version {version}", new_order(control="V", version=version).encode(), ("AE",)))
    for processing in ("", "X", "PP", "p"):
        cases.append((f"processing {processing}", new_order(control="P", processing=processing).encode(), ("AE",)))
    for name, lines in {
        "no control id": [msh(control=""), *order("L")],
        "long control id": [msh(control="c" * 200), *order("L")],
        "no order": [msh(), pid()],
        "only a header": [msh()],
        "no OBR": [msh(), order("L")[0]],
        "no ORC": [msh(), order("L")[1]],
        "no number": [msh(), "ORC|NW", f"OBR|1|||{PIPELINE}|||||||||{SLIDE}"],
        "long number": [msh(), *order("n" * 201)],
        "no slide": [msh(), *order("L", slide="")],
        "null slide": [msh(), *order("L", slide='""')],
        "long slide": [msh(), *order("L", slide="s" * 5000)],
        "unknown slide": [msh(), *order("L", slide="nowhere.svs")],
        "a file of the machine": [msh(), *order("L", slide="/etc/passwd")],
        "a path upwards": [msh(), *order("L", slide="../../secret.svs")],
        "a URL": [msh(), *order("L", slide="http://127.0.0.1/x")],
        "escaped slide": [msh(), *order("L", slide="\\X00\\\\X0A\\")],
        "open escape": [msh(), *order("L", slide="\\F")],
        "unknown pipeline": [msh(), *order("L", pipeline="nope")],
        "no pipeline": [msh(), *order("L", pipeline="")],
        "odd pipeline": [msh(), *order("L", pipeline="a/../b?c#d")],
        "unknown control code": [msh(), *order("L", control="ZZ")],
        "no control code": [msh(), *order("L", control="")],
        "cancel of nothing": [msh(), *order("NOTHING", control="CA")],
        "change of nothing": [msh(), *order("NOTHING", control="XO")],
        "status of nothing": [msh(), *order("NOTHING", control="SS")],
        "two messages": [msh(), *order("L"), msh(), *order("M")],
        "one order of two is wrong": [msh(), *order("L"), *order("M", slide="nowhere.svs")],
        "the same number twice": [msh(), *order("L"), *order("L", control="CA")],
        "lower case segment": [msh(), "pid|1", *order("L")],
        "segment name of two letters": [msh(), "ZZ|1", *order("L")],
        "text": [msh(), "Something unexpected...", *order("L")],
        "NUL": [msh(), "\0", *order("L")],
        "501 orders": [msh(), *(line for at in range(501) for line in order(f"M{at}"))],
        "30,000 segments": [msh(), *(["NTE|1"] * 30_000)],
        "200,000 fields": [msh() + "|" * 200_000],
        "nested components": [msh(), *order("L", slide="^" * 100_000)],
        "batch in a message": [msh(), "BHS|^~\\&|A", *order("L")],
    }.items():
        cases.append((name, message(*lines).encode(), ("AE",)))
    batch, one = "BHS|^~\\&|HIS", [msh(control="B"), *order("B", slide="nowhere.svs")]
    for name, lines in {
        "batch without end": [batch, *one],
        "batch with wrong count": [batch, *one, "BTS|2"],
        "nested batches": [batch, batch, *one, "BTS|1", "BTS|1"],
        "file in a batch": [batch, "FHS|^~\\&|HIS", *one, "FTS|1", "BTS|1"],
        "file without end": ["FHS|^~\\&|HIS", batch, *one, "BTS|1"],
        "end before the messages": [batch, "BTS|1", *one],
        "batch without delimiters": ["BHS", *one, "BTS|1"],
        "batch that starts with PID": [batch, pid(), *one, "BTS|1"],
        "two batches": [batch, *one, "BTS|1", batch, *one, "BTS|1"],
        "a batch with a wrong message": [batch, *one, "BTS|1"],
    }.items():
        cases.append((name, message(*lines).encode(), ("AE",)))
    return cases


def write_certificates(folder: Path) -> None:
    """A CA with certificates ``server`` and ``client``, valid for a day; the test is skipped without openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes certificates, is not on this machine")

    def run(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    run("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-days", "1", "-subj", "/CN=Test CA")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        run("req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "names")
        run("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
