"""Serve, analyse a region, stop; for a network namespace, where port 3000 is free.

``python sealed_serving.py IMAGE SECONDS COMMAND ...``: COMMAND serves for SECONDS at least. Exits with its code,
or with 1 when the region was not answered.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

URL = "http://127.0.0.1:3000"
START_S, STOP_S = 180.0, 60.0


def main(arguments: Sequence[str]) -> int:
    image, seconds, *command = arguments
    began = time.monotonic()
    process = subprocess.Popen(command)
    try:
        while not _is_ready():
            if process.poll() is not None or time.monotonic() > began + START_S:
                return 1
            time.sleep(0.1)
        files = {"image": Path(image).read_bytes(), "request": b'{"pipeline": "nash", "mpp": 0.5}'}
        answer = httpx.post(f"{URL}/v1/regions", files=files, timeout=120)
        # What is looked for comes late: libraries gather events for some time before they send them.
        while time.monotonic() < began + float(seconds) and process.poll() is None:
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(STOP_S)
    return code if answer.status_code == 200 else 1


def _is_ready() -> bool:
    try:
        return httpx.get(f"{URL}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
