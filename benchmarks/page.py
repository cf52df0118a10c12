"""The page of `benchmarks/results`: a section of every question whose figures are there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import benchmarks.accuracy.section
import benchmarks.areas.section
import benchmarks.gpu.section
import benchmarks.heads.section
import benchmarks.jobs.section
import benchmarks.lis.section
import benchmarks.load.section
import benchmarks.patches.section
import benchmarks.peers.section
import benchmarks.real_tissue.section
import benchmarks.region.section
import benchmarks.runners.section
import benchmarks.slides.section
import benchmarks.stability.section
import benchmarks.stain.section
import benchmarks.viewer.section
from benchmarks.record import RESULTS, networks_table

SECTIONS: Final[tuple[Callable[[Path], list[str]], ...]] = (
    benchmarks.region.section.section,
    benchmarks.areas.section.section,
    benchmarks.patches.section.section,
    benchmarks.slides.section.section,
    benchmarks.stability.section.section,
    benchmarks.stain.section.section,
    benchmarks.accuracy.section.section,
    benchmarks.real_tissue.section.section,
    benchmarks.load.section.section,
    benchmarks.runners.section.section,
    benchmarks.heads.section.section,
    benchmarks.gpu.section.section,
    benchmarks.jobs.section.section,
    benchmarks.viewer.section.section,
    benchmarks.lis.section.section,
    benchmarks.peers.section.section,
)


def write_page(results: Path = RESULTS) -> Path:
    """Write the page anew beside its figures; where it is."""
    path = results / "README.md"
    path.write_text(page(results), encoding="utf-8")
    return path


def page(results: Path = RESULTS) -> str:
    """The page, of the figures in `results`; sections whose figures are not there are left out."""
    lines = [
        "# Results",
        "",
        "Written by `make bench-all` and the targets of single questions. Ratios carry over to other machines,",
        "seconds do not.",
    ]
    for section in SECTIONS:
        found = section(results)
        lines += ["", *found] if found else []
    networks = networks_table(results, "\n".join(lines))
    lines += ["", *networks] if networks else []
    return "\n".join(lines) + "\n"
