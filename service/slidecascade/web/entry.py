"""First checks of a request: unambiguous framing and an allowed host."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Scope

from slidecascade.errors import MalformedRequestError, MisdirectedRequestError
from slidecascade.hosts import host_name

METRICS: Final = "/metrics"
ALWAYS_OPEN: Final = frozenset({"/livez", "/readyz", METRICS, "/v2/health/live", "/v2/health/ready"})
"""Paths that are answered while the process drains."""

_VERSIONS: Final = ("1.0", "1.1")
_ABSOLUTE: Final = re.compile(r"https?://([^/]*)(.*)", re.DOTALL | re.IGNORECASE)
_RANGE: Final = re.compile(rb"bytes=\s*(?:\d+-\d*|-\d+)(?:\s*,\s*(?:\d+-\d*|-\d+))*\s*", re.IGNORECASE)
_REVERSED: Final = re.compile(rb"(\d+)-(\d+)")


def as_usual(scope: Scope) -> Scope:
    """`scope` with its target in origin form, and without a Range that says nothing.

    Clients of proxies send the whole address, whose authority replaces Host (RFC 9112, section 3.2.2). Ranges in
    other units than bytes, and malformed ones, are ignored (RFC 9110, section 14.2).
    """
    headers = [(name, value) for name, value in scope["headers"] if name != b"range" or _is_range(value)]
    changed = {**scope, "headers": headers}
    found = _ABSOLUTE.fullmatch(scope["path"])
    if found is not None:
        authority, path = found.groups()
        rest = [(name, value) for name, value in headers if name != b"host"]
        raw_path = b"/" + scope["raw_path"].partition(b"://")[2].partition(b"/")[2]
        changed |= {"headers": [(b"host", authority.encode()), *rest], "path": path or "/", "raw_path": raw_path}
    return changed


def _is_range(value: bytes) -> bool:
    return bool(_RANGE.fullmatch(value)) and all(
        int(first) <= int(last) for first, last in _REVERSED.findall(value[:1000])
    )


def require_clear_framing(scope: Scope) -> None:
    """Raise MalformedRequestError when the length of the body is ambiguous (RFC 9112, section 6.1).

    A proxy may have interpreted it differently and treat a part of the body as the next request: after the
    response the connection must be closed. The same holds for a request in another version of HTTP.
    """
    if scope.get("http_version", "1.1") not in _VERSIONS:
        raise MalformedRequestError("The request is in a version of HTTP that is not spoken here: use HTTP/1.1.")
    headers = Headers(scope=scope)
    if "transfer-encoding" not in headers:
        return
    if "content-length" in headers:
        raise MalformedRequestError("The request has both Content-Length and Transfer-Encoding: send one of them.")
    if scope.get("http_version") == "1.0":
        raise MalformedRequestError(
            "HTTP/1.0 does not define Transfer-Encoding: send Content-Length, or use HTTP/1.1."
        )


def require_port(scope: Scope, metrics_port: int | None) -> None:
    """Raise HTTPException with 404 for metrics beside their port, if they have one, and for all else at it.

    Health is answered at both.
    """
    path = scope["path"]
    if metrics_port is None or path in ALWAYS_OPEN - {METRICS}:
        return
    arrived_at = (scope.get("server") or ("", None))[1]
    if (arrived_at == metrics_port) != (path == METRICS):
        raise HTTPException(404)


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
