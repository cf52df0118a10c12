"""What the page says of measured jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.jobs.section import section


def job(side_px: int, fields: int, cpu_s: float, peak_mib: int) -> dict[str, Any]:
    return {
        "side_px": side_px,
        "fields": fields,
        "cells": 1,
        "wall_s": cpu_s / 2,
        "cpu_s": cpu_s,
        "work_cpu_s": cpu_s,
        "network_cpu_s": cpu_s / 1.1,
        "peak_mib": peak_mib,
    }


def test_growth_queue_and_kills_have_rows_of_their_own(tmp_path: Path) -> None:
    """Growth from slide to slide, the queue's share of a field, work done again; the rest is not measured."""
    figures = {
        "gpu": None,
        "loads": [0.1],
        "jobs": [job(16384, 4, 100.0, 1000), job(32768, 16, 405.0, 1050)],
        "checkpoints": [{"database": "SQLite", "cpu_ms": 25.3125}],
        "resume": {"done_at_kill": 5, "done_again": 0, "threads": 2, "lost_fields": 1.25},
    }
    (tmp_path / "jobs.json").write_text(json.dumps(figures), encoding="utf-8")

    lines = section(tmp_path)

    for line in (
        "| 32768 px against 16384 px, 4 times the area | 4.05 times the CPU, 4.05 times as long |",
        "| peak memory of the largest slide over that of the smallest | 1.05 |",
        "| the same of a field's time, slide of 32768 px, SQLite | 0.10% |",
        "| fields done before kill -9 that were done again, of 5 | 0 |",
        "| a million cells | not measured |",
        "| two workers of one thread against one of two | not measured |",
    ):
        assert line in lines
