"""A DICOMweb server (DICOM PS3.18) as a client sees it: requests with retries, and multipart answers.

Addresses come from the operator's settings or command line, never from a request.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from slidecascade.errors import NotReadyError, UnreadableSlideError
from slidecascade_client.retry import RETRIED_STATUSES, RetryPolicy, read_retry_after_s

JSON: Final = "application/dicom+json"
AS_STORED: Final = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
RETRY_AFTER_S: Final = 5
"""Suggested to clients while the server is away."""

_BOUNDARY: Final = re.compile(r'boundary="?([^";,]+)"?')
_QUICK: Final = RetryPolicy(max_tries=4, max_elapsed_s=10.0, base_delay_s=0.25, max_delay_s=2.0)


@dataclass(frozen=True, slots=True)
class DicomWeb:
    """A server.

    Attributes:
        name: as error messages call it.
        url: of its DICOMweb root, without a slash at the end.
        token: makes the bearer token of each request; None: none is sent.
        policy: when a request is repeated.
        sleep: waits so many seconds.
    """

    name: str
    url: str
    token: Callable[[], str | None] = lambda: None
    policy: RetryPolicy = _QUICK
    sleep: Callable[[float], None] = time.sleep
    _client: httpx.Client = field(
        default_factory=lambda: httpx.Client(timeout=httpx.Timeout(60.0, connect=5.0), follow_redirects=False)
    )

    def get(self, path: str, *, accept: str) -> httpx.Response:
        """The answer of ``GET url/path``, of any status that repeating does not change.

        Raises:
            NotReadyError: the server is away or overloaded.
            UnreadableSlideError: it rejects the token.
        """
        return self.send("GET", path, {"Accept": accept}, lambda: None)

    def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Callable[[], Iterable[bytes] | None],
    ) -> httpx.Response:
        """Send a request that may be repeated; `body` makes its content for each try. Raises as `get` does."""
        began, tries = self.policy.clock(), 0
        while True:
            tries += 1
            reason, retry_after_s = "", None
            try:
                response = self._client.request(
                    method, f"{self.url}/{path}", headers={**headers, **self._authorization()}, content=body()
                )
            except httpx.TransportError as error:
                reason = str(error) or type(error).__name__
            else:
                if response.status_code not in RETRIED_STATUSES:
                    return self._admitted(response)
                reason = f"status {response.status_code}"
                retry_after_s = read_retry_after_s(response.headers)
            wait_s = self.policy.delay_s(tries=tries, retry_after_s=retry_after_s)
            elapsed_s = self.policy.clock() - began
            if tries >= self.policy.max_tries or elapsed_s + wait_s > self.policy.max_elapsed_s:
                raise NotReadyError(
                    f"The DICOMweb server {self.name} cannot be used now ({reason}): try again later.",
                    retry_after_s=RETRY_AFTER_S,
                )
            self.sleep(wait_s)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def _authorization(self) -> dict[str, str]:
        token = self.token()
        return {} if token is None else {"Authorization": f"Bearer {token}"}

    def _admitted(self, response: httpx.Response) -> httpx.Response:
        if response.status_code in (401, 403):
            raise UnreadableSlideError(
                f"The DICOMweb server {self.name} rejects the service's token (status {response.status_code}): "
                "ask the operator to check it."
            )
        return response


def token_of(path: Path | None) -> str | None:
    """The token in a file, which is read again each time because tokens are renewed; None without a file.

    Raises:
        NotReadyError: the file cannot be read.
    """
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NotReadyError(
            f"The token file {path} of a DICOMweb server cannot be read: check its path and permissions.",
            retry_after_s=RETRY_AFTER_S,
        ) from error


def parts(response: httpx.Response) -> list[bytes]:
    """The bodies of a multipart answer (RFC 2046), in its order.

    Raises:
        ValueError: it is not multipart.
    """
    found = _BOUNDARY.search(response.headers.get("content-type", ""))
    if found is None:
        raise ValueError("The answer is not multipart.")
    return list(_bodies(response.content, b"--" + found[1].strip().encode()))


def _bodies(content: bytes, delimiter: bytes) -> Iterator[bytes]:
    """What lies between delimiters at the beginnings of lines, without headers."""
    content = b"\r\n" + content
    pieces = content.split(b"\r\n" + delimiter)
    for piece in pieces[1:]:
        if piece.startswith(b"--"):
            return
        _, separator, body = piece.partition(b"\r\n\r\n")
        if not separator:
            raise ValueError("A part of the answer has no body.")
        yield body
