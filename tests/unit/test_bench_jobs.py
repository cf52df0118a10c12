"""What the page says of measured jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.jobs.__main__ import Report
from benchmarks.jobs.section import section
from benchmarks.record import Provenance


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
        "measured": {"jobs": {"commit": "1", "load": 0.1}, "resume": {"commit": "2", "load": 3.0}},
        "jobs": [job(16384, 4, 100.0, 1000), job(32768, 16, 405.0, 1050)],
        "checkpoints": [{"database": "SQLite", "cpu_ms": 25.3125}],
        "resume": {"done_at_kill": 5, "done_again": 0, "threads": 2, "lost_fields": 1.25},
    }
    (tmp_path / "jobs.json").write_text(json.dumps(figures), encoding="utf-8")

    lines = section(tmp_path)

    assert "Load averages when the parts ended: jobs 0.1 (commit `1`), resume 3 (commit `2`)." in " ".join(lines)
    for line in (
        "| 32768 px against 16384 px, 4 times the area | 4.05 times the CPU, 4.05 times as long |",
        "| peak memory of the largest slide over that of the smallest | 1.05 |",
        "| the same of a field's time, slide of 32768 px, SQLite | 0.10% |",
        "| fields done before kill -9 that were done again, of 5 | 0 |",
        "| a million cells | not measured |",
        "| two workers of one thread against one of two | not measured |",
    ):
        assert line in lines


def test_a_measurement_that_is_stopped_keeps_what_it_has_found(tmp_path: Path) -> None:
    """The file has each part as soon as it is measured; what is not measured anew stays, with its commit."""
    path = tmp_path / "jobs.json"

    def provenance(commit: str) -> Provenance:
        return Provenance(commit=commit, changed=False, networks={}, machine=None)

    earlier = Report(path, provenance("1"), parts=["cells", "people"])
    earlier.add("cells", {"cells": 1})
    earlier.add("people", {"regions": 2})
    Report(path, provenance("2"), parts=["people"]).add("people", {"regions": 3})

    found = json.loads(path.read_text(encoding="utf-8"))
    assert (found["cells"], found["people"]) == ({"cells": 1}, {"regions": 3})
    assert {name: of["commit"] for name, of in found["measured"].items()} == {"cells": "1", "people": "2"}
