"""Where the service is and how to speak to it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import httpx

from slidecascade_client.retry import RetryPolicy

DEFAULT_TIMEOUT_S = 630.0  # a service gives an analysis 600 s unless configured otherwise
DEFAULT_RETRY = RetryPolicy()

_ADDRESS = "base_url must be an address like http://localhost:3000 or https://host/prefix."
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Address, key and time limits, checked once.

    Raises:
        ValueError: when the address is no http(s) URL, the key cannot be a header value, or the time limit
            is not a positive number.
    """

    base_url: httpx.URL
    api_key: str | None = field(repr=False)
    timeout_s: float
    retry: RetryPolicy

    def __post_init__(self) -> None:
        url = self.base_url
        if url.scheme not in _DEFAULT_PORTS or not url.host or url.query or url.fragment or not _is_port(url.port):
            raise ValueError(_ADDRESS)
        # Checked here because the HTTP library would quote the key in its own error.
        if self.api_key is not None and not _fits_header(self.api_key):
            raise ValueError("api_key must be printable ASCII, and not empty.")
        if self.api_key is not None and url.userinfo:
            raise ValueError("Give credentials either in base_url or as api_key: a request carries only one.")
        if not 0 < self.timeout_s < math.inf:
            raise ValueError(f"timeout_s must be a positive number of seconds, not {self.timeout_s}.")

    @classmethod
    def parse(cls, base_url: str, *, api_key: str | None, timeout_s: float, retry: RetryPolicy) -> Endpoint:
        """An endpoint from the text of its address."""
        try:
            url = httpx.URL(base_url.strip() if isinstance(base_url, str) else base_url)
        except (httpx.InvalidURL, TypeError) as error:
            raise ValueError(_ADDRESS) from error
        return cls(url, api_key, timeout_s, retry)

    @property
    def origin(self) -> str:
        """The address without credentials, for messages."""
        return str(self.base_url.copy_with(userinfo=b"")).rstrip("/")

    def url(self, path: str) -> httpx.URL:
        return httpx.URL(str(self.base_url).rstrip("/") + path)

    def is_home(self, target: httpx.URL) -> bool:
        """Whether `target` is this host and port, or the same host over https instead of http."""
        base = self.base_url
        if base.host != target.host:
            return False
        here, there = (base.scheme, _port(base)), (target.scheme, _port(target))
        return here == there or (here, there) == (("http", 80), ("https", 443))


def _is_port(port: int | None) -> bool:
    return port is None or 0 < port < 2**16


def _port(url: httpx.URL) -> int | None:
    return url.port or _DEFAULT_PORTS.get(url.scheme)


def _fits_header(value: str) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isascii() and value.isprintable()
