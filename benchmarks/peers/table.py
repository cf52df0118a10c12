"""The figures as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import record
from benchmarks.peers.figures import Load, Spread, Standing

_HEADS = (
    "SlideCascade's throughput over it",
    "its p95 over SlideCascade's",
    "regions/s",
    "p50",
    "p95",
    "processor time of it over SlideCascade's (each region)",
    "cells",
    "target",
)


def page(standings: Sequence[Standing], document: Mapping[str, Any]) -> str:
    """Everything a reader needs to judge the figures; `document` is what is written as JSON beside it."""
    machine, plan, cells = document["machine"], document["plan"], document["cells"]
    loads = sorted(plan["loads"], reverse=True)
    asked = (
        f"Written by `make bench-peers`. The `{document['pipeline']}` pipeline on {plan['cases']} rendered "
        f"regions of {plan['side_px']} x {plan['side_px']} px at {document['mpp']} um/px, {min(cells)} to "
        f"{max(cells)} cells each. Everybody gets the same PNG, gives GeoJSON, has the same ONNX graphs (Keras: "
        "their weights), and reads, decodes, crops and encodes by the service's own code; what differs is how "
        "networks are run and how regions and calls meet. Before it is timed, each has to find the same cells."
    )
    sent = " or ".join(f"{regions} regions by {_count(callers, 'caller')}" for callers, regions in loads)
    loop = (
        f"Closed loop: {sent} in a round, {_count(plan['rounds'], 'round')}, all contenders in turn, those that "
        "wait held still. Ratios are taken round by round (median, and range over rounds) and carry over to other "
        f"machines; seconds do not. Warm-up: {document['warm_up']}."
    )
    on = (
        f"Machine: {machine['processor']}, {machine['cores']} cores, load {document['load_before']} before; "
        f"{_pairs(document['versions'])}; models {_pairs(document['models'], 12)}."
    )
    tables = (table(standings, callers) for callers, _ in loads)
    settings = "\n".join(f"- **{standing.title}**: {_settings(standing)}." for standing in standings)
    provenance = " ".join(record.line(document, in_full=True))
    note = [f"**{document['note']}**"] if "note" in document else []
    title = "# Against other ways to serve the same networks"
    return (
        "\n\n".join(
            [title, *note, asked, loop, on, provenance, *tables, "## Settings", settings, *_tuning(standings)]
        )
        + "\n"
    )


def _settings(standing: Standing) -> str:
    if not standing.knobs:
        return standing.setup
    chosen = f" (the fastest of {len(standing.trials)} choices)" if standing.trials else ""
    return f"{standing.setup}; {standing.knobs}{chosen}"


def _tuning(standings: Sequence[Standing]) -> list[str]:
    """What was tried before measuring, when anything was."""
    rows = [
        f"| {standing.title} | {trial.knobs} | {trial.failure or f'{trial.regions_per_s:.2f}'} "
        f"| {'chosen' if trial.knobs == standing.knobs else ''} |"
        for standing in standings
        for trial in standing.trials
    ]
    if not rows:
        return []
    head = ["| contender | settings | regions/s | |", "|---|---|---|---|"]
    return [
        "## Settings that were tried",
        "Each by itself, before the rounds above, on regions that are not among those measured.",
        "\n".join([*head, *rows]),
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _pairs(named: Mapping[str, str], digits: int | None = None) -> str:
    return ", ".join(f"{name} {value[:digits]}" for name, value in named.items())


def table(standings: Sequence[Standing], callers: int) -> str:
    """A row per contender under `callers` callers, ratios first."""
    lines = [
        " | ".join([f"| {_count(callers, 'caller')}", *_HEADS]) + " |",
        "|---" * (len(_HEADS) + 1) + "|",
    ]
    for standing in standings:
        load = next((each for each in standing.loads if each.callers == callers), None)
        lines.append(_absent(standing) if load is None else _row(standing, load))
    return "\n".join(lines)


def _row(standing: Standing, load: Load) -> str:
    ours = standing.name == "ours"
    cells = [
        standing.title,
        "1" if ours else _times(load.throughput_ratio),
        "1" if ours else _times(load.latency_ratio),
        f"{load.regions_per_s.median:.2f} ({load.regions_per_s.least:.2f} to {load.regions_per_s.most:.2f})",
        f"{load.p50_s:.2f} s",
        f"{load.p95_s:.2f} s",
        f"{load.cpu_ratio.median:.2f} ({load.cpu_s.median:.2f} s)",
        cells_of(standing),
        _target(standing, load),
    ]
    return "| " + " | ".join(cells) + " |"


def _times(ratio: Spread) -> str:
    return f"**{ratio.median:.2f} x** ({ratio.least:.2f} to {ratio.most:.2f})"


def cells_of(standing: Standing) -> str:
    """In words, whether a contender finds the same cells."""
    found = standing.agreement
    if found is None:
        return "-"
    if not found.same:
        return (
            f"{found.missing} missing, {found.added} added, {found.other_class} in other classes of {found.cells}"
        )
    return "the same" if found.least_iou == 1 else f"the same, outlines at an IoU of {found.least_iou:.3f} or more"


def _target(standing: Standing, load: Load) -> str:
    met = standing.met()
    # Targets are about the most callers.
    return (
        "-"
        if met is None or load.callers < max(each.callers for each in standing.loads)
        else f"{standing.target:g} x: {'met' if met else 'missed'}"
    )


def _absent(standing: Standing) -> str:
    reason = standing.absent or "not measured under this load"
    return f"| {standing.title} | {' | '.join(['-'] * (len(_HEADS) - 1))} | {reason} |"
