"""The section on what a region costs beyond its networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks import record

PIPELINES: Final = ("nash", "nuclei")


def section(results: Path) -> list[str]:
    """Empty when no pipeline has been measured."""
    found = [record.read(results / f"region-{name}.json") for name in PIPELINES]
    regions = [figures for figures in found if figures is not None]
    if not regions:
        return []
    machine = regions[0]["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in regions[0]["versions"].items())
    return [
        "## A region beyond its networks",
        "",
        *record.paragraph(f"Machine: {machine['processor']}, {machine['cores']} cores; {versions}."),
        *record.line(regions[0]),
        "",
        "A rendered region of 2048 x 2048 px at 0.25 um/px; medians. *Networks* is ONNX Runtime alone on",
        "exactly the same inputs, set up at its best; *head* the share of decoding, outlines and GeoJSON in",
        "all the work; *4 x area* the time of `analyse` for four times the area; *million* a million cells",
        "written as `.geojson.gz`.",
        "",
        "| pipeline | cells | networks | analyse | HTTP | ratios | head | 4 x area | million | memory |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *map(_row, regions),
        *_commits(results),
    ]


def _commits(results: Path) -> list[str]:
    """The region by two checkouts in turn, when `benchmarks.region.commits` has measured it."""
    found = record.read(results / "commits.json")
    if found is None:
        return []
    writing = found["writing_cpu_s"]
    text = (
        "`python -m benchmarks.region.commits`: the region of a PNG by this checkout and by "
        f"{found.get('before_commit', 'an earlier one')}, in turn, {found['cells']} cells: "
        f"{found['after_over_before_seconds']:.2f} times as long, "
        f"{found['after_over_before_cpu_s']:.2f} times the seconds of cores (load {found['load']}); a million "
        f"cells are written in {writing['after']:.1f} s, before in {writing['before']:.1f} s."
    )
    return ["", *record.paragraph(text)]


def _row(figures: dict[str, Any]) -> str:
    memory = figures["memory_mib"]
    return (
        f"| {figures['pipeline']} | {figures['cells']} | {figures['network']['median_s']:.2f} s "
        f"| {figures['analyse']['median_s']:.2f} s | {figures['http']['median_s']:.2f} s "
        f"| {figures['analyse_over_network']:.2f}, {figures['http_over_network']:.2f} "
        f"| {figures['head_share']:.1%} | {figures['four_areas_over_one']:.2f} x "
        f"| {figures['writing']['cpu_s']:.1f} s, {figures['writing']['memory_mib']:.0f} MiB "
        f"| {memory['peak']:.0f} MiB, {memory['growth_percent']:+.1f} % after 20 regions |"
    )
