"""Starts ``slidecascade serve`` as a subprocess, waits for its readiness, and stops it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from slidecascade.commands.termination import unwinding
from slidecascade.errors import NotReadyError

START_S = 120.0
STOP_S = 90.0
_NOT_PASSED = tuple(
    f"SLIDECASCADE_{name}"
    for name in ("KEYS_FILE", "OIDC_FILE", "AUDIT_DIR", "TLS_CERTIFICATE", "TLS_KEY", "TLS_CLIENT_CA")
)
"""Settings of another service on this machine: this one is for this command, on loopback."""


@contextmanager
def served(environment: Mapping[str, str]) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start ``slidecascade serve`` on a free loopback port; yields its URL and process, and stops it on exit.

    `environment` is added to that of this process. The server's log is a temporary file, which is shown if it
    does not start.

    Raises:
        NotReadyError: when the server exited or was not ready in time.
    """
    port = free_port()
    with unwinding(), tempfile.TemporaryDirectory(prefix="slidecascade-") as home:
        log_path = Path(home) / "serve.log"
        kept = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED}
        variables = kept | {"BENTOML_HOME": home} | dict(environment)
        command = [sys.executable, "-m", "slidecascade", "serve", "--port", str(port)]
        with log_path.open("wb") as log:
            process = subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True)  # noqa: S603 - our own command
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(url, process, log_path)
            yield url, process
        finally:
            _stop(process)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log_path: Path) -> None:
    ends_at = time.monotonic() + START_S
    while time.monotonic() < ends_at:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/readyz", timeout=5, trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    tail = log_path.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise NotReadyError(f"The service did not start; its log ends with:\n{tail}", retry_after_s=1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
