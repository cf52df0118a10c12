"""What /proc shows of other processes, whose threads, children and files may be gone before they are read."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still run; none of a process that has ended."""
    found = []
    for thread in _entries(Path(f"/proc/{pid}/task")):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += [int(child) for child in (thread / "children").read_text(encoding="ascii").split()]
    return found


def is_running(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for has."""
    return "\nState:\t" in _status(pid) and "\nState:\tZ" not in _status(pid)


def _status(pid: int) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return ""


def confinement(pid: int) -> tuple[str, dict[str, str]]:
    """The status of a process, and its soft limits by name."""
    lines = Path(f"/proc/{pid}/limits").read_text(encoding="ascii").splitlines()
    return _status(pid), {line[:26].strip(): line[26:].split()[0] for line in lines[1:]}


def open_files(pid: int) -> list[str]:
    """What the descriptors of a process lead to: paths, and names such as ``socket:[4711]``."""
    found = []
    for descriptor in _entries(Path(f"/proc/{pid}/fd")):
        with suppress(FileNotFoundError, ProcessLookupError):
            found.append(os.readlink(descriptor))
    return found


def _entries(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError, ProcessLookupError):
        return list(folder.iterdir())
    return []
