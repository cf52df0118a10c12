"""The page of `benchmarks/results`, made of the figures that lie there."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import wrap
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
PIPELINES = ("nash", "nuclei")


def write_page(results: Path = RESULTS) -> Path:
    """Write the page anew beside its figures; where it is."""
    path = results / "README.md"
    path.write_text(page(results), encoding="utf-8")
    return path


def page(results: Path = RESULTS) -> str:
    """The page, of the figures in `results`; sections whose figures are not there are left out."""
    regions = [json.loads((results / f"region-{name}.json").read_text(encoding="utf-8")) for name in PIPELINES]
    tiling = json.loads((results / "tiling.json").read_text(encoding="utf-8"))
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
            *_accuracy(results),
            *_load(results),
            *_soak(results),
            *_gpu(results),
            *_peers(results),
        ]
    )


def _peers(results: Path) -> list[str]:
    """Where the benchmark against peers is told, when `benchmarks.peers` has been run."""
    if not (results / "peers.md").is_file():
        return []
    return [
        "",
        "## Against other ways to serve the same networks",
        "",
        "`make bench-peers`: [tables, settings and versions](peers.md).",
        "",
        "![times better than each of them](peers.png)",
    ]


def _gpu(results: Path) -> list[str]:
    """The section on GPUs, when `benchmarks.gpu` has been run on one."""
    path = results / "gpu.json"
    if not path.is_file():
        return []
    report = json.loads(path.read_text(encoding="utf-8"))
    width, height = report["region_px"]
    return [
        "",
        "## On a GPU",
        "",
        *wrap(
            f"`make bench-gpu`: {report['card']['name']}, {report['machine']['cores']} cores; "
            f"`{report['pipeline']}` on a rendered region of {width} x {height} px, from decoded pixels; "
            f"{report['threads']} tiles in flight. *Busy* is the share of time in which the GPU ran something, as "
            "nvidia-smi sees it.",
            width=100,
        ),
        "",
        "| device | callers | p50 | p95 | Mpx/s | cells/s | busy | memory |",
        "|---|---|---|---|---|---|---|---|",
        *(_gpu_row(device, load) for device, found in report["devices"].items() for load in found["loads"]),
        "",
        "| network alone, images/s in batches of | " + " | ".join(_batches(report)) + " |",
        "|---|" + "---|" * len(_batches(report)),
        *(
            f"| {name}, {device} | " + " | ".join(f"{rate:.0f}" for rate in rates.values()) + " |"
            for device, found in report["devices"].items()
            for name, rates in found["images_per_s"].items()
        ),
    ]


def _batches(report: dict[str, Any]) -> list[str]:
    figures = next(iter(report["devices"].values()))
    return list(next(iter(figures["images_per_s"].values())))


def _gpu_row(device: str, load: dict[str, Any]) -> str:
    gpu = load["gpu"]
    return (
        f"| {device} | {load['callers']} | {load['p50_s'] * 1e3:.0f} ms | {load['p95_s'] * 1e3:.0f} ms "
        f"| {load['megapixels_per_s']:.0f} | {load['cells_per_s']:.0f} | {gpu['share']:.0%} "
        f"| {gpu['peak_memory_mib'] / 1024:.1f} GiB |"
    )


def _load(results: Path) -> list[str]:
    """The section on load, when `benchmarks.load` has measured it."""
    path = results / "load.json"
    if not path.is_file():
        return []
    report = json.loads(path.read_text(encoding="utf-8"))
    return [
        "",
        "## Under load",
        "",
        *_load_head(report),
        "",
        *_LOAD_TABLE,
        *(_load_row(_callers(figures["users"]), figures) for figures in report["closed"]),
        *(_load_row(f"{figures['rate_per_s']:.2f} a second arriving", figures) for figures in report["open"]),
        "",
        "![callers that wait for their answer](load-closed.png)",
        "",
        "![regions that arrive whatever becomes of them](load-open.png)",
    ]


def _soak(results: Path) -> list[str]:
    """The section on minutes of load, when `benchmarks.load` has measured them."""
    path = results / "load-soak.json"
    if not path.is_file():
        return []
    report = json.loads(path.read_text(encoding="utf-8"))
    soak = report["soak"]
    name = f"{soak['figures']['seconds'] / 60:g} minutes of {_callers(soak['figures']['users'])}"
    return [
        "",
        f"## {name}",
        "",
        *_load_head(report),
        "",
        *_LOAD_TABLE,
        _load_row(name, soak["figures"]),
        "",
        f"Memory: at most {soak['peak_mib']:.0f} MiB; {soak['growth_mib_per_hour']:+.0f} MiB an hour later on.",
        *([f"This was {report['note']}."] if "note" in report else []),
        "",
        "![memory](load-soak.png)",
    ]


_LOAD_TABLE = (
    "| load | regions/s | p50 | p95 | p99 | answered | turned away | errors | wrong |",
    "|---|---|---|---|---|---|---|---|---|",
)


def _callers(count: int) -> str:
    return f"{count} caller{'s' if count > 1 else ''}"


def _load_head(report: dict[str, Any]) -> list[str]:
    cells, side, machine = report["cells"], report["side_px"], report["machine"]
    return wrap(
        f"`make bench-load`: `{report['pipeline']}` on {len(cells)} regions of {side} x {side} px with "
        f"{min(cells)} to {max(cells)} cells; {report['places']} places, {machine['cores']} cores, load "
        f"{report['load_before']:g} before. Every answer is compared with the one the region gets by itself; "
        "*turned away* is 429 with `Retry-After`.",
        width=100,
    )


def _load_row(name: str, figures: dict[str, Any]) -> str:
    latency = figures["latency"]
    seconds = [f"{latency[key]:.2f} s" for key in ("p50_s", "p95_s", "p99_s")] if latency else ["-"] * 3
    counts = [str(figures[key]) for key in ("answered", "rejected", "errors", "wrong")]
    return " | ".join(["| " + name, f"{figures['throughput_per_s']:.2f}", *seconds, *counts]) + " |"


def _accuracy(results: Path) -> list[str]:
    """The section on accuracy, when `benchmarks.accuracy` has been run."""
    path = results / "accuracy.json"
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
