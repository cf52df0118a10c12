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
            *_regions(results),
            *_halo(results),
            *_accuracy(results),
            *_load(results),
            *_soak(results),
            *_gpu(results),
            *_peers(results),
        ]
    )


def _regions(results: Path) -> list[str]:
    """The section on regions against whole slides, when `benchmarks.regions` has measured them."""
    path = results / "regions.json"
    if not path.is_file():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    with_cells = [row for row in rows if row["cells"]]
    cells = sum(row["cells"] for row in rows)
    wrong = sum(_wrong(row) for row in rows)
    return [
        "## One slide, one answer",
        "",
        *wrap(
            f"`python -m benchmarks.regions`: {sum(row['regions'] for row in rows)} regions of random places and "
            "sizes, with random tiles, seams and threads, by single runs and by a batcher, against the whole "
            f"slide: {cells - wrong} of {cells} cells ({(cells - wrong) / max(1, cells):.3%}) have the same "
            "outline, class, probabilities to the last bit, and id. Slides without cells are left out.",
            width=100,
        ),
        "",
        "| slide | um/px | own level | whole | in regions | missing | extra | class | probabilities | id |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {row['slide']} | {row['mpp']:g} | {'yes' if row['own_level'] else 'no'} | {row['whole']} "
            f"| {row['cells']} | {row['missing']} | {row['extra']} | {row['other_class']} "
            f"| {row['other_probabilities']} | {row['other_id']} |"
            for row in with_cells
        ),
        "",
    ]


def _wrong(row: dict[str, Any]) -> int:
    names = ("missing", "extra", "other_class", "other_probabilities", "other_id")
    return sum(int(row[name]) for name in names)


def _halo(results: Path) -> list[str]:
    """What the slide around a region costs, when `benchmarks.halo` and `benchmarks.commits` have measured it."""
    path = results / "halo.json"
    if not path.is_file():
        return []
    lines = [
        "## What the slide around a region costs",
        "",
        "`python -m benchmarks.halo`: square regions in the middle of a slide at the segmenter's pixel size.",
        "*Before* a network saw the region alone. Pixels are those the segmenter was given; seconds are of a",
        "loaded machine, both in turn.",
        "",
        "| side | pixels before | after | ratio | seconds before | after |",
        "|---|---|---|---|---|---|",
    ]
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        before, after = row["before_pixels"], row["after_pixels"]
        lines.append(
            f"| {row['side_px']} px | {before / 1e6:.3f} M | {after / 1e6:.3f} M | {after / before:.2f} x "
            f"| {row['before_seconds']:.2f} s | {row['after_seconds']:.2f} s |"
        )
    commits = results / "commits.json"
    if commits.is_file():
        found = json.loads(commits.read_text(encoding="utf-8"))
        lines += [
            "",
            *wrap(
                f"`python -m benchmarks.commits`: the upload of the first table by both in turn, {found['cells']} "
                f"cells: {found['after_over_before_seconds']:.2f} times as long as before, "
                f"{found['after_over_before_cpu_s']:.2f} times the seconds of cores (load {found['load']}); "
                f"a million cells are written in {found['writing_cpu_s']['after']:.1f} s, before in "
                f"{found['writing_cpu_s']['before']:.1f} s.",
                width=100,
            ),
        ]
    return [*lines, ""]


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
