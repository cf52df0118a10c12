"""Bytes made to break what reads them end in an error of the contract; the long runs are those of `make fuzz`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from fuzz.targets import REFUSED, TARGETS

HERE = Path(__file__).resolve().parent
SECONDS = "3"
START_S = 120
FRESH = ("sh", "-c", '"$@"; exit $?', "sh")
"""A shell between: a process counts the memory of the one that starts it as its own peak, which may be large."""


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore")  # libraries say what they think of odd files
def test_what_broke_it_once_does_not_again(name: str) -> None:
    """Every file of the corpus is read or refused; those that were findings are kept in it."""
    files = sorted((HERE / "corpus" / name).iterdir())
    assert files
    read = 0
    for file in files:
        with suppress(REFUSED):
            TARGETS[name].run(file.read_bytes())
            read += 1
    assert read


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_seconds_of_fuzzing_find_nothing(name: str, tmp_path: Path) -> None:
    """No other error, no crash of a library, no hang, and no more memory than a little."""
    pytest.importorskip("atheris", reason="atheris, which fuzzes, is not installed")
    done = subprocess.run(
        [*FRESH, sys.executable, str(HERE / "campaign.py"), name],
        env=os.environ | {"FUZZ_SECONDS": SECONDS, "FUZZ_KEEP": str(tmp_path), "PYTHONPATH": _path()},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=START_S + int(SECONDS) * 20,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert found is not None
    assert int(found[1]) >= len(list((HERE / "corpus" / name).iterdir()))


def _path() -> str:
    return os.pathsep.join(filter(None, sys.path))
