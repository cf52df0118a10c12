"""Rounds of Locust against a served process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import exchanges
from benchmarks.load.exchanges import Figures

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
ROOT = Path(__file__).resolve().parents[2]
_UNWIND_S = 300
_NOT_ALL_WELL = 1
"""How Locust ends when a request failed: the records say which and why."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Where the regions go, what they are, and where records may be kept."""

    url: str
    cases: Path
    folder: Path

    def closed(self, *, users: int, seconds: float) -> Figures:
        """`users` callers, each sending its next region when the last is answered."""
        options = ["--users", str(users), "--spawn-rate", str(users), "Caller"]
        return Figures.of(self._run(options, seconds), seconds=seconds, users=users)

    def open(self, *, rate_per_s: float, seconds: float) -> Figures:
        """Regions arrive `rate_per_s` a second, whatever becomes of them."""
        options = ["--users", "1", "--rate", str(rate_per_s), "--arrivals-s", str(seconds), "Arrivals"]
        return Figures.of(self._run(options, seconds), seconds=seconds, rate_per_s=rate_per_s)

    def _run(self, options: list[str], seconds: float) -> list[exchanges.Exchange]:
        records = self.folder / "records.jsonl"
        records.unlink(missing_ok=True)
        command = [sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless", "--only-summary"]
        command += ["--host", self.url, "--cases", str(self.cases), "--records", str(records)]
        command += ["--run-time", f"{seconds:g}s", "--stop-timeout", str(_UNWIND_S), *options]
        variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        done = subprocess.run(
            command, env=variables, capture_output=True, text=True, timeout=seconds + 2 * _UNWIND_S, check=False
        )
        if done.returncode not in (0, _NOT_ALL_WELL) or not records.is_file():
            sys.exit(f"Locust ended with {done.returncode}:\n{done.stderr[-3000:]}")
        return exchanges.read(records)
