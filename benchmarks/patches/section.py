"""The section on what patches cost beyond their network."""

from __future__ import annotations

from pathlib import Path

from benchmarks import record


def section(results: Path) -> list[str]:
    """Empty when it has not been measured."""
    found = record.read(results / "patches.json")
    if found is None:
        return []
    peaks = ", ".join(f"{side} px {mib} MiB" for side, mib in found["peak_mib"].items())
    lines = [
        "## Patches beyond their network",
        "",
        *record.line(found),
        "",
        "| pipeline | contexts | analysis, CPU s | network alone, CPU s | ratio |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in found["ratios"].items():
        lines.append(
            f"| `{name}` | {row['images']} | {row['analyse_cpu_s']:.2f} | {row['network_cpu_s']:.2f} | "
            f"{row['analyse_over_network']:.2f} |"
        )
    return [
        *lines,
        "",
        *record.paragraph(
            f"A rendered lymph node of {found['side_px']} x {found['side_px']} px at 0.25 um, one thread; the "
            "network alone runs on the same contexts; medians of alternating rounds. A small network costs less "
            f"than reading its pixels. Peak memory of `slidecascade analyze` by the side of the slide: {peaks}."
        ),
    ]
