"""Jobs on their way in: uploads that go to the disk, batches, the origin of their coordinates."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from long_slide import MPP
from served_jobs import GEOJSON, JOB, LIMIT_S, SLIDE, StartJobs, ended, features, folders, problem, show, succeeded
from served_process import Server
from slidecascade.cli import main
from slidecascade_client import AsyncClient, Client, InvalidRequestError, SlideCascadeClientError
from toy_pipeline import blobs

TOY = {"pipeline": "toy", "mpp": MPP}


@pytest.fixture(scope="module")
def png() -> bytes:
    return bytes(cv2.imencode(".png", blobs(5, 900, 400, 80)[:, :, ::-1])[1])


def post(server: Server, image: bytes, *, key: str | None = None, **fields: Any) -> httpx.Response:
    """Upload an image as a job."""
    headers = {} if key is None else {"Idempotency-Key": key}
    files: dict[str, Any] = {"request": (None, json.dumps(TOY | fields)), "image": ("Doe, Jane.png", image)}
    return httpx.post(f"{server.url}/v1/jobs", files=files, headers=headers, timeout=60)


def result(server: Server, job: str) -> list[bytes]:
    answer = httpx.get(f"{server.url}/v1/jobs/{job}/result", headers=GEOJSON, timeout=30).raise_for_status()
    return features(answer.content)


def test_an_uploaded_image_has_the_cells_of_the_region(job_server: Server, png: bytes) -> None:
    """The features of POST /v1/regions byte for byte, ids included; the job names no slide."""
    answer = post(job_server, png)
    assert answer.status_code == 202, answer.text
    job = succeeded(job_server, answer.json()["id"])
    assert answer.json()["slide"] is None
    files: dict[str, Any] = {"request": (None, json.dumps(TOY)), "image": ("x", png)}
    region = httpx.post(f"{job_server.url}/v1/regions", files=files, headers=GEOJSON, timeout=60)
    assert len(result(job_server, job)) > 20
    assert result(job_server, job) == features(region.content)


def test_an_uploaded_slide_is_a_slide(job_server: Server, job_slides: Path, done_job: str) -> None:
    """A TIFF that OpenSlide reads has the cells and the ids of the same slide named by its id."""
    answer = post(job_server, (job_slides / SLIDE).read_bytes())
    job = succeeded(job_server, answer.json()["id"])
    assert result(job_server, job) == result(job_server, done_job)


def test_an_upload_with_a_used_key_is_the_same_job(
    start_job_server: StartJobs, png: bytes, tmp_path: Path
) -> None:
    """200 and no second folder; with another image or request it is a mismatch."""
    server = start_job_server(tmp_path / "jobs")
    first = post(server, png, key="a").json()["id"]
    again = post(server, png, key="a")
    assert (again.status_code, again.json()["id"]) == (200, first)
    other = bytes(cv2.imencode(".png", blobs(6, 900, 400, 80))[1])
    assert problem(post(server, other, key="a")) == (422, "idempotency-mismatch")
    assert problem(post(server, png, key="a", mpp=0.4)) == (422, "idempotency-mismatch")
    assert folders(tmp_path / "jobs") == {first}
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("image", "fields", "expected"),
    [
        (b"no image", {}, (422, "undecodable-image")),
        (b"", {}, (422, "undecodable-image")),
        (b"II*\0" + bytes(100), {}, (422, "undecodable-image")),
        (None, {"slide": SLIDE}, (422, "invalid-request")),
        (None, {"mpp": None}, (422, "missing-resolution")),
        (None, {"pipeline": "none"}, (404, "unknown-pipeline")),
        (None, {"mpp": "x"}, (422, "invalid-request")),
    ],
)
def test_an_upload_that_cannot_work_leaves_nothing(
    job_server: Server, png: bytes, image: bytes | None, fields: dict[str, Any], expected: tuple[int, str]
) -> None:
    """The problem a region would have, at once; no folder remains."""
    assert problem(post(job_server, png if image is None else image, **fields)) == expected
    listed = httpx.get(f"{job_server.url}/v1/jobs", params={"limit": "500"}).json()["jobs"]
    assert folders(_jobs_dir(job_server)) <= {job["id"] for job in listed}


def _jobs_dir(server: Server) -> Path:
    """The folder of jobs of a server, as its process was started with."""
    text = Path(f"/proc/{server.process.pid}/environ").read_bytes().decode()
    return Path(
        next(part.partition("=")[2] for part in text.split("\0") if part.startswith("SLIDECASCADE_JOBS_DIR="))
    )


def test_an_upload_is_not_held_in_memory(job_server: Server) -> None:
    """300 MB arrive on the disk; the process grows by a small part of that, and rejects what is no image."""
    megabyte = os.urandom(2**20)
    before = _peak_kib(job_server)
    boundary = "edge"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="request"\r\n\r\n{json.dumps(TOY)}\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    ).encode()

    def body() -> Iterator[bytes]:
        yield head
        for _ in range(300):
            yield megabyte
        yield f"\r\n--{boundary}--\r\n".encode()

    answer = httpx.post(
        f"{job_server.url}/v1/jobs",
        content=body(),
        headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
        timeout=LIMIT_S,
    )
    assert problem(answer) == (413, "upload-too-large")
    assert _peak_kib(job_server) - before < 60 * 1024


def _peak_kib(server: Server) -> int:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def test_a_client_that_leaves_in_an_upload_leaves_nothing(start_job_server: StartJobs, tmp_path: Path) -> None:
    """The connection breaks half way: no job, and no folder after the next start at the latest."""
    server = start_job_server(tmp_path / "jobs")

    def body() -> Iterator[bytes]:
        yield b'--e\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n' + bytes(2**21)
        server.wait(lambda: bool(folders(tmp_path / "jobs")))
        raise RuntimeError("the client leaves")

    with pytest.raises(RuntimeError):
        httpx.post(
            f"{server.url}/v1/jobs", content=body(), headers={"Content-Type": "multipart/form-data; boundary=e"}
        )
    server.wait(lambda: not folders(tmp_path / "jobs"))
    assert httpx.get(f"{server.url}/v1/jobs").json()["jobs"] == []
    assert server.stop() == 0


def test_an_upload_beyond_the_disks_bound_is_not_read(
    start_job_server: StartJobs, tmp_path: Path, png: bytes
) -> None:
    """storage-full before the image is sent in vain."""
    server = start_job_server(tmp_path / "jobs", jobs_min_free_bytes=2**60)
    assert problem(post(server, png)) == (507, "storage-full")
    assert folders(tmp_path / "jobs") == set()
    server.stop()


def test_a_batch_is_answered_job_by_job(job_server: Server) -> None:
    """Good and wrong ones in order, with the status each would have had; the same keys give the same jobs."""
    jobs = [
        JOB | {"idempotency_key": f"batch-{time.time_ns()}", "label": "batch"},
        JOB | {"slide": "none.tif"},
        JOB | {"mpp": -1},
        JOB | {"label": "batch"},
    ]
    headers = {"Idempotency-Key": f"whole-{time.time_ns()}"}
    url = f"{job_server.url}/v1/jobs:batch"
    reported = httpx.post(url, json={"jobs": jobs}, headers=headers, timeout=60).json()["jobs"]
    assert [item["status"] for item in reported] == [202, 404, 422, 202]
    assert [item["problem"] and item["problem"]["type"].rpartition(":")[2] for item in reported] == [
        None, "unknown-slide", "invalid-request", None,
    ]  # fmt: skip
    again = httpx.post(url, json={"jobs": jobs}, headers=headers, timeout=60).json()["jobs"]
    assert [item["status"] for item in again] == [200, 404, 422, 200]
    assert [item["job"] and item["job"]["id"] for item in again] == [
        item["job"] and item["job"]["id"] for item in reported
    ]
    single = httpx.post(
        f"{job_server.url}/v1/jobs",
        json=JOB | {"label": "batch"},
        headers={"Idempotency-Key": str(jobs[0]["idempotency_key"])},
    )
    assert (single.status_code, single.json()["id"]) == (200, reported[0]["job"]["id"])
    for item in reported:
        if item["job"]:
            httpx.post(f"{job_server.url}/v1/jobs/{item['job']['id']}/cancel")


def test_a_batch_has_at_most_500_jobs(start_job_server: StartJobs, tmp_path: Path) -> None:
    """500 are taken in one request, as far as the queue goes; 501 and none are rejected."""
    server = start_job_server(tmp_path / "jobs", max_jobs=400)
    url = f"{server.url}/v1/jobs:batch"
    assert problem(httpx.post(url, json={"jobs": [JOB] * 501}, timeout=60)) == (422, "invalid-request")
    assert problem(httpx.post(url, json={"jobs": []}, timeout=60)) == (422, "invalid-request")
    reported = httpx.post(url, json={"jobs": [JOB] * 500}, timeout=LIMIT_S).json()["jobs"]
    statuses = [item["status"] for item in reported]
    assert len(statuses) == 500
    assert set(statuses[:400]) == {202}
    assert statuses.count(429) >= 90  # a few of the first may have ended meanwhile
    server.stop()


def test_the_client_uploads_a_file_that_exists(job_server: Server, png: bytes, tmp_path: Path) -> None:
    """By its path; an array too; a name that no file has is the id of a slide."""
    path = tmp_path / "image.png"
    path.write_bytes(png)
    with Client(job_server.url) as client:
        job = client.submit(str(path), pipeline="toy", mpp=MPP)
        assert job.info.slide is None
        with job.result() as found:
            assert len(found.cells) > 20
        pixels = client.submit(np.zeros((64, 64, 3), np.uint8), pipeline="toy", mpp=MPP)
        assert pixels.wait().status == "succeeded"
        named = client.submit(SLIDE, pipeline="toy", mpp=MPP)
        assert named.info.slide == SLIDE
        named.cancel()


async def test_the_asynchronous_client_uploads_and_submits_many(
    job_server: Server, png: bytes, tmp_path: Path
) -> None:
    """As the synchronous one: jobs and errors in the order of the requests."""
    path = tmp_path / "image.png"
    path.write_bytes(png)
    async with AsyncClient(job_server.url) as client:
        job = await client.submit(path, pipeline="toy", mpp=MPP)
        assert (await job.wait()).status == "succeeded"
        made = await client.submit_many([JOB, JOB | {"slide": "none"}])
        assert not isinstance(made[0], SlideCascadeClientError)
        await made[0].cancel()
        assert isinstance(made[1], SlideCascadeClientError)
        assert made[1].problem is not None
        assert made[1].problem.name == "unknown-slide"


def test_the_client_submits_many(job_server: Server) -> None:
    """More than one batch; a wrong field is found before anything is sent."""
    with Client(job_server.url) as client:
        made = client.submit_many([JOB | {"pipeline": "none"}] * 501)
        assert len(made) == 501
        assert all(isinstance(error, SlideCascadeClientError) for error in made)
        with pytest.raises(InvalidRequestError, match="Nothing was sent"):
            client.submit_many([JOB | {"mpp": -1}])


def test_the_command_line_uploads(
    job_server: Server, png: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file; several slides at once, of which a wrong one is reported; retry and delete."""
    path = tmp_path / "image.png"
    path.write_bytes(png)
    of = ["jobs", "--url", job_server.url]
    words = ["--pipeline", "toy", "--mpp", str(MPP)]
    assert main([*of, "submit", str(path), *words, "--out", str(tmp_path / "out")]) == 0
    job = capsys.readouterr().out.split()[0]
    assert (tmp_path / "out" / "cells.parquet").is_file()
    assert main([*of, "retry", job]) == 2
    assert main([*of, "delete", job]) == 0
    assert main([*of, "show", job]) == 2
    capsys.readouterr()
    assert main([*of, "submit", SLIDE, "none.tif", *words]) == 2
    captured = capsys.readouterr()
    assert "rejected" in captured.out
    assert "unknown-slide" in captured.err
    assert main([*of, "cancel", captured.out.split()[0]]) == 0


def test_a_job_counts_from_the_origin_it_is_asked_for(job_server: Server) -> None:
    """`origin` is that of a region: in the answer, and one that does not exist is rejected."""
    reported = httpx.post(f"{job_server.url}/v1/jobs", json=JOB | {"origin": "bounds"}, timeout=30)
    job = succeeded(job_server, reported.json()["id"])
    answer = httpx.get(f"{job_server.url}/v1/jobs/{job}/result", headers=GEOJSON, timeout=30)
    assert answer.json()["slidecascade"]["origin"] == "bounds"
    assert problem(httpx.post(f"{job_server.url}/v1/jobs", json=JOB | {"origin": "x"})) == (422, "invalid-request")
    assert ended(job_server, job) == show(job_server, job)
