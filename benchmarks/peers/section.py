"""Where the benchmark against peers is described."""

from __future__ import annotations

from pathlib import Path

from benchmarks import record


def section(results: Path) -> list[str]:
    """Empty when it was not measured."""
    figures = record.read(results / "peers.json")
    if figures is None:
        return []
    return [
        "## Against other ways to serve the same networks",
        "",
        "`make bench-peers`: [tables, settings and versions](peers.md).",
        *record.line(figures),
        *(["", *record.paragraph(figures["note"])] if "note" in figures else []),
        "",
        "![times better than each of them](peers.png)",
    ]
