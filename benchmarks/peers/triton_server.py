"""A real Triton server for tests, taken from the PyPI package nvidia-pytriton.

That package holds Triton's binary and its Python backend, but no ONNX Runtime backend; `triton_backend/model.py`
is put in its place, so the server takes the models folder as it is. The binary embeds Debian's Python 3.11 (other
builds of it fail) and needs numpy 1; both stay out of this process's environment, in a folder of the user's cache
of about 320 MB that takes half a minute to make.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from benchmarks.peers.process import free_port

from slidecascade.privacy import SWITCHES

PYTHON = Path("/usr/bin/python3.11")
PYTRITON = "nvidia-pytriton==0.7.0"
BACKEND = Path(__file__).parent / "triton_backend" / "model.py"
SEGMENTS = Path("/dev/shm")  # noqa: S108 - where Linux shows POSIX shared memory
START_S, STOP_S = 120.0, 40.0


class NoTritonError(Exception):
    """There is no Triton server here; the message says what is missing, for a test to skip with."""


def runtime() -> Path:
    """The environment with Triton and what its Python needs, made on the first call.

    Its ONNX Runtime is the one of this process, so that equal outputs can be expected bit for bit.
    """
    version = importlib.metadata.version("onnxruntime")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slidecascade"
    folder = cache / f"{PYTRITON.replace('==', '-')}-onnxruntime-{version}"
    if not PYTHON.exists():
        raise NoTritonError(f"Triton's binary needs Debian's own {PYTHON}, which is not here")
    try:
        ctypes.CDLL("libpython3.11.so.1.0")
    except OSError:
        raise NoTritonError("Triton's binary needs Debian's libpython3.11, which is not here") from None
    if not folder.is_dir():
        _make(folder, f"onnxruntime=={version}")
    return folder


def _make(folder: Path, onnxruntime: str) -> None:
    # Beside its place, so that one left half made is never taken for whole.
    half_made = folder.with_name(f"{folder.name}.{os.getpid()}")
    uv = [sys.executable, "-m", "uv"]
    install = [*uv, "pip", "install", "-q", "--python", str(half_made / "bin" / "python")]
    try:
        _must([*uv, "venv", "-q", "--python", str(PYTHON), str(half_made)])
        _must([*install, "numpy<2", onnxruntime])
        _must([*install, "--no-deps", PYTRITON])
        # Compiles what each process of the server will import.
        _must([str(half_made / "bin" / "python"), "-c", "import numpy, onnxruntime"])
        triton = _site_packages(half_made) / "pytriton" / "tritonserver"
        stub = triton / "python_backend_stubs" / "3.11" / "triton_python_backend_stub"
        shutil.copy(stub, triton / "backends" / "python" / stub.name)
        with contextlib.suppress(OSError):  # another process was first
            half_made.rename(folder)
    finally:
        shutil.rmtree(half_made, ignore_errors=True)


def _must(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise NoTritonError(f"nvidia-pytriton cannot be installed here: {done.stderr.strip()[-200:]}")


def _site_packages(environment: Path) -> Path:
    return environment / "lib" / "python3.11" / "site-packages"


@dataclass
class TritonServer:
    """A running server. Only processes started here are ever signalled, by their own id."""

    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    log: Path
    prefix: str

    @property
    def url(self) -> str:
        """``host:port`` of its gRPC endpoint."""
        return f"127.0.0.1:{self.grpc_port}"

    def kill(self) -> None:
        """End it at once, with the processes of its models."""
        # It was made the leader of a session: its id is that of its group, and models outlive their server.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_S)
        for segment in SEGMENTS.glob(f"{self.prefix}*"):
            segment.unlink(missing_ok=True)

    def stop(self) -> None:
        """Ask it to end, and wait."""
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_S)
        self.kill()


def start(models: Path, folder: Path, *, ports: tuple[int, int] | None = None) -> TritonServer:
    """Serve `models` from `folder`, which is the test's own; returns when all models were tried."""
    environment = runtime()
    packages = _site_packages(environment)
    backends = folder / "backends"
    if not backends.exists():
        shutil.copytree(packages / "pytriton" / "tritonserver" / "backends", backends)
        (backends / "onnxruntime").mkdir()
        shutil.copy(BACKEND, backends / "onnxruntime" / "model.py")
    http_port, grpc_port = ports or (free_port(), free_port())
    prefix = f"slidecascade-test-{os.getpid()}-{http_port}-"
    command = [
        str(packages / "pytriton" / "tritonserver" / "bin" / "tritonserver"),
        f"--model-repository={models}",
        f"--backend-directory={backends}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        *(f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc")),
        f"--http-port={http_port}",
        f"--grpc-port={grpc_port}",
        "--allow-metrics=false",
        "--exit-on-error=false",
        # Configurations are taken as they are; completing them would start every model twice.
        "--disable-auto-complete-config",
        "--exit-timeout-secs=5",
    ]
    # The embedded Python finds its packages through the first Python in PATH, and heeds no PYTHONPATH.
    variables = {
        "PATH": f"{environment / 'bin'}:/usr/bin:/bin",
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        **SWITCHES,
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
    }
    log = folder / "triton.log"
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=output, start_new_session=True)
    server = TritonServer(process, http_port, grpc_port, log, prefix)
    try:
        _wait_until_live(server)
    except BaseException:
        server.kill()
        raise
    return server


@contextlib.contextmanager
def serving(models: Path, folder: Path) -> Iterator[TritonServer]:
    """`start` for the length of a block."""
    server = start(models, folder)
    try:
        yield server
    finally:
        server.stop()


def _wait_until_live(server: TritonServer) -> None:
    ends_at = time.monotonic() + START_S
    while time.monotonic() < ends_at:
        if server.process.poll() is not None:
            raise RuntimeError(f"The Triton server ended before it was ready: {server.log.read_text()[-3000:]}")
        with contextlib.suppress(httpx.TransportError):
            # The port is opened after the models were loaded, or could not be.
            if httpx.get(f"http://127.0.0.1:{server.http_port}/v2/health/live", timeout=5).status_code == 200:
                return
        time.sleep(0.05)
    raise RuntimeError(f"Triton was not up within {START_S} s; log:\n{server.log.read_text()[-3000:]}")
