"""The section on what areas cost beyond their network."""

from __future__ import annotations

from pathlib import Path

from benchmarks import record


def section(results: Path) -> list[str]:
    """Empty when it has not been measured."""
    found = record.read(results / "areas.json")
    if found is None:
        return []
    peaks = ", ".join(f"{side} px {mib} MiB" for side, mib in found["peak_mib"].items())
    return [
        "## Areas beyond their network",
        "",
        *record.line(found),
        "",
        *record.paragraph(
            f"`{found['pipeline']}` on a rendered slide of {found['side_px']} x {found['side_px']} px at the "
            f"network's resolution, {found['areas']} areas, one thread: {found['analyse_cpu_s']:.2f} CPU s, the "
            f"network alone on the same inputs {found['network_cpu_s']:.2f}; median ratio of {found['rounds']} "
            f"alternating rounds {found['analyse_over_network']:.2f}. Peak memory of `analyze` by the "
            f"side of the slide: {peaks}."
        ),
    ]
