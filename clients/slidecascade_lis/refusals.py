"""Which errors of a call are the last word on it."""

from __future__ import annotations

from slidecascade_client import (
    AccessDeniedError,
    MisdirectedRequestError,
    RequestRefusedError,
    RequestTimeoutError,
    SlideCascadeClientError,
)


def is_final(error: SlideCascadeClientError) -> bool:
    """Whether the same call is rejected again: by the service, which says so in a problem document, or by the
    client before it is sent. A 4xx of a proxy, a denied key or a wrong host name can be mended by the operator."""
    may_change = isinstance(error, AccessDeniedError | MisdirectedRequestError | RequestTimeoutError)
    said_so = error.problem is not None or error.status is None
    return isinstance(error, RequestRefusedError) and said_so and not may_change
