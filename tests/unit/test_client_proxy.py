"""Proxies and certificates of the environment: who failed is named, and how to go on."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from scripted_server import HTML_502, NO_PIPELINES, Answer, FakeTime, ScriptedServer, problem, scripted
from slidecascade_client import (
    AsyncClient,
    Client,
    ConnectionFailedError,
    OverloadedError,
    ProxyFailedError,
    RetryLaterError,
    RetryPolicy,
    ServiceFailedError,
    TimedOutError,
)

SERVICE = "http://pathology.invalid:3000"
ONCE = RetryPolicy(max_tries=1)
NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")

AskOnce = Callable[..., Any]


def _sync(url: str, method: str = "pipelines", **options: Any) -> Any:
    with Client(url, **{"retry": ONCE, **options}) as client:
        return getattr(client, method)()


def _later(url: str, method: str = "pipelines", **options: Any) -> Any:
    async def ask() -> Any:
        async with AsyncClient(url, **{"retry": ONCE, **options}) as client:
            return await getattr(client, method)()

    return asyncio.run(ask())


both = pytest.mark.parametrize("ask", [_sync, _later], ids=["sync", "async"])


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def _nobody() -> Iterator[str]:
    """``host:port`` where connections are refused."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{reserved.getsockname()[1]}"


def _host_port(server: ScriptedServer) -> str:
    return server.url.removeprefix("http://")


@both
@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy", "HTTPS_PROXY"])
def test_a_dead_proxy_is_named_and_the_service_is_not_blamed(
    ask: AskOnce, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message states the proxy's address, without its password, and what to change."""
    service = SERVICE.replace("http:", "https:") if variable == "HTTPS_PROXY" else SERVICE
    with _nobody() as proxy:
        monkeypatch.setenv(variable, f"http://user:s3cret@{proxy}")
        with pytest.raises(ProxyFailedError) as caught:
            ask(service)
    said = str(caught.value)
    assert said.startswith(f"The proxy {proxy} to {service} failed")
    assert "no_proxy" in said
    assert "s3cret" not in said
    assert isinstance(caught.value, ConnectionFailedError)


@both
def test_a_service_behind_a_dead_proxy_is_not_ready(ask: AskOnce, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that waits for a start need not catch what a proxy does meanwhile."""
    with _nobody() as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy}")
        assert ask(SERVICE, "ready") is False


@both
@pytest.mark.parametrize(
    ("status", "error"), [(502, ServiceFailedError), (503, RetryLaterError), (407, ProxyFailedError)]
)
def test_an_exhausted_proxy_is_named(
    ask: AskOnce, status: int, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error page that came through a proxy may be the proxy's own."""
    with scripted(Answer(status, b"<html>no more connections</html>", "text/html")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with pytest.raises(error, match=f"the proxy {_host_port(proxy)}.*no_proxy"):
            ask(SERVICE)
    assert proxy.received[0].path == f"{SERVICE}/v1/pipelines"


@both
def test_what_the_service_says_through_a_proxy_is_the_services(
    ask: AskOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A problem document is only written by the service."""
    with scripted(problem("overloaded", 429)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with pytest.raises(OverloadedError, match=r"^This is overloaded\. "):
            ask(SERVICE)


@both
def test_a_proxy_that_refuses_a_tunnel_is_named(ask: AskOnce, monkeypatch: pytest.MonkeyPatch) -> None:
    """For https the proxy answers itself, before the service is reached."""
    with scripted(HTML_502) as proxy:  # it knows no CONNECT: 501
        monkeypatch.setenv("https_proxy", proxy.url)
        with pytest.raises(ProxyFailedError, match=f"The proxy {_host_port(proxy)} to https://pathology.invalid"):
            ask("https://pathology.invalid")


@both
def test_a_proxy_that_never_answers_is_named(ask: AskOnce, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit says through what the call went."""
    with scripted(Answer(stall_s=5.0)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with pytest.raises(TimedOutError, match=f"through the proxy {_host_port(proxy)}"):
            ask(SERVICE, timeout_s=0.3)


def test_the_proxy_of_a_given_http_client_is_named() -> None:
    """It need not come from the environment."""
    with (
        _nobody() as proxy,
        httpx.Client(proxy=f"http://{proxy}", trust_env=False) as http,
        pytest.raises(ProxyFailedError, match=f"The proxy {proxy}"),
    ):
        _sync(SERVICE, http_client=http)


@both
def test_a_failure_without_a_proxy_names_none(ask: AskOnce) -> None:
    """A refused connection to the service itself stays the service's."""
    with _nobody() as service, pytest.raises(ConnectionFailedError) as caught:
        ask(f"http://{service}")
    assert type(caught.value) is ConnectionFailedError
    assert "proxy" not in str(caught.value)
    assert "check the address, and that the service is running" in str(caught.value)


@both
def test_a_socks_proxy_without_its_package_is_a_sentence(ask: AskOnce, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says which package is missing, and which variable asks for it."""
    monkeypatch.setitem(sys.modules, "socksio", None)  # also where it happens to be installed
    monkeypatch.setenv("all_proxy", "socks5://user:s3cret@127.0.0.1:1080")
    with pytest.raises(ProxyFailedError) as caught:
        ask(SERVICE)
    said = str(caught.value)
    assert "all_proxy states the SOCKS proxy socks5://127.0.0.1:1080" in said
    assert "socksio" in said
    assert "httpx[socks]" in said
    assert "s3cret" not in said


@both
@pytest.mark.parametrize("value", ["gopher://127.0.0.1:70", "http://127.0.0.1:port"])
def test_a_proxy_of_no_known_kind_is_a_sentence(ask: AskOnce, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt variable is named."""
    monkeypatch.setenv("http_proxy", value)
    with pytest.raises(ProxyFailedError, match="http_proxy states"):
        ask(SERVICE)


@both
@pytest.mark.parametrize(
    "environment",
    [
        {"all_proxy": "socks5://127.0.0.1:1080", "no_proxy": "127.0.0.1,localhost"},
        {"https_proxy": "socks4://127.0.0.1:1080"},
        {"http_proxy": "gopher://x", "NO_PROXY": "*"},
    ],
    ids=["excluded", "other scheme", "all excluded"],
)
def test_a_proxy_this_address_does_not_need_may_be_unusable(
    ask: AskOnce, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service on this machine is requested without a proxy, whatever the environment states."""
    monkeypatch.setitem(sys.modules, "socksio", None)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with scripted(NO_PIPELINES) as server:
        assert ask(server.url) == ()


@both
def test_certificates_that_cannot_be_read_are_named(
    ask: AskOnce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL's own error names no file."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(ConnectionFailedError, match=r"SSL_CERT_FILE=.*none\.pem cannot be read"):
        ask(SERVICE)


@contextmanager
def _tls_server(folder: Path) -> Iterator[str]:
    """A server with a self-signed certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes a certificate, is not on this machine")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ScriptedServer((NO_PIPELINES,)) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.url.replace("http:", "https:")
        finally:
            server.shutdown()
            thread.join()


def test_a_certificate_that_is_not_trusted_is_not_tried_again(tmp_path: Path) -> None:
    """Waiting does not mend a certificate."""
    with _tls_server(tmp_path) as url:
        time = FakeTime()
        with Client(url, retry=time.policy(), sleep=time.sleep) as client:
            with pytest.raises(ConnectionFailedError, match="certificate") as caught:
                client.pipelines()
            assert client.ready() is False
    assert caught.value.tries == 1
    assert time.sleeps == []
