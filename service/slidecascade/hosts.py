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
    name = host_name(address)
    try:
        is_loopback = ipaddress.ip_address(name).is_loopback
    except ValueError:
        is_loopback = name == "localhost"
    return tuple(dict.fromkeys((*LOOPBACK, name))) if is_loopback else ()
