"""The section on real liver that nothing was trained on."""

from __future__ import annotations

from pathlib import Path

from benchmarks import record


def section(results: Path) -> list[str]:
    """Empty when it was not measured."""
    figures = record.read(results / "real-tissue.json")
    if figures is None:
        return []
    return [
        "## Real liver that nothing was trained on",
        "",
        "`python -m benchmarks.real_tissue`: the `nash` pipeline on tiles of which it is known whether they are",
        "fatty. There is no truth for single cells.",
        *record.line(figures),
        "",
        "| tile | hepatocytes | steatotic | expected | |",
        "|---|---|---|---|---|",
        *(
            f"| {row['path']} | {row['hepatocytes']} | {row['share']:.1%} | {row['least']:.0%} to "
            f"{row['most']:.0%} "
            f"| {'met' if row['met'] else 'not met'} |"
            for row in figures["tiles"]
        ),
    ]
