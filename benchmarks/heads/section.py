"""The section on decoding of the heads of fluorescence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import record


def section(results: Path) -> list[str]:
    """A table of the heads; nothing where they were not measured."""
    figures = record.read(results / "heads.json")
    if figures is None:
        return []
    side = figures["side_px"]
    return [
        "## Decoding",
        "",
        *record.paragraph(
            f"`python -m benchmarks.heads`: about 1,000 objects in {side} x {side} px decoded by each head on one "
            "thread, and by what defines the right answer, in turn; medians of CPU time. Where the second is only "
            "a part of the decoding its name says so."
        ),
        *record.line(figures),
        "",
        "| head | objects | CPU time | oracle | objects | CPU time |",
        "|---|---|---|---|---|---|",
        *map(_row, figures["rows"]),
    ]


def _row(row: dict[str, Any]) -> str:
    oracle = "not installed |  | "
    if "oracle_cpu_ms" in row:
        oracle = f"{row['oracle']} | {row['oracle_objects']} | {row['oracle_cpu_ms']:.0f} ms"
    return f"| `{row['head']}` | {row['ours_objects']} | {row['ours_cpu_ms']:.0f} ms | {oracle} |"
