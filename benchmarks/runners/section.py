"""The section on where networks run: processes of their own, batches, and the segmenter on a tile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import record


def section(results: Path) -> list[str]:
    """The parts that have been measured."""
    parts = [part for part in (_calls(results), _batcher(results), _tile(results)) if part]
    lines = ["## Where networks run"] if parts else []
    for part in parts:
        lines += ["", *part]
    return lines


def _calls(results: Path) -> list[str]:
    figures = record.read(results / "runners.json")
    if figures is None:
        return []
    region = figures["region_1024"]
    rows = [*figures["calls"].items(), (f"`nash` on 1024 x 1024 px, {region['cells']} cells", region)]
    same = "the same" if region["equal"] else "not the same"
    return [
        "`python -m benchmarks.runners.calls`: a network that does nothing, and a region, in this process",
        f"(`local`) and with a process for each network (`bento`); medians. Both give {same} cells.",
        *record.line(figures),
        "",
        "| call | local | bento |",
        "|---|---|---|",
        *(f"| {name} | {row['local']['p50_ms']:.1f} ms | {row['bento']['p50_ms']:.1f} ms |" for name, row in rows),
    ]


def _batcher(results: Path) -> list[str]:
    figures = record.read(results / "batcher.json")
    if figures is None:
        return []
    device = figures["device"]
    return [
        *record.paragraph(
            "`python -m benchmarks.runners.batcher`: callers of one image each, on a device that is simulated as "
            f"{device['fixed_s'] * 1e3:g} ms a batch and {device['per_item_s'] * 1e3:g} ms an image, and on the "
            "cores "
            f"without and with batching. A call of one caller alone takes "
            f"{figures['added_latency_alone']['p50_ms']:.2f} ms longer. Load "
            f"{figures['machine']['load_average']:g} "
            "before: where that is above the number of cores, times are those of a busy machine."
        ),
        *record.line(figures),
        "",
        "| where | callers | images/s | p50 | p95 | mean batch |",
        "|---|---|---|---|---|---|",
        *(_load_row("simulated device", load) for load in figures["device_loads"]),
        *(_load_row(f"cores, {name}", load) for name, loads in figures["cpu_loads"].items() for load in loads),
    ]


def _load_row(where: str, load: dict[str, Any]) -> str:
    return (
        f"| {where} | {load['callers']} | {load['images_per_s']:.0f} | {load['p50_ms']:.1f} ms "
        f"| {load['p95_ms']:.1f} ms | {load['mean_batch']:.1f} |"
    )


def _tile(results: Path) -> list[str]:
    figures = record.read(results / "tile-time.json")
    if figures is None:
        return []
    ms = figures["ms"]
    return [
        *record.paragraph(
            f"`python -m benchmarks.runners.tile_time`: a tile of {figures['tile_px']} x {figures['tile_px']} "
            "px on "
            f"one thread takes `nuclei-unet` {ms['nuclei-unet']['median']:.0f} ms and the reference U-Net of 16 "
            "to 256 "
            f"filters {ms['reference']['median']:.0f} ms ({figures['over_reference']:.2f} of it, medians)."
        ),
        *record.line(figures),
    ]
