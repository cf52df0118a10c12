"""The section on one slide, one answer: tilings of a region, regions of a slide, and what looking around costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import record


def section(results: Path) -> list[str]:
    """The parts that have been measured."""
    parts = [part for part in (_tiling(results), _regions(results), _halo(results)) if part]
    lines: list[str] = []
    for part in parts:
        lines += [*([""] if lines else []), *part]
    return lines


def _tiling(results: Path) -> list[str]:
    figures = record.read(results / "tiling.json")
    if figures is None:
        return []
    return [
        "## The same cells whatever the tiling",
        "",
        "Cells of a region as one tile against the same region in tiles.",
        *record.line(figures),
        "",
        "| region | tiles of | seams moved by | threads | cells | lost | doubled | other class | least IoU |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(_tiling_row, figures["rows"]),
    ]


def _tiling_row(row: dict[str, Any]) -> str:
    return (
        f"| {row['region']} | {row['tile_px']} px | {row['shift']} | {row['threads']} | {row['cells']} "
        f"| {row['lost']} | {row['doubled']} | {row['other_class']} | {row['least_iou']:.3f} |"
    )


def _regions(results: Path) -> list[str]:
    figures = record.read(results / "regions.json")
    if figures is None:
        return []
    return [
        "## One slide, one answer",
        "",
        "`python -m benchmarks.slides.regions`: regions of random places and sizes, with random tiles, seams,",
        "threads and runners, against what the whole slide has in them: outlines, classes, probabilities to the",
        f"last bit, ids. {_equal(figures['rows'])}",
        *record.line(figures),
        "",
        "| slide | pipeline | um/px | regions | cells in them | missing | extra | different otherwise |",
        "|---|---|---|---|---|---|---|---|",
        *map(_region_row, figures["rows"]),
    ]


def _equal(rows: list[dict[str, Any]]) -> str:
    wrong = ("missing", "extra", "other_class", "other_probabilities", "other_id")
    cells, different = sum(row["cells"] for row in rows), sum(row[name] for row in rows for name in wrong)
    return f"Equal in all of these: {cells - different} of {cells} cells ({1 - different / max(1, cells):.3%})."


def _region_row(row: dict[str, Any]) -> str:
    other = row["other_class"] + row["other_probabilities"] + row["other_id"]
    return (
        f"| {row['slide']} | {row['pipeline']} | {row['mpp']:g} | {row['regions']} | {row['cells']} "
        f"| {row['missing']} | {row['extra']} | {other} |"
    )


def _halo(results: Path) -> list[str]:
    figures = record.read(results / "halo.json")
    if figures is None:
        return []
    return [
        "## What the slide around a region costs",
        "",
        *record.paragraph(
            "`python -m benchmarks.slides.halo`: pixels that the segmenter of `nash` and its companion for fat, "
            "which has half the resolution, are given, over those of the region."
        ),
        *record.line(figures),
        "",
        "| side of the region | pixels over its own | seconds | cells |",
        "|---|---|---|---|",
        *(
            f"| {row['side_px']} px | {row['after_pixels'] / row['side_px'] ** 2:.2f} x "
            f"| {row['after_seconds']:.2f} s | {row['after_cells']:.0f} |"
            for row in figures["rows"]
        ),
    ]
