"""What a request must be before anything else is looked at: framed without doubt, and meant for this server."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Scope

from slidecascade.errors import MalformedRequestError, MisdirectedRequestError
from slidecascade.hosts import host_name

ALWAYS_OPEN: Final = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
"""Paths that are answered while the process drains."""


def require_clear_framing(scope: Scope) -> None:
    """Raises MalformedRequestError when where the body ends is in doubt (RFC 9112, section 6.1).

    A proxy in front may have decided otherwise, and taken a part of the body for the next request: after the
    answer the connection must be closed.
    """
    headers = Headers(scope=scope)
    if "transfer-encoding" not in headers:
        return
    if "content-length" in headers:
        raise MalformedRequestError("The request has both Content-Length and Transfer-Encoding: send one of them.")
    if scope.get("http_version") == "1.0":
        raise MalformedRequestError("HTTP/1.0 has no Transfer-Encoding: send Content-Length, or HTTP/1.1.")


def require_host(scope: Scope, allowed: Collection[str]) -> None:
    """Raises MisdirectedRequestError when the request is for none of the `allowed` hosts; none: any will do.

    A request without Host passes: no browser sends one.
    """
    host = Headers(scope=scope).get("host")
    if allowed and host is not None and host_name(host) not in allowed:
        raise MisdirectedRequestError(
            "This server does not answer for that host: use one of its names, or have its operator add this one "
            "to SLIDECASCADE_ALLOWED_HOSTS."
        )
