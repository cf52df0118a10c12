"""The section on GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import record


def section(results: Path) -> list[str]:
    """Empty when nothing was measured on one."""
    report = record.read(results / "gpu.json")
    if report is None:
        return []
    width, height = report["region_px"]
    batches = _batches(report)
    return [
        "## On a GPU",
        "",
        *record.paragraph(
            f"`make bench-gpu`: {report['card']['name']}, {report['machine']['cores']} cores; "
            f"`{report['pipeline']}` on a rendered region of {width} x {height} px, from decoded pixels; "
            f"{report['threads']} tiles in flight. *Busy* is the share of time in which the GPU ran something, as "
            "nvidia-smi sees it."
        ),
        *record.line(report),
        "",
        "| device | callers | p50 | p95 | Mpx/s | cells/s | busy | memory |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(device, load) for device, found in report["devices"].items() for load in found["loads"]),
        "",
        "| network alone, images/s in batches of | " + " | ".join(batches) + " |",
        "|---|" + "---|" * len(batches),
        *(
            f"| {name}, {device} | " + " | ".join(f"{rate:.0f}" for rate in rates.values()) + " |"
            for device, found in report["devices"].items()
            for name, rates in found["images_per_s"].items()
        ),
    ]


def _batches(report: dict[str, Any]) -> list[str]:
    figures = next(iter(report["devices"].values()))
    return list(next(iter(figures["images_per_s"].values())))


def _row(device: str, load: dict[str, Any]) -> str:
    gpu = load["gpu"]
    return (
        f"| {device} | {load['callers']} | {load['p50_s'] * 1e3:.0f} ms | {load['p95_s'] * 1e3:.0f} ms "
        f"| {load['megapixels_per_s']:.0f} | {load['cells_per_s']:.0f} | {gpu['share']:.0%} "
        f"| {gpu['peak_memory_mib'] / 1024:.1f} GiB |"
    )
