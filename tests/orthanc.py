"""Debian's Orthanc with DICOMweb on a loopback port of its own, for tests."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from served_process import START_S, STOP_S, free_port

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class Orthanc:
    """A server that stores below `folder`; started at once, ended by `stop`."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("Orthanc")
        if program is None or not PLUGIN.exists():
            pytest.skip("Debian's packages orthanc and orthanc-dicomweb are not installed")
        self._folder, self._program, self._port = folder, program, free_port()
        self._url = f"http://127.0.0.1:{self._port}"
        self.url = f"{self._url}/dicom-web"
        """Of DICOMweb."""
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "Name": "test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self._port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomServerEnabled": False,
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False},
        }
        folder.joinpath("orthanc.json").write_text(json.dumps(settings))
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self._folder.joinpath("log").open("ab") as log:
            command = [self._program, str(self._folder / "orthanc.json")]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        ends_at = time.monotonic() + START_S
        while True:
            try:
                httpx.get(f"{self._url}/system", timeout=10).raise_for_status()
            except httpx.HTTPError:
                text = self._folder.joinpath("log").read_text(errors="replace")[-2000:]
                assert time.monotonic() < ends_at, text
                assert self._process.poll() is None, text
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """End it and wait for its end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(STOP_S)
            self._process = None
