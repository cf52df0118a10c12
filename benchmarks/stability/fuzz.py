"""``python -m benchmarks.stability.fuzz``: all fuzzers for a time, some of them in parallel, and what they found.

A fuzzer is `tests/fuzz/campaign.py` with the name of a target. What reaches new branches, and findings, are kept
in ``--keep``/TARGET. Exits with 1 where one found something. Figures go to ``fuzz.json`` in ``--out``, if given.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TextIO

from benchmarks import record

CAMPAIGN: Final = record.ROOT / "tests" / "fuzz" / "campaign.py"
_EXECUTIONS: Final = re.compile(r"number_of_executed_units:\s+(\d+)")
_START_S: Final = 600.0
"""Time for a fuzzer to import what it calls, and to end."""
_ROUND_S: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What a fuzzer did; `crashes` and `hangs` are of this run, `exit_code` is 0 where it found nothing."""

    target: str
    seconds: float
    executions: int | None
    crashes: int
    hangs: int
    exit_code: int

    @property
    def holds(self) -> bool:
        return self.exit_code == 0 and self.crashes == self.hangs == 0


@dataclass(frozen=True, slots=True)
class _Round:
    """What one process of a fuzzer did; `code` is None where it did not end."""

    executions: int | None
    code: int | None


def fuzz(target: str, *, seconds: int, keep: Path) -> Campaign:
    """Run the fuzzer of `target` until it finds something; it keeps its findings in a folder of `keep`.

    It is started anew every minute, with what it has kept: Atheris itself takes about 200 bytes for each
    execution of traced code, which the bound of memory for findings would take for one of ours.
    """
    folder = keep / target
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())
    started = time.monotonic()
    rounds: list[_Round] = []
    with (keep / f"{target}.log").open("w+", errors="replace") as log:
        left = seconds
        while left > 0 and all(each.code == 0 for each in rounds):
            rounds.append(_run(target, min(left, _ROUND_S), folder, log))
            left -= _ROUND_S
    new = [path.name for path in set(folder.iterdir()) - before]
    done = [each.executions for each in rounds if each.executions is not None]
    return Campaign(
        target=target,
        seconds=round(time.monotonic() - started, 1),
        executions=sum(done) if done else None,
        crashes=sum(name.startswith(("crash-", "oom-", "leak-")) for name in new),
        hangs=sum(name.startswith("timeout-") for name in new) + sum(each.code is None for each in rounds),
        exit_code=-signal.SIGKILL if rounds[-1].code is None else rounds[-1].code,
    )


def _run(target: str, seconds: int, folder: Path, log: TextIO) -> _Round:
    begin = log.seek(0, os.SEEK_END)
    process = subprocess.Popen(
        [sys.executable, str(CAMPAIGN), target],
        env=os.environ | {"FUZZ_SECONDS": str(seconds), "FUZZ_KEEP": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=log,
    )
    code: int | None
    try:
        code = process.wait(seconds + _START_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        code = None
    log.seek(begin)
    found = _EXECUTIONS.search(log.read())
    return _Round(None if found is None else int(found[1]), code)


def main() -> int:
    """Run all fuzzers and print what they did as JSON; the exit code."""
    parser = argparse.ArgumentParser(description="All fuzzers, some of them in parallel.")
    parser.add_argument("--seconds", type=int, default=600, help="for each target (default: 600)")
    parser.add_argument("--parallel", type=int, default=2, metavar="N", help="targets at a time (default: 2)")
    parser.add_argument("--targets", nargs="+", help="default: all")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="default: runs/fuzz")
    parser.add_argument("--out", type=Path, help="folder for fuzz.json, as benchmarks/results")
    options = parser.parse_args()
    provenance = record.Provenance.here()
    listed = subprocess.run([sys.executable, str(CAMPAIGN)], capture_output=True, text=True, check=True).stdout
    targets = options.targets or listed.split()
    started = time.monotonic()
    with ThreadPoolExecutor(options.parallel) as pool:
        campaigns = list(pool.map(partial(fuzz, seconds=options.seconds, keep=options.keep), targets))
    figures = {
        "seconds_each": options.seconds,
        "parallel": options.parallel,
        "seconds": round(time.monotonic() - started, 1),
        "crashes": sum(campaign.crashes for campaign in campaigns),
        "hangs": sum(campaign.hangs for campaign in campaigns),
        "targets": [dataclasses.asdict(campaign) for campaign in campaigns],
    }
    if options.out is not None:
        record.write(options.out / "fuzz.json", figures, provenance)
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return 0 if all(campaign.holds for campaign in campaigns) else 1


if __name__ == "__main__":
    sys.exit(main())
