"""The section on cells of changed images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import record


def section(results: Path) -> list[str]:
    """The parts that have been measured."""
    parts = [part for part in (_changes(results), _turns(results), _scales(results), _precision(results)) if part]
    return [line for place, part in enumerate(parts) for line in ([""] if place else []) + part]


def _changes(results: Path) -> list[str]:
    figures = record.read(results / "stability.json")
    if figures is None:
        return []
    return [
        "## Cells of changed images",
        "",
        *record.paragraph(
            f"`python -m benchmarks.stability`: tiles of up to {figures['side_px']} px at {figures['mpp']:g} "
            "um/px, "
            "as they are and changed in ways that leave the cells what they are. *Found again*: cells of the "
            "unchanged "
            f"tile that have a partner at IoU {figures['iou']:g}; *same class*: of these; *extra*: cells that "
            "only the "
            "changed tile has, over the cells of the unchanged one."
        ),
        *record.line(figures),
        "",
        "| tiles | pipeline | change | cells | found again | same class | extra |",
        "|---|---|---|---|---|---|---|",
        *map(_row, figures["rows"]),
    ]


def _row(row: dict[str, Any]) -> str:
    return (
        f"| {row['images']} | {row['pipeline']} | {row['change']} | {row['cells']} "
        f"| {_share(row['found_again'], row['cells'])} | {_share(row['same_class'], row['found_again'])} "
        f"| {_share(row['extra'], row['cells'])} |"
    )


def _turns(results: Path) -> list[str]:
    figures = record.read(results / "turns.json")
    if figures is None:
        return []
    rows = {(row["images"], row["change"], row["tta"]): row for row in figures["rows"]}
    places = dict.fromkeys((images, change) for images, change, _ in rows)
    ratios = figures["cpu_ratios"]
    modes = " | ".join(ratios)
    return [
        "## Test-time averaging",
        "",
        *record.paragraph(
            f"`python -m benchmarks.stability.turns`: as above on tiles of {figures['side_px']} px, without "
            f"averaging, with `options.tta` d4-classifiers ({ratios['d4-classifiers']:.1f} times the CPU time) "
            f"and with d4 ({ratios['d4']:.1f} times). Each compares with the unchanged tile analysed in the "
            "same way."
        ),
        *record.line(figures),
        "",
        f"| tiles | change | cells | found again: {modes} | same class: {modes} |",
        "|---" * (3 + 2 * len(ratios)) + "|",
        *(
            f"| {images} | {change} | {rows[images, change, 'none']['cells']} | "
            + " | ".join(
                _share(rows[images, change, tta][part], rows[images, change, tta][whole])
                for part, whole in (("found_again", "cells"), ("same_class", "found_again"))
                for tta in ratios
            )
            + " |"
            for images, change in places
        ),
    ]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _scales(results: Path) -> list[str]:
    figures = record.read(results / "scales.json")
    if figures is None:
        return []
    return [
        "## The same cells at two pixel sizes",
        "",
        "`python -m benchmarks.stability.scales`: tissue as scanned and resampled, each with the pixel size it",
        "then has; *both* is 2 x matched / (cells of one + cells of the other), at IoU 0.5.",
        *record.line(figures),
        "",
        "| images | resampling | cells | cells resampled | both |",
        "|---|---|---|---|---|",
        *(
            f"| {row['images']} | {row['resampling']} | {row['as_they_are']} | {row['resampled']} "
            f"| {row['share']:.1%} |"
            for row in figures["rows"]
        ),
    ]


def _precision(results: Path) -> list[str]:
    figures = record.read(results / "int8.json")
    if figures is None:
        return []
    ratios = figures["cpu_ratios"]
    return [
        "## Networks in int8",
        "",
        *record.paragraph(
            f"`python -m benchmarks.stability.precision`: tiles of up to {figures['side_px']} px, by networks in "
            "float32 and, where a package has it, in int8 (`SLIDECASCADE_PRECISION=int8`); columns as above. CPU "
            "time of all in float32 over that in int8: "
            + ", ".join(f"{pipeline} {ratio:.2f}" for pipeline, ratio in ratios.items())
            + "."
        ),
        *record.line(figures),
        "",
        "| tiles | pipeline | change | cells | found again | same class | extra |",
        "|---|---|---|---|---|---|---|",
        *map(_row, figures["rows"]),
    ]
