"""Commands in a network namespace of their own, and what they asked of a network that is not there.

The namespace has the loopback interface only, through which every address is routed, and a resolver that answers
every name with an address of the documentation range. So a program that would leave the host gets as far as its
first packet, and both the name and the packet are recorded. Run as a script inside the namespace by `run`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ANSWER = "192.0.2.1"
"""What every name resolves to: TEST-NET-1 of RFC 5737."""

_UNSHARE = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--fork", "--kill-child")
_ETH_P_ALL = 3
_ETHERNET_BYTES = 14
_HEADER_BYTES = 12
_MARK = "127.0.0.2"
"""A packet for this address marks the end of what a command sent."""
_TYPE_A = 1


@dataclass(frozen=True, slots=True)
class Seen:
    """What a command did.

    Attributes:
        code: its exit code.
        output: stdout and stderr.
        names: what was asked of the resolver, sorted.
        destinations: addresses other than loopback that packets were sent to, sorted.
    """

    code: int
    output: str
    names: tuple[str, ...]
    destinations: tuple[str, ...]


def require() -> None:
    """Skip the test where namespaces are not permitted."""
    if sys.platform != "linux" or not all(map(shutil.which, ("unshare", "ip", "mount"))):
        pytest.skip("network namespaces need Linux with util-linux and iproute2")
    tried = subprocess.run([*_UNSHARE, "ip", "link", "set", "lo", "up"], capture_output=True, check=False)
    if tried.returncode != 0:
        pytest.skip("network namespaces are not permitted here")


def run(
    command: Sequence[str],
    *,
    variables: Mapping[str, str],
    folder: Path,
    seconds: float,
    until_asked: bool = False,
) -> Seen:
    """Run `command` in a namespace with `variables` as its whole environment and `folder` as working directory.

    Args:
        seconds: when it is killed.
        until_asked: end it when it has asked for a name.
    """
    with tempfile.TemporaryDirectory() as made:
        report = Path(made) / "seen.json"
        sealed = [*_UNSHARE, sys.executable, __file__, str(report), str(until_asked), *command]
        ended = subprocess.run(
            sealed,
            env=dict(variables),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert report.exists(), ended.stdout
        seen = json.loads(report.read_text())
    return Seen(ended.returncode, ended.stdout, tuple(seen["names"]), tuple(seen["destinations"]))


class _Record:
    """Names and addresses, collected by two threads."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.names: set[str] = set()
        self.destinations: set[str] = set()
        self.marked = threading.Event()

    def resolve(self, listener: socket.socket) -> None:
        """Answer questions until the process ends."""
        while True:
            question, asker = listener.recvfrom(4096)
            name, answer = _answered(question)
            self.names.add(name)
            self.asked.set()
            listener.sendto(answer, asker)

    def end_when_asked(self, process: subprocess.Popen[bytes]) -> None:
        self.asked.wait()
        process.terminate()

    def watch(self, tap: socket.socket) -> None:
        """Note the destination of every packet until the process ends."""
        while True:
            address = _destination(tap.recv(65536))
            if address == _MARK:
                self.marked.set()
            elif address and not ipaddress.ip_address(address).is_loopback:
                self.destinations.add(address)

    def catch_up(self) -> None:
        """Wait until every packet that was sent before this call has been looked at."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as marker:
            marker.sendto(b"", (_MARK, 9))
        if not self.marked.wait(30):
            raise TimeoutError("the packets sent in the namespace were not all read within 30 s")


def _answered(question: bytes) -> tuple[str, bytes]:
    """The name asked for, and the answer: `ANSWER` for an IPv4 address, nothing for other kinds."""
    at, labels = _HEADER_BYTES, []
    while length := question[at]:
        labels.append(question[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += 1 + length
    (kind,) = struct.unpack_from("!H", question, at + 1)
    records = b""
    if kind == _TYPE_A:  # a pointer to the name in the question, and one minute to live
        records = struct.pack("!HHHIH", 0xC000 | _HEADER_BYTES, _TYPE_A, 1, 60, 4) + socket.inet_aton(ANSWER)
    header = question[:2] + struct.pack("!HHHHH", 0x8180, 1, 1 if records else 0, 0, 0)
    return ".".join(labels), header + question[_HEADER_BYTES : at + 5] + records


def _destination(frame: bytes) -> str | None:
    """The address that an Ethernet frame's IP packet is for; None for other frames."""
    kind, packet = frame[12:14], frame[_ETHERNET_BYTES:]
    if kind == b"\x08\x00":
        return socket.inet_ntop(socket.AF_INET, packet[16:20])
    if kind == b"\x86\xdd":
        return socket.inet_ntop(socket.AF_INET6, packet[24:40])
    return None


def _prepare(folder: Path) -> None:
    """Loopback, routes through it, and the system's resolver pointed at it; in the namespace only."""
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:5 attempts:3\n")
    (folder / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    for name in ("resolv.conf", "nsswitch.conf"):
        if (real := Path("/etc") / name).exists():
            subprocess.run(["mount", "--bind", str(folder / name), str(real.resolve())], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "route", "add", "local", "0.0.0.0/0", "dev", "lo"], check=True)
    # Where the kernel has no IPv6 there is nothing to route.
    subprocess.run(["ip", "-6", "route", "add", "local", "::/0", "dev", "lo"], capture_output=True, check=False)


def main(arguments: Sequence[str]) -> int:
    """Run a command inside the namespace that this process is in; write what was seen, return its exit code."""
    report, until_asked, *command = arguments
    record = _Record()
    with tempfile.TemporaryDirectory() as made, contextlib.ExitStack() as opened:
        _prepare(Path(made))
        listener = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        listener.bind(("127.0.0.1", 53))
        tap = opened.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)))
        tap.bind(("lo", 0))
        threading.Thread(target=record.resolve, args=[listener], daemon=True).start()
        threading.Thread(target=record.watch, args=[tap], daemon=True).start()
        process = subprocess.Popen(command)
        if until_asked == "True":
            threading.Thread(target=record.end_when_asked, args=[process], daemon=True).start()
        code = process.wait()
        record.catch_up()
        seen = {"names": sorted(record.names), "destinations": sorted(record.destinations)}
        Path(report).write_text(json.dumps(seen))
        sys.stdout.flush()
        os._exit(code & 0xFF)  # the two threads never end


if __name__ == "__main__":
    main(sys.argv[1:])
