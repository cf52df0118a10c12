"""The section on how well cells are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import record


def section(results: Path) -> list[str]:
    """Empty when it was not measured."""
    figures = record.read(results / "accuracy.json")
    if figures is None:
        return []
    return [
        "## How well cells are found",
        "",
        "`slidecascade evaluate` on images with known cells; AP is TP / (TP + FN + FP), the mean of images; F1",
        "and PQ are at IoU 0.5. NuCLS took part in training: its figures say how well it was learnt, not how",
        "well the network does on new tissue.",
        *record.line(figures),
        "",
        "| pipeline | data | images | AP50 | AP50 pooled | mean AP | F1 | PQ | AJI | Dice |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(row for trial in figures["trials"] for row in _rows(trial)),
    ]


def _rows(trial: dict[str, Any]) -> list[str]:
    data = f"{trial['data']}, {trial['split']}, {trial['mpp']:g} um/px"
    groups = [(data, trial), *((f"{data}: {kind}", item) for kind, item in trial["kinds"].items())]
    return [_row(trial["pipeline"], name, group) for name, group in groups]


def _row(pipeline: str, name: str, group: dict[str, Any]) -> str:
    values = (group["ap50"], group["pooled"]["ap50"], *(group[key] for key in ("map", "f1", "pq", "aji", "dice")))
    return f"| {pipeline} | {name} | {group['images']} | " + " | ".join(f"{value:.3f}" for value in values) + " |"
