"""``make bench``: every measurement, its JSON and a table in ``benchmarks/results``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PIPELINES = ("nash", "nuclei")


def main() -> None:
    RESULTS.mkdir(exist_ok=True)
    for pipeline in PIPELINES:
        out = RESULTS / f"region-{pipeline}.json"
        command = ["bench", "region", "--pipeline", pipeline, "--out", str(out)]
        subprocess.run([sys.executable, "-m", "slidecascade", *command], check=True)
    tiling = [sys.executable, "-m", "benchmarks.tiling", "--out", str(RESULTS / "tiling.json")]
    subprocess.run(tiling, check=True)
    (RESULTS / "README.md").write_text(_page(), encoding="utf-8")
    print((RESULTS / "README.md").read_text(encoding="utf-8"))


def _page() -> str:
    regions = [json.loads((RESULTS / f"region-{name}.json").read_text(encoding="utf-8")) for name in PIPELINES]
    tiling = json.loads((RESULTS / "tiling.json").read_text(encoding="utf-8"))
    machine = regions[0]["machine"]
    return "\n".join(
        [
            "# Results",
            "",
            "Written by `make bench`. Ratios carry over to other machines, seconds do not.",
            "",
            f"Machine: {machine['processor']}, {machine['cores']} cores; "
            + ", ".join(f"{name} {number}" for name, number in regions[0]["versions"].items()),
            "",
            "## A region beyond its networks",
            "",
            "A rendered region of 2048 x 2048 px at 0.25 um/px; medians. *Networks* is ONNX Runtime alone on",
            "exactly the same inputs, set up at its best; *head* the share of decoding, outlines and GeoJSON in",
            "all the work; *4 x area* the time of `analyse` for four times the area; *million* a million cells",
            "written as `.geojson.gz`.",
            "",
            "| pipeline | cells | networks | analyse | HTTP | ratios | head | 4 x area | million | memory |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *map(_region_row, regions),
            "",
            "## The same cells whatever the tiling",
            "",
            "Cells of a region as one tile against the same region in tiles.",
            "",
            "| region | tiles of | seams moved by | threads | cells | lost | doubled | other class | least IoU |",
            "|---|---|---|---|---|---|---|---|---|",
            *map(_tiling_row, tiling["rows"]),
            "",
            *_accuracy(),
            *_peers(),
        ]
    )


def _peers() -> list[str]:
    """Where the benchmark against peers is told, when `benchmarks.peers` has been run."""
    if not (RESULTS / "peers.md").is_file():
        return []
    return [
        "",
        "## Against other ways to serve the same networks",
        "",
        "`make bench-peers`: [tables, settings and versions](peers.md).",
        "",
        "![times better than each of them](peers.png)",
    ]


def _accuracy() -> list[str]:
    """The section on accuracy, when `benchmarks.accuracy` has been run."""
    path = RESULTS / "accuracy.json"
    if not path.is_file():
        return []
    return [
        "## How well cells are found",
        "",
        "`slidecascade evaluate` on images with known cells; AP is TP / (TP + FN + FP), the mean of images; F1",
        "and PQ are at IoU 0.5. NuCLS took part in training: its figures say how well it was learnt, not how",
        "well the network does on new tissue.",
        "",
        "| pipeline | data | images | AP50 | AP50 pooled | mean AP | F1 | PQ | AJI | Dice |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *_accuracy_rows(json.loads(path.read_text(encoding="utf-8"))["trials"]),
        "",
    ]


def _accuracy_rows(trials: list[dict[str, Any]]) -> list[str]:
    lines = []
    for trial in trials:
        data = f"{trial['data']}, {trial['split']}, {trial['mpp']:g} um/px"
        for name, group in [(data, trial), *((f"{data}: {kind}", item) for kind, item in trial["kinds"].items())]:
            figures = (
                group["ap50"],
                group["pooled"]["ap50"],
                *(group[key] for key in ("map", "f1", "pq", "aji", "dice")),
            )
            lines.append(
                f"| {trial['pipeline']} | {name} | {group['images']} | "
                + " | ".join(f"{value:.3f}" for value in figures)
                + " |"
            )
    return lines


def _region_row(figures: dict[str, Any]) -> str:
    memory = figures["memory_mib"]
    return (
        f"| {figures['pipeline']} | {figures['cells']} | {figures['network']['median_s']:.2f} s "
        f"| {figures['analyse']['median_s']:.2f} s | {figures['http']['median_s']:.2f} s "
        f"| {figures['analyse_over_network']:.2f}, {figures['http_over_network']:.2f} "
        f"| {figures['head_share']:.1%} | {figures['four_areas_over_one']:.2f} x "
        f"| {figures['writing']['cpu_s']:.1f} s, {figures['writing']['memory_mib']:.0f} MiB "
        f"| {memory['peak']:.0f} MiB, {memory['growth_percent']:+.1f} % after 20 regions |"
    )


def _tiling_row(row: dict[str, Any]) -> str:
    return (
        f"| {row['region']} | {row['tile_px']} px | {row['shift']} | {row['threads']} | {row['cells']} "
        f"| {row['lost']} | {row['doubled']} | {row['other_class']} | {row['least_iou']:.3f} |"
    )


if __name__ == "__main__":
    main()
