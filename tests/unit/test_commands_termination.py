"""A command that gets a stop signal leaves no process running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

WORK = """
from slidecascade.commands.service_process import served
import time
with served({}) as (url, process):
    print(url, process.pid, flush=True)
    time.sleep(60)
"""


def test_a_stopped_command_stops_what_it_serves() -> None:
    """As when a time limit ends a benchmark: the service it started goes with it, in order."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", WORK], stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert process.stdout is not None
    with process.stdout as said:
        url, pid = said.readline().split()
        assert httpx.get(f"{url}/livez", timeout=30).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 1
    ends_at = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < ends_at
        time.sleep(0.05)
