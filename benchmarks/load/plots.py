"""What a load test found, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.load.exchanges import Figures
from benchmarks.load.memory import Sample

_SIZE = (7.0, 4.0)


def plot_closed(rounds: Sequence[Figures], path: Path) -> None:
    """Throughput and latency against the number of callers."""
    figure, throughput, latency = _axes("callers", "regions answered per second", "latency (s)")
    users = [figures.users for figures in rounds]
    throughput.plot(users, [figures.throughput_per_s for figures in rounds], "ko-", label="throughput")
    _plot_latencies(latency, users, rounds)
    throughput.set_xscale("log", base=2)
    throughput.set_xticks(users, [str(number) for number in users])
    _save(figure, path)


def plot_open(rounds: Sequence[Figures], path: Path) -> None:
    """What becomes of regions that arrive at a rate, and the latency of those that are answered."""
    figure, throughput, latency = _axes("regions arriving per second", "regions per second", "latency (s)")
    rates = [figures.rate_per_s for figures in rounds]
    throughput.plot(rates, [figures.throughput_per_s for figures in rounds], "ko-", label="answered in time")
    rejected = [figures.rejected / figures.seconds for figures in rounds]
    throughput.plot(rates, rejected, "k^:", label="rejected")
    _plot_latencies(latency, rates, rounds)
    _save(figure, path)


def plot_memory(samples: Sequence[Sample], path: Path) -> None:
    """Resident memory over the soak."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    axes.plot([sample.at_s / 60 for sample in samples], [sample.resident_mib for sample in samples], "k-")
    # With room above: a level line would lie on the frame.
    top_mib = 1.15 * max(sample.resident_mib for sample in samples)
    axes.set(xlabel="minutes", ylabel="resident memory (MiB)", ylim=(0, top_mib))
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _axes(x: str, left: str, right: str) -> tuple[Any, Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    first = figure.subplots()
    second = first.twinx()
    first.set(xlabel=x, ylabel=left, ylim=(0, None))
    second.set(ylabel=right)
    first.grid(alpha=0.3)
    return figure, first, second


def _plot_latencies(axes: Any, x: Sequence[float | None], rounds: Sequence[Figures]) -> None:
    for name, colour in (("p50_s", "tab:green"), ("p95_s", "tab:orange"), ("p99_s", "tab:red")):
        seconds = [getattr(figures.latency, name) if figures.latency else None for figures in rounds]
        axes.plot(x, seconds, ".--", color=colour, label=name.removesuffix("_s"))
    axes.set_ylim(0, None)


def _save(figure: Any, path: Path) -> None:
    figure.legend(loc="outside upper center", ncols=5, fontsize="small")
    figure.savefig(path, dpi=120)
