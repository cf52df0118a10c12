"""The figures as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.figures import Standing

_SIZE = (8.0, 4.5)


def plot(standings: Sequence[Standing], path: Path, *, callers: int) -> None:
    """How many times SlideCascade's throughput, and how much shorter its p95, against every contender."""
    from matplotlib.figure import Figure

    shown = [
        (standing.title, load)
        for standing in reversed(standings)
        for load in standing.loads
        if load.callers == callers and standing.name != "ours"
    ]
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    for offset, colour, label, ratios in (
        (0.18, "tab:blue", "throughput", [load.throughput_ratio for _, load in shown]),
        (-0.18, "tab:orange", "p95 latency", [load.latency_ratio for _, load in shown]),
    ):
        medians = [ratio.median for ratio in ratios]
        errors = [
            [ratio.median - ratio.least for ratio in ratios],
            [ratio.most - ratio.median for ratio in ratios],
        ]
        rows = [row + offset for row in range(len(shown))]
        axes.barh(rows, medians, 0.34, xerr=errors, color=colour, ecolor="0.3", label=label)
        for row, median in zip(rows, medians, strict=True):
            axes.annotate(f" {median:.1f}", (median, row), va="center", fontsize="small")
    axes.axvline(1, color="k", linewidth=1)
    axes.set_yticks(range(len(shown)), [title for title, _ in shown])
    axes.set(xscale="log", xlabel=f"times better is SlideCascade ({callers} callers)")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
