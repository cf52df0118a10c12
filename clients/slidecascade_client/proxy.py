"""The proxy between the client and the service, as far as messages and set-up need to know it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpx

from slidecascade_client.errors import ProxyFailedError

REMEDY = "correct or remove http_proxy, https_proxy or all_proxy, or name the service's host in no_proxy"


class Dialled:
    """Which host the last connection of a client was opened to.

    httpx reports this to its ``trace`` extension; where it is not the service's host, it is a proxy, whether the
    environment or the caller's own ``http_client`` states it.
    """

    def __init__(self) -> None:
        self._host_port: tuple[str, int] | None = None

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Take note of an event of httpcore, e.g. ``connection.connect_tcp.started``."""
        if event.endswith(".connect_tcp.started"):
            self._host_port = (info["host"], info["port"])

    async def trace_async(self, event: str, info: Mapping[str, Any]) -> None:
        """`trace` for httpx's asynchronous client."""
        self.trace(event, info)

    def proxy_of(self, url: httpx.URL) -> str | None:
        """``host:port`` of the proxy for `url`; None without a proxy."""
        direct = (url.raw_host.decode("ascii").strip("[]"), url.port or {"http": 80, "https": 443}[url.scheme])
        if self._host_port is None or self._host_port == direct:
            return None
        host, port = self._host_port
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def needs_no_proxy(url: httpx.URL) -> bool:
    """Whether the environment excludes `url` from proxies."""
    return _stated(url) is None


def unusable_proxy(url: httpx.URL, error: Exception) -> ProxyFailedError:
    """The error for a proxy of the environment that httpx cannot be set up with."""
    name, stated = _stated(url) or ("all_proxy", "")
    shown = _without_credentials(stated)
    if isinstance(error, ImportError):
        return ProxyFailedError(
            f"{name} states the SOCKS proxy {shown}, for which the package socksio is missing: "
            f'install "httpx[socks]", or {REMEDY}.'
        )
    return ProxyFailedError(f"{name} states {shown}, which is not an http, https or socks5 address: {REMEDY}.")


def _stated(url: httpx.URL) -> tuple[str, str] | None:
    """Name and value of the environment variable with the proxy for `url`."""
    proxies = getproxies()
    if proxy_bypass(url.host):
        return None
    found = next((scheme for scheme in (url.scheme, "all") if proxies.get(scheme)), None)
    return None if found is None else (f"{found}_proxy", proxies[found])


def _without_credentials(address: str) -> str:
    scheme, separator, rest = address.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
