"""The section on the page."""

from __future__ import annotations

from pathlib import Path

from benchmarks import record


def section(results: Path) -> list[str]:
    """Empty when nothing was measured."""
    found = record.read(results / "viewer.json")
    if found is None:
        return []
    memory = found["memory"]
    late = memory[len(memory) // 2 :]
    rows = (
        (
            "tile of level 0, made, p50 / p95",
            f"{found['tile_made_p50_ms']:.1f} / {found['tile_made_p95_ms']:.1f} ms",
            "4 / 10 ms",
        ),
        ("the same, kept", f"{found['tile_kept_p50_ms']:.1f} / {found['tile_kept_p95_ms']:.1f} ms", "4 / 10 ms"),
        (
            "tile of a coarse level of a slide of one level of 0.4 Gpx, p50 / p95",
            f"{found['low_tile_p50_ms']:.1f} / {found['low_tile_p95_ms']:.1f} ms",
            "10 ms",
        ),
        ("first picture of that slide, cold", f"{found['first_picture_ms']:.0f} ms", "500 ms"),
        ("the same, all tiles exact", f"{found['exact_picture_ms']:.0f} ms", ""),
        (f"{found['outlines']:,} outlines drawn", f"{found['outlines_draw_ms']:.0f} ms", "100 ms"),
        (
            "frames while they are dragged, p50 / p95",
            f"{found['pan_frame_p50_ms']:.0f} / {found['pan_frame_p95_ms']:.0f} ms",
            "33 ms (p95)",
        ),
        (
            "cells of a view of 2000 px of a job of a million cells, request to paint, p50 / p95",
            f"{found['view_p50_ms']:.0f} / {found['view_p95_ms']:.0f} ms",
            "250 ms",
        ),
        ("weight of the page, gzip", f"{found['weight_kb']:.0f} kB", "250 kB"),
        (
            f"private memory of the tab, panned over a million cells for {found['minutes']:g} min: most",
            f"{max(sample['private_mb'] for sample in memory):.0f} MB",
            "400 MB",
        ),
        (
            "the same in its second half, from / to; heap of the scripts",
            f"{late[0]['private_mb']:.0f} / {late[-1]['private_mb']:.0f} MB; {late[-1]['heap_mb']:.0f} MB",
            "level",
        ),
    )
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
        *(f"| {name} | {value} | {bar} |" for name, value, bar in rows),
    ]
