"""The section on slides as jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import record


def section(results: Path) -> list[str]:
    """Empty when nothing was measured."""
    figures = record.read(results / "jobs.json")
    if figures is None:
        return []
    return [
        "## Slides as jobs",
        "",
        *record.paragraph(
            "`make bench-slides`: `nash` on slides of one rendered block of tissue, repeated, at 0.25 um/px, with "
            "two threads and SQLite. CPU seconds are of the threads that work, from submission to the last file; "
            "*queues* are those of all others, which look at queues a few times a second of wall time; "
            "*networks* are those within runs of ONNX Runtime. Load averages during the parts: "
            f"{', '.join(f'{load:g}' for load in figures['loads'])}."
        ),
        *record.paragraph(figures.get("note", "")),
        *record.line(figures),
        "",
        "| slide | Mpx | fields | cells | CPU | networks | ratio | queues | wall | peak memory |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *map(_job_row, filter(None, figures["jobs"])),
        "",
        "| what | measured |",
        "|---|---|",
        *_cells_rows(figures["cells"]),
        *(row for found in filter(None, figures["checkpoints"]) for row in _checkpoints_rows(found)),
        *_people_rows(figures["people"]),
        *_workers_rows(figures["workers"]),
        f"| GPU busy while a slide runs | {figures['gpu'] or 'not measured: there was no GPU'} |",
    ]


def _job_row(job: dict[str, Any]) -> str:
    side = job["side_px"]
    work, networks = job.get("work_cpu_s"), job["network_cpu_s"]  # of some runs not measured apart
    parts = ("-", "-") if work is None else (f"{work:.1f} s", f"{work / networks:.2f}")
    queues = f"{job['cpu_s']:.1f} s in all" if work is None else f"{job['cpu_s'] - work:.1f} s"
    return (
        f"| {side} x {side} px | {side * side / 1e6:.0f} | {job['fields']} | {job['cells']} "
        f"| {parts[0]} | {networks:.1f} s | {parts[1]} | {queues} | {job['wall_s']:.0f} s "
        f"| {job['peak_mib']} MiB |"
    )


def _cells_rows(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return ["| a million cells | not measured |"]
    return [
        f"| {name} | {found[key + '_cpu_s']:.1f} s CPU, {found[key + '_wall_s']:.1f} s wall |"
        for name, key in (
            (f"{found['cells']:,} cells written as {found['fields']} parts", "written"),
            (f"collected to `cells.geojson.gz`, {found['geojson_gz_mb']:.0f} MB", "collected"),
        )
    ] + [
        f"| cells of a box of 2000 px | {found['box_cpu_ms']:.1f} ms CPU, {found['box_wall_ms']:.1f} ms wall |",
        *_dicom_row(found.get("dicom")),
    ]


def _dicom_row(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    used = f"{found['cpu_s']:.1f} s CPU, {found['wall_s']:.1f} s wall, {found['peak_mib']:.0f} MiB peak memory"
    return [f"| the same cells as DICOM annotations, {found['file_mb']:.0f} MB | {used} |"]


def _checkpoints_rows(found: dict[str, Any]) -> list[str]:
    return [f"| queue and checkpoints of a field, {found['database']} | {found['cpu_ms']:.1f} ms CPU |"]


def _people_rows(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return ["| regions beside a job | not measured |"]
    return [
        f"| p95 of regions of 1024 x 1024 px, one caller without pause, idle | {found['idle_p95_s']:.2f} s |",
        f"| the same beside a job | {found['beside_p95_s']:.2f} s, {found['slower']:.2f} times as long |",
        f"| the job's speed beside them, of that alone | {found['job_keeps']:.0%} |",
    ]


def _workers_rows(runs: list[list[dict[str, Any]] | None]) -> list[str]:
    done = [each for each in runs if each]
    if not done:
        return ["| two workers of one thread against one of two | not measured |"]
    wall = " and ".join(f"{one['wall_s'] / two['wall_s']:.2f}" for one, two in done)
    cpu = " and ".join(f"{one['cpu_s'] / two['cpu_s']:.2f}" for one, two in done)
    return [f"| two workers of one thread against one of two | {wall} times as fast, {cpu} by CPU seconds |"]
