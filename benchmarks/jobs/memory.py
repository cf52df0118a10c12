"""The most memory that a process has had, by Linux.

`getrusage` reports more where a larger process has started it: its figure begins with the memory of that one.
"""

from __future__ import annotations

from pathlib import Path


def peak_mib(process: int | str = "self") -> float:
    """MiB so far of a process by its id; 0 of one that has ended."""
    _, found, rest = Path(f"/proc/{process}/status").read_text(encoding="ascii").partition("VmHWM:")
    return int(rest.split()[0]) / 1024 if found else 0.0
