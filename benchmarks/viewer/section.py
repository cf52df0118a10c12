"""The section on the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import record


def section(results: Path) -> list[str]:
    """Empty when nothing was measured."""
    found = record.read(results / "viewer.json")
    if found is None:
        return []
    return [
        "## The page",
        "",
        *record.paragraph(
            "`make bench-viewer`: Debian's Chromium, headless and without a GPU, and a server on the same cores; "
            "medians where nothing else is said. *Cold* is a server that has just been started."
        ),
        *record.line(found),
        "",
        "| measure | measured | bar |",
        "|---|---|---|",
        *(f"| {name} | {value} | {bar} |" for name, value, bar in _rows(found)),
    ]


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Measure, figure and bar of what was measured."""
    yield "tile of level 0, made, p50 / p95", _pair(found, "tile_made"), "4 / 10 ms"
    if "openslide_tile_p50_ms" in found:
        name = "the same tiles as OpenSlide's DeepZoomGenerator makes them in a process of its own, without HTTP"
        yield name, _pair(found, "openslide_tile"), ""
    yield "tile of level 0, kept", _pair(found, "tile_kept"), "4 / 10 ms"
    yield "tile of a coarse level of a slide of one level of 0.4 Gpx, p50 / p95", _pair(found, "low_tile"), "10 ms"
    yield "first picture of that slide, cold", f"{found['first_picture_ms']:.0f} ms", "500 ms"
    yield "the same, all tiles exact", f"{found['exact_picture_ms']:.0f} ms", ""
    if "outlines" in found:
        yield f"{found['outlines']:,} outlines drawn", f"{found['outlines_draw_ms']:.0f} ms", "100 ms"
        yield "frames while they are dragged, p50 / p95", _pair(found, "pan_frame"), "33 ms (p95)"
    if "pan_frame_floor_p95_ms" in found:
        yield (
            "the same without outlines: browser, tiles and page by themselves",
            _pair(found, "pan_frame_floor"),
            "",
        )
    if "view_p50_ms" in found:
        name = "cells of a view of 2000 px of a job of a million cells, request to paint, p50 / p95"
        yield name, _pair(found, "view"), "250 ms"
    yield "weight of the page, gzip", f"{found['weight_kb']:.0f} kB", "250 kB"
    if memory := found.get("memory"):
        late = memory[len(memory) // 2 :]
        name = f"private memory of the tab, panned over a million cells for {found['minutes']:g} min: most"
        yield name, f"{max(sample['private_mb'] for sample in memory):.0f} MB", "400 MB"
        between = f"{late[0]['private_mb']:.0f} / {late[-1]['private_mb']:.0f} MB"
        yield "the same in its second half, from / to", between, "level"
        yield "heap of the page's scripts at the end", f"{late[-1]['heap_mb']:.0f} MB", ""


def _pair(found: dict[str, Any], name: str) -> str:
    return f"{found[f'{name}_p50_ms']:.1f} / {found[f'{name}_p95_ms']:.1f} ms"
