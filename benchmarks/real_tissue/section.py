"""The section on real liver that nothing was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks import record

_MET: Final = {None: "", True: "met", False: "not met"}


def section(results: Path) -> list[str]:
    """Empty when it was not measured."""
    figures = record.read(results / "real-tissue.json")
    if figures is None:
        return []
    return [
        "## Real liver that nothing was trained on",
        "",
        "`python -m benchmarks.real_tissue`: the `nash` pipeline on tiles of which it is known whether they are",
        "fatty. There is no truth for single cells. About a third of the tissue of `gtex_tile03` holds large",
        "droplets; the rest of it is near normal. The target for all of it is of its description as near normal.",
        *record.line(figures),
        "",
        "| tile | part | hepatocytes | steatotic | target | |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row['path']} | {row['part']} | {row['hepatocytes']} | {row['share']:.1%} | {_target(row)} "
            f"| {_MET[row['met']]} |"
            for row in figures["parts"]
        ),
    ]


def _target(row: dict[str, Any]) -> str:
    if row["least"] is not None:
        return f"at least {row['least']:.0%}"
    return "-" if row["most"] is None else f"at most {row['most']:.0%}"
