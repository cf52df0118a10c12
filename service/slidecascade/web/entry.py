"""First checks of a request: unambiguous framing and an allowed host."""

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
    """Raise MalformedRequestError when the length of the body is ambiguous (RFC 9112, section 6.1).

    A proxy may have interpreted it differently and treat a part of the body as the next request: after the
    response the connection must be closed.
    """
    headers = Headers(scope=scope)
    if "transfer-encoding" not in headers:
        return
    if "content-length" in headers:
        raise MalformedRequestError("The request has both Content-Length and Transfer-Encoding: send one of them.")
    if scope.get("http_version") == "1.0":
        raise MalformedRequestError(
            "HTTP/1.0 does not define Transfer-Encoding: send Content-Length, or use HTTP/1.1."
        )


def require_host(scope: Scope, allowed: Collection[str]) -> None:
    """Raise MisdirectedRequestError when the request's host is not in `allowed`; empty: any host.

    A request without Host is accepted: browsers always send it.
    """
    host = Headers(scope=scope).get("host")
    if allowed and host is not None and host_name(host) not in allowed:
        raise MisdirectedRequestError(
            "This server does not serve that host: use one of its names, or ask its operator to add this one "
            "to SLIDECASCADE_ALLOWED_HOSTS."
        )
