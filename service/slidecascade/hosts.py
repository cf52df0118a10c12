"""The names this server answers for."""

from __future__ import annotations

import ipaddress
from typing import Final

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
"""What a machine calls itself."""


def host_name(host: str) -> str:
    """The name in a Host header, without port, brackets, a final dot and capitals."""
    name = host.strip().lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    return name.removesuffix(".")


def default_hosts(address: str) -> tuple[str, ...]:
    """The names to answer for when listening on `address` and nothing is set: any, or on loopback only its own.

    Any page in a browser can have its own name resolved to loopback, and would be let in by that name.
    """
    return tuple(dict.fromkeys((*LOOPBACK, host_name(address)))) if is_loopback(address) else ()


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach `address`, a name or an IP address."""
    name = host_name(address)
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
