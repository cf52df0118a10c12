"""The section on slides as jobs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import record


def section(results: Path) -> list[str]:
    """Empty when nothing was measured."""
    figures = record.read(results / "jobs.json")
    if figures is None:
        return []
    jobs = [job for job in figures.get("jobs", ()) if job]
    return [
        "## Slides as jobs",
        "",
        *record.paragraph(
            "`make bench-slides`: `nash` on slides of one rendered block of tissue, repeated, at 0.25 um/px, with "
            "two threads and SQLite. CPU seconds are of the threads that work, from submission to the last file; "
            "*queues* are those of all others, which look at queues a few times a second of wall time; "
            "*networks* are those within runs of ONNX Runtime. " + _measured(figures)
        ),
        *record.paragraph(figures.get("note", "")),
        *record.line(figures),
        "",
        "| slide | Mpx | fields | cells | CPU | networks | ratio | queues | wall | peak memory |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *map(_job_row, jobs),
        "",
        "| what | measured |",
        "|---|---|",
        *_size_rows(jobs),
        *_cells_rows(figures.get("cells")),
        *(row for found in filter(None, figures.get("checkpoints", ())) for row in _checkpoints_rows(found, jobs)),
        *_resume_rows(figures.get("resume")),
        *_people_rows(figures.get("people")),
        *_workers_rows(figures.get("workers", ())),
        f"| GPU busy while a slide runs | {figures['gpu'] or 'not measured: there was no GPU'} |",
    ]


def _measured(figures: dict[str, Any]) -> str:
    """The load at the end of each part, and the commit of those that are of another one than the rest."""
    if "measured" not in figures:
        return ""  # the note of earlier figures says it
    latest = figures["provenance"]["commit"] if "provenance" in figures else None
    said = [
        f"{name} {of['load']:g}" + ("" if of["commit"] == latest else f" (commit `{of['commit']}`)")
        for name, of in figures["measured"].items()
    ]
    return f"Load averages when the parts ended: {', '.join(said)}."


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


def _size_rows(jobs: list[dict[str, Any]]) -> list[str]:
    """How time and memory grow from each slide to the next larger one, and from the smallest to the largest."""
    rows = []
    by_side = {job["side_px"]: job for job in jobs}
    sides = sorted(by_side)
    for small, large in pairwise(sides):
        area = (large / small) ** 2
        seconds = [
            f"{by_side[large][key] / by_side[small][key]:.2f} times {name}"
            for key, name in (("work_cpu_s", "the CPU"), ("wall_s", "as long"))
            if key in by_side[small] and key in by_side[large]
        ]
        rows.append(f"| {large} px against {small} px, {area:.2g} times the area | {', '.join(seconds)} |")
    if len(sides) > 1:
        least, most = (by_side[side]["peak_mib"] for side in (sides[0], sides[-1]))
        rows.append(f"| peak memory of the largest slide over that of the smallest | {most / least:.2f} |")
    return rows


def _resume_rows(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return ["| work repeated after kill -9 | not measured |"]
    return [
        f"| fields done before kill -9 that were done again, of {found['done_at_kill']} | {found['done_again']} |",
        f"| CPU time of kill and restart in fields, {found['threads']} threads | {found['lost_fields']:.1f} |",
    ]


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


def _checkpoints_rows(found: dict[str, Any], jobs: list[dict[str, Any]]) -> list[str]:
    database, milliseconds = found["database"], found["cpu_ms"]
    rows = [f"| queue and checkpoints of a field, {database} | {milliseconds:.1f} ms CPU |"]
    timed = [job for job in jobs if "work_cpu_s" in job and job["fields"]]
    if timed:
        largest = max(timed, key=lambda job: int(job["side_px"]))
        share = milliseconds / 1e3 / (largest["work_cpu_s"] / largest["fields"])
        rows.append(f"| the same of a field's time, slide of {largest['side_px']} px, {database} | {share:.2%} |")
    return rows


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
    rows = [f"| two workers of one thread against one of two | {wall} times as fast, {cpu} by CPU seconds |"]
    peaks = [run["peak_mib"] for pair in done for run in pair if "peak_mib" in run]
    return rows + ([f"| peak memory of a worker | {max(peaks)} MiB at most |"] if peaks else [])
