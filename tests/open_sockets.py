"""What a process and those it started listen on, as /proc shows it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import proc

_LISTEN: Final = "0A"
_ACCEPTS: Final = 0x10000
"""Flag of a Unix socket that listens."""


@dataclass(frozen=True)
class Listening:
    """Addresses and ports of TCP, those of UDP that are bound, and the paths of Unix sockets."""

    tcp: frozenset[tuple[str, int]]
    udp: frozenset[tuple[str, int]]
    unix: frozenset[str]


def listening(pid: int) -> Listening:
    """Of the process `pid` and all below it."""
    mine = {inode for process in _tree(pid) for inode in _sockets(process)}
    tcp = [row for name in ("tcp", "tcp6") for row in _rows(pid, name) if row[3] == _LISTEN]
    udp = [row for name in ("udp", "udp6") for row in _rows(pid, name)]
    unix = [row for row in _rows(pid, "unix") if row[6] in mine and int(row[3], 16) & _ACCEPTS]
    return Listening(
        frozenset(_address(row[1]) for row in tcp if row[9] in mine),
        frozenset(_address(row[1]) for row in udp if row[9] in mine),
        frozenset(row[7] if len(row) > 7 else "" for row in unix),
    )


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for child in proc.children(pid):
        yield from _tree(child)


def _sockets(pid: int) -> Iterator[str]:
    """Inodes of the sockets that a process has open."""
    for name in proc.open_files(pid):
        if name.startswith("socket:["):
            yield name[8:-1]


def _rows(pid: int, name: str) -> list[list[str]]:
    return [line.split() for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]]


def _address(text: str) -> tuple[str, int]:
    """Address and port of the kernel's text: words of 32 bits in the machine's order."""
    host, _, port = text.partition(":")
    words = [int(host[start : start + 8], 16) for start in range(0, len(host), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, struct.pack(f"={len(words)}I", *words)), int(port, 16)
