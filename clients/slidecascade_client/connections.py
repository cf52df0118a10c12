"""The connections of a client: one set for each process and, in asyncio, for each event loop.

A connection must not cross a fork (two processes would read each other's answers from one socket) nor an event
loop (its socket belongs to the loop that opened it).
"""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from typing import TypeVar
from weakref import WeakKeyDictionary

import httpx

from slidecascade_client.errors import ClientClosedError, ConnectionFailedError, EventLoopError
from slidecascade_client.proxy import needs_no_proxy, unusable_proxy

H = TypeVar("H", httpx.Client, httpx.AsyncClient)

_KEPT = httpx.Limits(max_connections=100, max_keepalive_connections=20)
_NOT_KEPT = httpx.Limits(max_connections=100, max_keepalive_connections=0)
_CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


class Connections:
    """What `Client` sends through; may be shared by threads and used after a fork.

    Args:
        url: address of the service; it decides whether a proxy of the environment is used.
        given: the caller's own, which is used as it is and never closed.

    Raises:
        ConnectionFailedError: when proxies or certificates that the environment states cannot be used.
    """

    def __init__(self, url: httpx.URL, given: httpx.Client | None) -> None:
        self._url = url
        self._closed = False
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._owned = given is None
        self._http = _opened(httpx.Client, url, _certificates(), _KEPT) if given is None else given
        self._inherited: httpx.Client | None = None

    def current(self) -> httpx.Client:
        """The connections of this process.

        Raises:
            ClientClosedError: after `close`.
        """
        if self._closed or self._http.is_closed:
            raise ClientClosedError
        if self._owned and self._pid != os.getpid():
            self._renew()
        return self._http

    def close(self) -> None:
        self._closed = True
        if self._owned and self._pid == os.getpid():
            self._http.close()

    def _renew(self) -> None:
        """Open connections for a forked process; the parent still uses those it was forked with."""
        with self._lock:
            if self._pid != os.getpid():
                self._inherited = self._http  # referenced here, because their finaliser would close them
                self._http = _opened(httpx.Client, self._url, _certificates(), _KEPT)
                self._pid = os.getpid()


class AsyncConnections:
    """What `AsyncClient` sends through, in whichever event loop a call runs.

    Connections are kept between calls in the loop that entered ``async with``, because its end closes them in
    that loop; a call in another loop, or without ``async with``, opens its own and closes it.
    """

    def __init__(self, url: httpx.URL, given: httpx.AsyncClient | None) -> None:
        self._url = url
        self._given = given
        self._closed = False
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()
        self._kept: httpx.AsyncClient | None = None
        self._first_loop: asyncio.AbstractEventLoop | None = None
        self._certificates = None if given is not None else _certificates()
        if given is None:
            _opened(httpx.AsyncClient, url, self._certificates, _NOT_KEPT)  # the environment is read once, here

    def current(self) -> httpx.AsyncClient:
        """The connections of the running loop.

        Raises:
            ClientClosedError: after `close`.
        """
        if self._closed or (self._given is not None and self._given.is_closed):
            raise ClientClosedError
        loop = asyncio.get_running_loop()
        if self._given is not None:
            self._first_loop = self._first_loop or loop
            return self._given
        if loop not in self._by_loop:
            self._by_loop[loop] = _opened(httpx.AsyncClient, self._url, self._certificates, _NOT_KEPT)
        return self._by_loop[loop]

    def keep(self) -> None:
        """Keep the connections of the running loop between calls, until `close` in the same loop."""
        if self._given is None and not self._closed and self._kept is None:
            self._kept = _opened(httpx.AsyncClient, self._url, self._certificates, _KEPT)
            self._by_loop[asyncio.get_running_loop()] = self._kept

    def raise_for_loop(self, error: RuntimeError) -> None:
        """Say what `error` means when it comes of a given ``http_client`` outside its first loop.

        Raises:
            EventLoopError: in that case.
        """
        if self._given is not None and self._first_loop is not asyncio.get_running_loop():
            raise EventLoopError(
                "The http_client has connections of another event loop: make one AsyncClient for each loop, "
                "or leave http_client out."
            ) from error

    async def close(self) -> None:
        self._closed = True
        if self._kept is not None and self._by_loop.get(asyncio.get_running_loop()) is self._kept:
            await self._kept.aclose()


def _opened(kind: type[H], url: httpx.URL, certificates: ssl.SSLContext | None, limits: httpx.Limits) -> H:
    """New connections with the proxies that the environment states.

    Raises:
        ProxyFailedError: when the service's address needs one of them and httpx cannot use it.
    """
    verify = certificates or True
    try:
        return kind(verify=verify, limits=limits)
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        # httpx prepares all proxies of the environment, also those this address does not need.
        if needs_no_proxy(url):
            return kind(verify=verify, limits=limits, trust_env=False)
        raise unusable_proxy(url, error) from error


def _certificates() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        stated = ", ".join(f"{name}={os.environ[name]}" for name in _CERTIFICATE_VARIABLES if os.environ.get(name))
        raise ConnectionFailedError(
            f"The certificates of {stated or 'this machine'} cannot be read ({error.strerror or error}): "
            "name a readable file of PEM certificates, or remove the variable."
        ) from error
