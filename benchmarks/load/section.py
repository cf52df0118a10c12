"""The sections on load: rounds of callers, and minutes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks import record

_TABLE: Final = (
    "| load | regions/s | p50 | p95 | p99 | answered | rejected | errors | wrong |",
    "|---|---|---|---|---|---|---|---|---|",
)


def section(results: Path) -> list[str]:
    """The parts that have been measured."""
    rounds, soak = _rounds(results), _soak(results)
    return [*rounds, *([""] if rounds and soak else []), *soak]


def _rounds(results: Path) -> list[str]:
    report = record.read(results / "load.json")
    if report is None:
        return []
    return [
        "## Under load",
        "",
        *_head(report),
        "",
        *_TABLE,
        *(_row(_callers(figures["users"]), figures) for figures in report["closed"]),
        *(_row(f"{figures['rate_per_s']:.2f} a second arriving", figures) for figures in report["open"]),
        "",
        "![callers that wait for their answer](load-closed.png)",
        "",
        "![regions that arrive at a rate of their own](load-open.png)",
    ]


def _soak(results: Path) -> list[str]:
    report = record.read(results / "load-soak.json")
    if report is None:
        return []
    soak = report["soak"]
    growth = soak["growth_mib_per_hour"]
    name = f"{soak['figures']['seconds'] / 60:g} minutes of {_callers(soak['figures']['users'])}"
    return [
        f"## {name}",
        "",
        *_head(report),
        "",
        *_TABLE,
        _row(name, soak["figures"]),
        "",
        f"Memory: {soak['peak_mib']:.0f} MiB at most, {growth:+.0f} MiB an hour in its second half.",
        *([f"This was {report['note']}."] if "note" in report else []),
        "",
        "![memory](load-soak.png)",
    ]


def _callers(count: int) -> str:
    return f"{count} caller{'s' if count > 1 else ''}"


def _head(report: dict[str, Any]) -> list[str]:
    cells, side, machine = report["cells"], report["side_px"], report["machine"]
    return [
        *record.paragraph(
            f"`make bench-load`: `{report['pipeline']}` on {len(cells)} regions of {side} x {side} px with "
            f"{min(cells)} to {max(cells)} cells; {report['places']} slots, {machine['cores']} cores, load "
            f"{report['load_before']:g} before. Every answer is compared with the one the region gets by itself; "
            "*rejected* is 429 with `Retry-After`."
        ),
        *record.line(report),
    ]


def _row(name: str, figures: dict[str, Any]) -> str:
    latency = figures["latency"]
    seconds = [f"{latency[key]:.2f} s" for key in ("p50_s", "p95_s", "p99_s")] if latency else ["-"] * 3
    counts = [str(figures[key]) for key in ("answered", "rejected", "errors", "wrong")]
    return " | ".join(["| " + name, f"{figures['throughput_per_s']:.2f}", *seconds, *counts]) + " |"
