"""The section on stain normalisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks import record

METHODS: Final = ("none", "macenko", "reinhard", "vahadane")


def section(results: Path) -> list[str]:
    """The table of shifted stains, and the cost."""
    figures = record.read(results / "stain.json")
    if figures is None:
        return []
    return [
        "## Stain normalisation on shifted stains",
        "",
        *record.paragraph(
            f"`python -m benchmarks.stain`: TP / (TP + FP + FN) of nuclei at IoU {figures['iou']:g}, over all "
            "images, and for rendered liver the share of those found whose class is right. The stains of images "
            "are shifted, the truth stays. Images whose stain cannot be fitted (in brackets) count as without "
            "normalisation. No method helps on all images, and every one harms on some: the default is `none`."
        ),
        *record.line(figures),
        "",
        "| images | stain | " + " | ".join(METHODS) + " |",
        "|---|---|" + "---|" * len(METHODS),
        *_rows(figures["rows"]),
        "",
        *_cost(figures["cost"]),
    ]


def _rows(rows: list[dict[str, Any]]) -> list[str]:
    cells = {(row["images"], row["shift"], row["method"]): _cell(row) for row in rows}
    places = dict.fromkeys((row["images"], row["shift"]) for row in rows)
    return [
        f"| {images} | {shift} | " + " | ".join(cells[images, shift, method] for method in METHODS) + " |"
        for images, shift in places
    ]


def _cell(row: dict[str, Any]) -> str:
    total = row["found"] + row["wrong"] + row["missed"]
    text = f"{row['found'] / max(1, total):.3f}"
    if row["same_class"]:
        text += f", {row['same_class'] / max(1, row['found']):.1%}"
    return text + (f" ({row['unusable']})" if row["unusable"] else "")


def _cost(cost: dict[str, dict[str, float]]) -> list[str]:
    shares = [
        f"{pipeline} "
        + ", ".join(
            f"{method} {cost[pipeline][method] / cost[pipeline]['none'] - 1:+.1%}" for method in METHODS[1:]
        )
        for pipeline in ("nash", "nuclei")
    ]
    fits = ", ".join(f"{method} {seconds:.3f} s" for method, seconds in cost["fit_s"].items())
    pixels = ", ".join(f"{method} {ns:g} ns" for method, ns in cost["apply_ns_per_px"].items())
    return record.paragraph(
        f"CPU seconds of an analysis of one rendered tile against those without, interleaved, the fit in the "
        f"cache: {'; '.join(shares)}. A fit takes {fits}; a pixel takes {pixels}."
    )
