"""The section on the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks import record

FILES: Final = ("lis-rate.json", "lis-kills.json")


def section(results: Path) -> list[str]:
    """Empty when nothing was measured."""
    found = [document for name in FILES if (document := record.read(results / name)) is not None]
    if not found:
        return []
    lines = [
        "## Orders of a LIS",
        "",
        *record.paragraph(
            "`make bench-lis`: the bridge with SQLite between a simulated LIS and a stand-in for the service, "
            "each a process of its own on the same cores. *Acknowledged* is from the sent message to AA, which "
            "comes after fsync. *Beyond the job* is from the sent message to the received result, without the "
            "job's own time; during kills both contain the restarts of the bridge."
        ),
    ]
    for document in found:
        lines += ["", *record.line(document), "", "| measure | measured | bar |", "|---|---|---|"]
        lines += [f"| {name} | {value} | {bar} |" for name, value, bar in _rows(document)]
    return lines


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Measure, figure and bar."""
    killed = found["kills"] > 0
    yield (
        "orders, a second, kills -9 of the bridge",
        f"{found['orders']:,}, {found['rate_hz']:g}, {found['kills']}",
        "",
    )
    counts = f"{found['acknowledged']:,} / {found['rejected']:,} / {found['lost']} / {found['done_twice']}"
    yield "acknowledged / rejected / lost / done twice", counts, "all / 0 / 0 / 0"
    pair = _pair(found, "acknowledged_ms", "ms")
    yield "acknowledged, p50 / p95", pair, "" if killed else "5 / 20 ms"
    yield "one fsync of 4 KiB on the same disk, p50 / p95", _pair(found, "fsync_ms", "ms"), ""
    yield "order to result beyond the job, p50 / p95", _pair(found, "beyond_job_s", "s"), "" if killed else "1 s"
    yield "CPU of the bridge for an order", f"{found['bridge_cpu_ms']:.1f} ms", ""
    if not killed:
        memory = found["memory_mib"]
        between = f"{memory[len(memory) // 2]['mib']:.0f} / {memory[-1]['mib']:.0f} MiB"
        yield "memory of the bridge in its second half, from / to", between, "level"
        yield "transactions for each message", f"{found['transactions_per_message']:.2f}", ""


def _pair(found: Mapping[str, Any], name: str, unit: str) -> str:
    digits = 1 if unit == "ms" else 2
    return f"{found[name]['p50']:.{digits}f} / {found[name]['p95']:.{digits}f} {unit}"
