"""Clients of jobs that leave, guess or err."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import httpx
import pytest

import proc
from long_slide import MPP, write_long_slide
from served_process import Server, StartServer
from slidecascade.cli import main
from toy_pipeline import ToyPipeline

pytestmark = pytest.mark.slow

LIMIT_S = 180.0
BIG_BYTES = 2**30
READ_BYTES = 2**22
SLACK_MIB = 64
NO_JOB = "00000000-0000-4000-8000-000000000000"
ACTIONS = ("", "/result", "/files", "/files/summary.json", "/cells?bbox=0,0,9,9", "/events")


@pytest.fixture(scope="module")
def jobs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs") / "jobs"


@pytest.fixture(scope="module")
def served(start_server: StartServer, jobs_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Server:
    toy = ToyPipeline(tmp_path_factory.mktemp("toy"))
    slides = tmp_path_factory.mktemp("slides")
    write_long_slide(slides / "long.tif")
    return start_server(
        slides=slides,
        models=toy.models_dir,
        jobs_dir=jobs_dir,
        pipelines_dir=toy.pipelines_dir,
        threads=2,
        jobs_min_free_bytes=0,
    )


@pytest.fixture(scope="module")
def job(served: Server) -> str:
    """The id of a job that has succeeded."""
    body = {"pipeline": "toy", "slide": "long.tif", "mpp": MPP, "outputs": ["geojson"]}
    found = str(httpx.post(f"{served.url}/v1/jobs", json=body, timeout=60).raise_for_status().json()["id"])
    url = f"{served.url}/v1/jobs/{found}"
    served.wait(lambda: httpx.get(url, timeout=60).json()["status"] == "succeeded", seconds=LIMIT_S)
    return found


def resident_mib(server: Server) -> float:
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_files(server: Server, name: str) -> int:
    """How many descriptors of the server are open on files of that name."""
    return sum(Path(path).name == name for path in proc.open_files(server.process.pid))


def test_a_client_that_leaves_a_download_of_a_gigabyte_leaves_nothing_behind(
    served: Server, job: str, jobs_dir: Path
) -> None:
    """Its file is closed and its memory given back; the next one resumes where it ended."""
    with (jobs_dir / job / "results" / "big.parquet").open("wb") as file:
        file.truncate(BIG_BYTES)
    path = f"/v1/jobs/{job}/files/big.parquet"
    before = resident_mib(served)
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        got = 0
        while got < READ_BYTES:
            got += len(client.recv(2**16))
        assert open_files(served, "big.parquet") == 1
        assert resident_mib(served) < before + SLACK_MIB
    served.wait(lambda: open_files(served, "big.parquet") == 0)
    answer = httpx.get(f"{served.url}{path}", headers={"Range": f"bytes={BIG_BYTES - 10}-"}, timeout=60)
    assert (answer.status_code, answer.content) == (206, bytes(10))
    assert resident_mib(served) < before + SLACK_MIB


@pytest.mark.parametrize("made_up", [NO_JOB, "..", "%2e%2e", "..%2f..%2fetc", "%25", "*", "a" * 300, "%00"])
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.usefixtures("job")
def test_ids_of_no_job_find_nothing(served: Server, made_up: str, action: str) -> None:
    """Guessed ids, patterns, paths: 404, also while there is a job."""
    answer = httpx.get(f"{served.url}/v1/jobs/{made_up}{action}", timeout=60)
    assert answer.status_code == 404, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("made_up", [NO_JOB, "%25", "*", ".."])
def test_what_is_not_there_cannot_be_changed(served: Server, job: str, made_up: str) -> None:
    """Cancel, retry and delete of ids of no job: 404, and the others stay."""
    for method, action in (("POST", "/cancel"), ("POST", "/retry"), ("DELETE", "")):
        answer = httpx.request(method, f"{served.url}/v1/jobs/{made_up}{action}", timeout=60)
        assert answer.status_code in (404, 405), answer.text
    assert httpx.get(f"{served.url}/v1/jobs/{job}", timeout=60).json()["status"] == "succeeded"


@pytest.mark.parametrize("query", ["status=banana", "limit=0", "limit=x", "cursor=%00", "status=succeeded'--"])
def test_unknown_states_are_rejected(served: Server, query: str) -> None:
    """A list of jobs in a state that does not exist is a wrong request, not an empty list."""
    answer = httpx.get(f"{served.url}/v1/jobs?{query}", timeout=60)
    assert answer.status_code == 422, answer.text


def test_a_job_is_exported_from_the_server(served: Server, job: str, tmp_path: Path) -> None:
    """Only the files that the format needs are fetched, and nothing but the exported file stays."""
    target = tmp_path / "out" / "cells.xml"

    code = main(["export", job, "--url", served.url, "--format", "asap", "--out", str(target)])

    numbers = httpx.get(f"{served.url}/v1/jobs/{job}/files/summary.json", timeout=60).json()
    assert code == 0
    assert target.read_bytes().count(b"<Annotation ") == numbers["cells"] > 0
    assert [path.name for path in target.parent.iterdir()] == ["cells.xml"]
    assert main(["export", NO_JOB, "--url", served.url, "--format", "asap", "--out", str(target)]) == 2
