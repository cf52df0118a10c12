"""A server of FHIR R4 over HTTP: transactions and searches, with a bearer token from a file."""

from __future__ import annotations

import json
import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx

from slidecascade.errors import SettingsError, SlideCascadeError
from slidecascade.fhir.config import FhirServer

FHIR_JSON: Final = "application/fhir+json"
_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_MAX_WAIT_S: Final = 60.0
_MAX_PAGES: Final = 1000

_Json = dict[str, Any]


class FhirUnavailableError(SlideCascadeError):
    """The server cannot be reached or cannot take a request now: the same may succeed later.

    Attributes:
        reason: in a word, without data of the request.
        retry_after_s: how long the server asks to wait; None: it does not say.
    """

    problem, title = "fhir-unavailable", "FHIR server unavailable"

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"The FHIR server did not take the request ({reason}): check its address and try again.")
        self.reason = reason
        self.retry_after_s = retry_after_s


class FhirRejectedError(SlideCascadeError):
    """The server rejected a request: the same fails again. `reason` is its status, without data of the request."""

    problem, title = "fhir-rejected", "FHIR server rejects"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The FHIR server rejected the request ({reason}): check its token, its log and what it accepts."
        )
        self.reason = reason


class FhirDeniedError(FhirRejectedError):
    """The server does not accept the token."""

    problem, title = "fhir-denied", "FHIR server denies access"


class FhirClient:
    """Requests to one server; each is made once. Redirects are not followed: the token is for this server only."""

    def __init__(self, server: FhirServer) -> None:
        self._base = server.url.rstrip("/")
        self._token_file = server.token_file
        try:
            verify = ssl.create_default_context(cafile=server.ca) if server.ca else True
        except OSError as error:
            raise SettingsError(f"{server.ca} is not a file of certificates: check `ca`.") from error
        self._http = httpx.Client(timeout=server.timeout_s, verify=verify, follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def transact(self, bundle: bytes) -> None:
        """Store a transaction Bundle, all of it or nothing.

        Raises:
            FhirUnavailableError, FhirRejectedError, SettingsError: it is not stored, or this is not known.
        """
        answer = self._asked("POST", self._base, content=bundle)
        statuses = [str(entry.get("response", {}).get("status", "")) for entry in _entries(answer)]
        failed = [status for status in statuses if not status.startswith("2")]
        if answer.get("type") != "transaction-response" or failed or not statuses:
            raise FhirRejectedError(f"entry with status {failed[0][:3]}" if failed else "no transaction-response")

    def search(self, kind: str, query: Mapping[str, str]) -> Iterator[tuple[_Json, ...]]:
        """The resources that a search finds, a page at a time, those that it includes among them.

        Raises:
            FhirUnavailableError, FhirRejectedError, SettingsError: by each page.
        """
        address, params = f"{self._base}/{kind}", dict(query) or None
        for _ in range(_MAX_PAGES):
            answer = self._asked("GET", address, params=params)
            yield tuple(entry["resource"] for entry in _entries(answer) if isinstance(entry.get("resource"), dict))
            found = (link for link in answer.get("link", ()) if link.get("relation") == "next")
            following = next(found, None)
            if following is None:
                return
            address, params = self._own(str(following.get("url", ""))), None

    def _own(self, address: str) -> str:
        """The address of a further page, which must be on this server: the token goes there."""
        target = str(httpx.URL(self._base + "/").join(address))
        if urlsplit(target)[:2] != urlsplit(self._base)[:2]:
            raise FhirRejectedError("a next page on another server")
        return target

    def _asked(
        self, method: str, address: str, *, content: bytes | None = None, params: Mapping[str, str] | None = None
    ) -> _Json:
        headers = {"accept": FHIR_JSON}
        if content is not None:
            headers["content-type"] = FHIR_JSON
        if self._token_file is not None:
            headers["authorization"] = f"Bearer {_token(self._token_file)}"
        try:
            answer = self._http.request(method, address, content=content, params=params, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise FhirUnavailableError(type(error).__name__) from None  # its text may hold the address
        if answer.status_code in _AGAIN:
            raise FhirUnavailableError(f"status {answer.status_code}", _retry_after_s(answer))
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise FhirDeniedError(f"status {answer.status_code}")
        if answer.status_code != httpx.codes.OK:
            raise FhirRejectedError(f"status {answer.status_code}")
        try:
            document = json.loads(answer.content)
        except ValueError:
            raise FhirRejectedError("an answer that is not JSON") from None
        if not isinstance(document, dict) or document.get("resourceType") != "Bundle":
            raise FhirRejectedError("an answer that is not a Bundle")
        return document


def deliver(
    client: FhirClient,
    bundle: bytes,
    *,
    tries: int,
    first_wait_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Store a Bundle, again with growing waits while the server cannot take it; the number of tries made.

    Raises:
        FhirUnavailableError: at the last try; FhirRejectedError, SettingsError: at any.
    """
    for made in range(1, tries + 1):
        try:
            client.transact(bundle)
        except FhirUnavailableError as error:
            if made == tries:
                raise
            wait_s = min(first_wait_s * 2.0 ** (made - 1), _MAX_WAIT_S) * random.uniform(0.8, 1.2)  # noqa: S311
            sleep(max(wait_s, min(error.retry_after_s or 0.0, _MAX_WAIT_S)))
        else:
            return made
    raise ValueError("tries must be at least 1")


def _entries(bundle: _Json) -> list[_Json]:
    return [entry for entry in bundle.get("entry") or () if isinstance(entry, dict)]


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The token file {path} cannot be read: check its path and permissions.") from error
    if not token or not token.isprintable():
        raise SettingsError(f"The token file {path} has no token: write one line into it.")
    return token


def _retry_after_s(answer: httpx.Response) -> float | None:
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isdigit() else None
