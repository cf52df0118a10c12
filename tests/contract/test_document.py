"""The OpenAPI document holds for the served process: what Schemathesis makes of it finds no difference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import tifffile

import generated_requests
import toy_kinds
from served_process import Server, StartServer
from slidecascade.access.keys import KeyFile
from toy_pipeline import ToyPipeline, blobs

HERE = Path(__file__).parent
RUN_S = 540.0
SEED = "20261126"
JOB = {"pipeline": "toy", "slide": generated_requests.SLIDE, "mpp": 0.5}


@pytest.fixture(scope="module")
def everything(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server with a slide, pipelines of all kinds, models and jobs."""
    folder = tmp_path_factory.mktemp("everything")
    toy = ToyPipeline(folder)
    toy_kinds.write_models(toy.models_dir)
    toy_kinds.write_pipelines(toy.pipelines_dir, toy_kinds.AREAS, toy_kinds.PATCHES)
    slides = folder / "slides"
    slides.mkdir()
    tifffile.imwrite(
        slides / generated_requests.SLIDE, blobs(3, 700, 420, 100), tile=(256, 256), photometric="rgb"
    )
    return start_server(
        slides=slides,
        models=toy.models_dir,
        pipelines_dir=toy.pipelines_dir,
        threads=1,
        jobs_dir=folder / "jobs",
        jobs_min_free_bytes=0,
    )


@pytest.fixture(scope="module")
def keyed(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Server, str]:
    """A server with keys, and one that may do everything."""
    folder = tmp_path_factory.mktemp("keyed")
    toy = ToyPipeline(folder)
    key = KeyFile(folder / "keys.json").create("lab", ["admin"])
    settings = {"keys_file": folder / "keys.json", "jobs_dir": folder / "jobs", "jobs_min_free_bytes": 0}
    return start_server(models=toy.models_dir, pipelines_dir=toy.pipelines_dir, threads=1, **settings), key


@pytest.fixture(scope="module")
def finished(everything: Server) -> str:
    """The id of a job that has succeeded."""
    job = str(httpx.post(f"{everything.url}/v1/jobs", json=JOB, timeout=30).raise_for_status().json()["id"])

    def is_done() -> bool:
        return bool(httpx.get(f"{everything.url}/v1/jobs/{job}", timeout=30).json()["status"] == "succeeded")

    everything.wait(is_done, seconds=60)
    return job


def generate(
    server: Server, folder: Path, config: str, *options: str, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """A run of Schemathesis over the document of `server`, the same every time."""
    program = "from schemathesis.cli import schemathesis; schemathesis()"
    command = [sys.executable, "-c", program, "--config-file", str(HERE / config), "run"]
    command += [f"{server.url}/openapi.json", "--seed", SEED, "--no-shrink", "--continue-on-failure"]
    command += ["--request-timeout", "30", "--checks", "all", "--warnings", "off", *options]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=RUN_S, check=False
    )


def test_generated_requests_with_a_key_are_answered_as_the_document_says(
    keyed: tuple[Server, str], tmp_path: Path
) -> None:
    """And those without one, or with a wrong one, are not let in. `SCHEMATHESIS_EXAMPLES` makes it longer."""
    server, key = keyed
    options = ["-n", os.environ.get("SCHEMATHESIS_EXAMPLES", "2"), "--phases", "fuzzing"]
    options += ["--header", f"Authorization: Bearer {key}"]
    run = generate(server, tmp_path, "schemathesis.toml", *options, environment=plain())
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]


def test_generated_requests_are_answered_as_the_document_says(everything: Server, tmp_path: Path) -> None:
    """Right and wrong ones by its schemas: statuses, media types, bodies and methods are those it states."""
    run = generate(
        everything, tmp_path, "schemathesis.toml", "-n", "20", "--phases", "coverage,fuzzing", environment=plain()
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]


def test_requests_for_what_is_there_are_answered_as_the_document_says(
    everything: Server, finished: str, tmp_path: Path
) -> None:
    """Regions that are analysed, jobs that run and end, files, networks; one after the other, too."""
    environment = plain() | {"SCHEMATHESIS_HOOKS": "generated_requests", generated_requests.JOB: finished}
    options = ["-n", "15", "--phases", "coverage,fuzzing,stateful"]
    run = generate(everything, tmp_path, "schemathesis_named.toml", *options, environment=environment)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]


def test_generated_requests_leave_no_fault_in_the_log(everything: Server) -> None:
    """No unexpected error, and the server still answers."""
    faults = [line for line in everything.lines() if line["message"] == "unexpected error"]
    assert not faults, json.dumps(faults)[:3000]
    assert httpx.get(f"{everything.url}/readyz", timeout=30).status_code == 200


def plain() -> dict[str, str]:
    """This process's environment, with the tests' modules to import."""
    path = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}
