"""Jobs of a served process, asked after over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from long_slide import MPP
from served_process import Server

LIMIT_S = 120.0
SLIDE = "Ward 7 patient.tif"
JOB: dict[str, Any] = {"pipeline": "toy", "slide": SLIDE, "mpp": MPP}
GEOJSON = {"Accept": "application/geo+json"}

StartJobs = Callable[..., Server]
"""Starts a server that takes jobs in the folder given."""


def submit(server: Server, *, key: str | None = None, **fields: object) -> dict[str, Any]:
    """The job of `JOB` with other `fields`."""
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = httpx.post(f"{server.url}/v1/jobs", json=JOB | fields, headers=headers, timeout=30)
    assert answer.status_code in (200, 202), answer.text
    reported: dict[str, Any] = answer.json()
    return reported


def show(server: Server, job: str) -> dict[str, Any]:
    reported: dict[str, Any] = httpx.get(f"{server.url}/v1/jobs/{job}", timeout=30).raise_for_status().json()
    return reported


def ended(server: Server, job: str) -> dict[str, Any]:
    """The job when it has ended."""
    server.wait(lambda: show(server, job)["finished_at"] is not None, seconds=LIMIT_S)
    return show(server, job)


def succeeded(server: Server, job: str) -> str:
    """The id of a job, once it has succeeded."""
    reported = ended(server, job)
    assert reported["status"] == "succeeded", reported
    return job


def problem(answer: httpx.Response) -> tuple[int, str]:
    """The status and the name of a problem."""
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["type"].removeprefix("urn:slidecascade:problem:")


def features(text: bytes) -> list[bytes]:
    """The lines of the features of a GeoJSON answer, sorted."""
    return sorted(line.rstrip(b",") for line in text.splitlines()[1:-1])


def folders(jobs_dir: Path) -> set[str]:
    """The folders of jobs."""
    return {path.name for path in jobs_dir.iterdir() if path.is_dir()}
