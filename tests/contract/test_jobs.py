"""Jobs over HTTP: accepted once, worked on whatever happens, fetched in pieces."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

import toy_kinds
from long_slide import HEIGHT, MPP, WIDTH, write_long_slide
from served_process import Server, StartServer
from slidecascade.cli import main
from slidecascade_client import (
    AsyncClient,
    Client,
    IdempotencyMismatchError,
    InvalidRequestError,
    JobCancelledError,
    JobFinishedError,
    UnknownJobError,
)
from toy_pipeline import ToyPipeline

LIMIT_S = 120.0
SLIDE = "Ward 7 patient.tif"
JOB = {"pipeline": "toy", "slide": SLIDE, "mpp": MPP}
GEOJSON = {"Accept": "application/geo+json"}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyPipeline:
    toy = ToyPipeline(tmp_path_factory.mktemp("toy"))
    toy_kinds.write_models(toy.models_dir)
    toy_kinds.write_pipelines(toy.pipelines_dir, toy_kinds.AREAS, toy_kinds.PATCHES)
    return toy


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    write_long_slide(folder / SLIDE)
    return folder


@pytest.fixture(scope="module")
def start_jobs(start_server: StartServer, toy: ToyPipeline, slides: Path) -> Callable[..., Server]:
    """Starts a server that takes jobs in the folder given."""

    def start(jobs_dir: Path, **settings: object) -> Server:
        fields = {"pipelines_dir": toy.pipelines_dir, "threads": 2, "jobs_min_free_bytes": 0, **settings}
        return start_server(slides=slides, models=toy.models_dir, jobs_dir=jobs_dir, **fields)

    return start


@pytest.fixture(scope="module")
def jobs_server(start_jobs: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    return start_jobs(tmp_path_factory.mktemp("jobs") / "jobs")


@pytest.fixture(scope="module")
def finished(jobs_server: Server) -> str:
    """The id of a job that has succeeded."""
    job = str(submit(jobs_server)["id"])
    assert ended(jobs_server, job)["status"] == "succeeded"
    return job


def submit(server: Server, *, key: str | None = None, **fields: object) -> dict[str, Any]:
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = httpx.post(f"{server.url}/v1/jobs", json=JOB | fields, headers=headers, timeout=30)
    assert answer.status_code in (200, 202), answer.text
    reported: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{reported['id']}"
    return reported


def show(server: Server, job: str) -> dict[str, Any]:
    reported: dict[str, Any] = httpx.get(f"{server.url}/v1/jobs/{job}", timeout=30).raise_for_status().json()
    return reported


def ended(server: Server, job: str) -> dict[str, Any]:
    server.wait(lambda: show(server, job)["finished_at"] is not None, seconds=LIMIT_S)
    return show(server, job)


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["type"].removeprefix("urn:slidecascade:problem:")


def features(text: bytes) -> list[bytes]:
    return sorted(line.rstrip(b",") for line in text.splitlines()[1:-1])


def region_features(server: Server) -> list[bytes]:
    answer = httpx.post(f"{server.url}/v1/regions", json=JOB, headers=GEOJSON, timeout=LIMIT_S)
    return features(answer.raise_for_status().content)


def test_a_job_has_the_cells_of_the_region(jobs_server: Server, finished: str) -> None:
    """The same features byte for byte, ids included; several fields; progress and times that add up."""
    reported = show(jobs_server, finished)
    answer = httpx.get(f"{jobs_server.url}/v1/jobs/{finished}/result", headers=GEOJSON, timeout=30)
    assert features(answer.content) == region_features(jobs_server)
    assert reported["progress"]["fields_done"] == reported["progress"]["fields_total"] > 2
    assert reported["progress"]["fraction"] == 1.0
    assert reported["created_at"] <= reported["started_at"] <= reported["finished_at"]
    document = json.loads(answer.content)
    assert (
        len(document["features"])
        == reported["progress"]["cells"]
        == sum(document["slidecascade"]["counts"].values())
    )


def test_results_are_negotiated(jobs_server: Server, finished: str) -> None:
    """Summary, heatmap, GeoParquet, zip; what the job did not write is not acceptable."""
    url = f"{jobs_server.url}/v1/jobs/{finished}/result"

    def get(media_type: str, **query: str) -> httpx.Response:
        answer = httpx.get(url, headers={"Accept": media_type}, params=query, timeout=30)
        assert answer.headers["content-type"] == media_type if answer.status_code == 200 else True
        return answer

    cells = get("application/json").json()["cells"]
    assert get("image/png", heatmap="red").content.startswith(b"\x89PNG")
    assert problem(get("image/png", heatmap="blue")) == (404, "unknown-heatmap")
    parquet = get("application/vnd.apache.parquet").content
    assert pq.read_table(io.BytesIO(parquet)).num_rows == cells
    with zipfile.ZipFile(io.BytesIO(get("application/zip").content)) as archive:
        assert set(archive.namelist()) == {
            "cells.geojson",
            "summary.json",
            "heatmaps/red.png",
            "overlay.png",
            "figures/red.png",
            "figures/overlay.png",
        }
        assert len(json.loads(archive.read("cells.geojson"))["features"]) == cells
    assert problem(httpx.get(url, headers={"Accept": "text/csv"}, timeout=30)) == (406, "not-acceptable")
    light = submit(jobs_server, outputs=["parquet"])["id"]
    assert ended(jobs_server, light)["status"] == "succeeded"
    answer = httpx.get(f"{jobs_server.url}/v1/jobs/{light}/result", headers=GEOJSON, timeout=30)
    assert problem(answer) == (406, "not-acceptable")


def test_files_are_fetched_in_pieces(jobs_server: Server, finished: str) -> None:
    """Listed with their sizes; a range of one is what the whole has there; an unknown name is not found."""
    url = f"{jobs_server.url}/v1/jobs/{finished}/files"
    files = httpx.get(url, timeout=30).json()["files"]
    listed = {file["name"]: file["bytes"] for file in files}
    assert set(listed) == {
        "cells.geojson.gz", "cells.parquet", "figures/overlay.png", "figures/red.png", "heatmaps/red.png",
        "heatmaps/red.tiff",         "overlay.png", "summary.json",
    }  # fmt: skip
    whole = httpx.get(f"{url}/cells.parquet", timeout=30)
    assert len(whole.content) == listed["cells.parquet"]
    for file in files:
        content = httpx.get(f"{url}/{file['name']}", headers={"Accept-Encoding": "identity"}, timeout=30).content
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        assert file["sha1"] == hashlib.sha1(content, usedforsecurity=False).hexdigest()
    part = httpx.get(
        f"{url}/cells.parquet", headers={"Range": "bytes=100-199", "If-Range": whole.headers["etag"]}, timeout=30
    )
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    for name in ("nothing.json", "..%2Fframe.json", "%2e%2e/frame.json", ".digests.json"):
        assert httpx.get(f"{url}/{name}", timeout=30).status_code == 404


def test_cells_of_a_box(jobs_server: Server, finished: str) -> None:
    """Those whose boxes meet it, with the features of the whole; a class; too many are refused, not sampled."""
    url = f"{jobs_server.url}/v1/jobs/{finished}/cells"
    result = httpx.get(f"{jobs_server.url}/v1/jobs/{finished}/result", headers=GEOJSON, timeout=30).content
    x, y, width, height = 4000, 50, 900, 200
    expected = []
    for line in features(result):
        ring = json.loads(line)["geometry"]["coordinates"][0]
        xs, ys = [point[0] for point in ring], [point[1] for point in ring]
        if min(xs) < x + width and max(xs) > x and min(ys) < y + height and max(ys) > y:
            expected.append(line)
    query = {"bbox": f"{x},{y},{width},{height}"}
    assert features(httpx.get(url, params=query, timeout=30).content) == expected
    assert len(expected) > 10
    name = json.loads(expected[0])["properties"]["classification"]["name"]
    chosen = features(httpx.get(url, params=query | {"class": name}, timeout=30).content)
    assert chosen == [line for line in expected if f'"classification":{{"name":"{name}"'.encode() in line]
    assert problem(httpx.get(url, params=query | {"limit": "5"}, timeout=30)) == (413, "result-too-large")
    assert problem(httpx.get(url, params=query | {"class": "x"}, timeout=30)) == (422, "invalid-request")
    assert problem(httpx.get(url, params={"bbox": "1,2"}, timeout=30)) == (422, "invalid-request")


def test_a_key_makes_one_job(jobs_server: Server) -> None:
    """Sent again it gives the same job with 200; with another body it is refused."""
    first = submit(jobs_server, key="case-7/slide-2", label="a")
    again = httpx.post(
        f"{jobs_server.url}/v1/jobs", json=JOB | {"label": "a"}, headers={"Idempotency-Key": "case-7/slide-2"}
    )
    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    other = httpx.post(
        f"{jobs_server.url}/v1/jobs", json=JOB | {"label": "b"}, headers={"Idempotency-Key": "case-7/slide-2"}
    )
    assert problem(other) == (422, "idempotency-mismatch")
    httpx.post(f"{jobs_server.url}/v1/jobs/{first['id']}/cancel")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"slide": "none.tif"}, (404, "unknown-slide")),
        ({"pipeline": "none"}, (404, "unknown-pipeline")),
        ({"mpp": None}, (422, "missing-resolution")),
        ({"region": {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT + 1}}, (422, "region-outside-slide")),
        ({"thresholds": {"other": 0.5}}, (422, "invalid-request")),
        ({"outputs": ["svg"]}, (422, "invalid-request")),
        ({"outputs": ["rle", "grid"]}, (422, "invalid-request")),  # of a pipeline of cells
        ({"outputs": ["dicom"]}, (422, "invalid-request")),  # of a slide that is not DICOM
        ({"notify": "lis"}, (422, "invalid-request")),
    ],
)
def test_what_cannot_work_is_not_accepted(
    jobs_server: Server, fields: dict[str, object], expected: tuple[int, str]
) -> None:
    """The problem a region would have, at once."""
    assert problem(httpx.post(f"{jobs_server.url}/v1/jobs", json=JOB | fields, timeout=30)) == expected
    url, is_json = f"{jobs_server.url}/v1/jobs", {"Content-Type": "application/json"}
    assert problem(httpx.post(url, content=b"[", headers=is_json, timeout=30)) == (400, "malformed-request")
    assert problem(httpx.post(url, content=b"[", timeout=30)) == (415, "unsupported-media-type")


def test_states_and_their_problems(start_jobs: Callable[..., Server], tmp_path: Path) -> None:
    """Cancel, retry, delete, each refused in the wrong state; a job beyond the bound is refused."""
    server = start_jobs(tmp_path / "jobs", max_jobs=1, max_fields_in_flight=1)
    url = f"{server.url}/v1/jobs"
    job = submit(server)["id"]
    assert problem(httpx.post(url, json=JOB)) == (429, "overloaded")
    assert problem(httpx.get(f"{url}/{job}/result")) == (409, "job-not-finished")
    assert problem(httpx.delete(f"{url}/{job}")) == (409, "job-not-finished")
    assert problem(httpx.post(f"{url}/{job}/retry")) == (409, "job-not-finished")
    server.wait(lambda: show(server, job)["progress"]["fields_done"] >= 1, seconds=LIMIT_S)

    assert httpx.post(f"{url}/{job}/cancel").json()["status"] == "cancelled"
    assert problem(httpx.post(f"{url}/{job}/cancel")) == (409, "job-finished")
    done = show(server, job)["progress"]["fields_done"]
    retried = httpx.post(f"{url}/{job}/retry")
    assert (retried.status_code, retried.json()["status"]) == (202, "queued")
    reported = ended(server, job)
    assert (reported["status"], reported["progress"]["fields_done"]) == (
        "succeeded",
        reported["progress"]["fields_total"],
    )
    assert done >= 1
    assert problem(httpx.post(f"{url}/{job}/retry")) == (409, "job-finished")
    assert (tmp_path / "jobs" / job).is_dir()
    assert httpx.delete(f"{url}/{job}").status_code == 204
    assert not (tmp_path / "jobs" / job).exists()
    assert problem(httpx.get(f"{url}/{job}")) == (404, "unknown-job")
    assert server.stop() == 0


def test_jobs_are_listed_page_by_page(jobs_server: Server) -> None:
    """The newest first, each once, those of a label; a made-up cursor is refused."""
    made = [submit(jobs_server, label="batch 4")["id"] for _ in range(5)]
    url = f"{jobs_server.url}/v1/jobs"
    seen: list[str] = []
    query = {"label": "batch 4", "limit": "2"}
    while True:
        page = httpx.get(url, params=query).json()
        seen += [job["id"] for job in page["jobs"]]
        if page["cursor"] is None:
            break
        query["cursor"] = page["cursor"]
    assert seen == made[::-1]
    for job in made:
        httpx.post(f"{url}/{job}/cancel")
    assert len(httpx.get(url, params={"label": "batch 4", "status": "cancelled"}).json()["jobs"]) == 5
    for cursor in ("nonsense", base64.urlsafe_b64encode(b"1.0 \0").decode()):
        assert problem(httpx.get(url, params={"cursor": cursor})) == (422, "invalid-request")


def test_jobs_are_counted(jobs_server: Server, finished: str) -> None:
    """By status, at every scrape."""
    listed = httpx.get(f"{jobs_server.url}/v1/jobs", params={"status": "succeeded", "limit": "500"}).json()["jobs"]
    assert finished in {job["id"] for job in listed}
    assert jobs_server.metric('slidecascade_jobs{status="succeeded"}') == len(listed)


def test_a_job_is_followed_by_events(jobs_server: Server) -> None:
    """``progress`` until ``done``; a client that reconnects with the last id gets no event twice."""
    job = submit(jobs_server)["id"]
    names, last = [], ""
    with httpx.stream("GET", f"{jobs_server.url}/v1/jobs/{job}/events", timeout=LIMIT_S) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
            if line.startswith("id: "):
                assert line != last
                last = line
    assert names[-1] == "done"
    assert set(names[:-1]) == {"progress"}


def test_areas_are_a_job_too(jobs_server: Server, tmp_path: Path) -> None:
    """The areas of a job are those of the region; run lengths, mask, summary, files and the client have them."""
    job = str(submit(jobs_server, pipeline="toy-areas")["id"])
    assert_lists_no_cells(jobs_server, job)
    result = f"{jobs_server.url}/v1/jobs/{job}/result"
    region = {"pipeline": "toy-areas", "slide": SLIDE, "mpp": MPP}
    for accept in ("text/csv", GEOJSON["Accept"]):
        ours = httpx.get(result, headers={"Accept": accept}, timeout=60).raise_for_status()
        whole = httpx.post(
            f"{jobs_server.url}/v1/regions", json=region, headers={"Accept": accept}, timeout=60
        ).raise_for_status()
        if accept == "text/csv":
            assert ours.text == whole.text
            assert ours.text.startswith("id,encoding\n")
        else:
            assert ours.json()["features"] == whole.json()["features"]
            assert whole.json()["features"]
    with Client(jobs_server.url) as client:
        found = client.job(job).result()
        assert len(found.areas) == len(whole.json()["features"])
        names = {path.name for path in client.job(job).fetch(tmp_path).rglob("*") if path.is_file()}
    assert names == {
        "areas.geojson.gz", "areas_rle.csv", "mask.tiff", "overlay.png", "red.png", "red.tiff", "summary.json"
    }  # fmt: skip
    few = str(submit(jobs_server, pipeline="toy-areas", outputs=["rle"])["id"])
    assert ended(jobs_server, few)["status"] == "succeeded"
    files = httpx.get(f"{jobs_server.url}/v1/jobs/{few}/files", timeout=30).json()["files"]
    assert {item["name"] for item in files} == {"areas_rle.csv", "overlay.png", "summary.json"}


def test_a_lattice_is_a_job_too(jobs_server: Server, tmp_path: Path) -> None:
    """The grid of a job is that of the region; GeoJSON, zip, files and the client have it."""
    job = str(submit(jobs_server, pipeline="toy-patches")["id"])
    assert_lists_no_cells(jobs_server, job)
    assert_has_no_fields(jobs_server, job)
    result = f"{jobs_server.url}/v1/jobs/{job}/result"
    grid = httpx.get(result, headers={"Accept": "text/csv"}, timeout=60).raise_for_status()
    assert grid.headers["content-type"].startswith("text/csv")
    box = {"x": 0, "y": 0, "width": 512, "height": HEIGHT}
    region = {"pipeline": "toy-patches", "slide": SLIDE, "mpp": MPP, "region": box}
    part = httpx.post(
        f"{jobs_server.url}/v1/regions", json=region, headers={"Accept": "text/csv"}, timeout=60
    ).raise_for_status()
    rows = set(grid.text.splitlines())
    assert 1 < len(part.text.splitlines()) <= len(rows)
    assert rows.issuperset(part.text.splitlines())
    tiles = httpx.get(result, headers=GEOJSON, timeout=60).json()["features"]
    assert sum(item["properties"]["objectType"] == "tile" for item in tiles) == len(rows) - 1
    with Client(jobs_server.url) as client:
        found = client.job(job).result()
        assert len(found.tiles) == len(rows) - 1
        names = {path.name for path in client.job(job).fetch(tmp_path).rglob("*") if path.is_file()}
    assert names >= {"tiles.geojson.gz", "grid.csv", "summary.json", "overlay.png"}


def test_cells_are_listed_of_the_file_that_a_job_was_asked_for(jobs_server: Server, finished: str) -> None:
    """A job of cells links to them, one without `parquet` among its outputs does not."""
    assert show(jobs_server, finished)["links"]["cells"] == f"/v1/jobs/{finished}/cells"
    assert_lists_no_cells(jobs_server, str(submit(jobs_server, outputs=["geojson"])["id"]))


def assert_lists_no_cells(server: Server, job: str) -> None:
    """The job succeeds without a link to its cells; a request for them names the cause, in `errors` too."""
    reported = ended(server, job)
    assert reported["status"] == "succeeded", reported
    assert reported["links"]["files"]
    assert reported["links"]["cells"] is None
    cells = httpx.get(f"{server.url}/v1/jobs/{job}/cells?bbox=0,0,9,9", timeout=30)
    assert problem(cells) == (422, "invalid-request")
    assert [(item["field"], item["message"]) for item in cells.json()["errors"]] == [
        ("job_id", cells.json()["detail"])
    ]


def assert_has_no_fields(server: Server, job: str) -> None:
    """A request for the cells of a field of a finished job names the cause, as one for all cells does."""
    field = httpx.get(f"{server.url}/v1/jobs/{job}/fields/0", timeout=30)
    assert problem(field) == (422, "invalid-request")
    assert "finds no cells" in field.json()["detail"]


def test_no_room_on_the_disk(start_jobs: Callable[..., Server], tmp_path: Path) -> None:
    """A job is not accepted when there is no room for its results."""
    server = start_jobs(tmp_path / "jobs", jobs_min_free_bytes=2**60)
    assert problem(httpx.post(f"{server.url}/v1/jobs", json=JOB, timeout=30)) == (507, "storage-full")
    server.stop()


def test_without_a_folder_jobs_are_disabled(server: Server) -> None:
    """The routes are not there, nor in the description of the API."""
    assert httpx.get(f"{server.url}/v1/jobs").status_code == 404
    assert not [path for path in httpx.get(f"{server.url}/openapi.json").json()["paths"] if "jobs" in path]


def test_a_second_process_cannot_use_the_folder(start_jobs: Callable[..., Server], tmp_path: Path) -> None:
    """SQLite is for one process: the second one does not start."""
    first = start_jobs(tmp_path / "jobs")
    with pytest.raises(AssertionError):
        start_jobs(tmp_path / "jobs")
    assert first.stop() == 0


def test_a_stop_in_order_leaves_the_work_to_the_next_process(
    start_jobs: Callable[..., Server], tmp_path: Path
) -> None:
    """SIGTERM ends the process within the fields at hand, which the next process takes over.

    A job is running before its first field is taken from the queue, and between two fields: then a stop leaves
    nothing to be taken over. So there are several jobs, and many fields at a time.
    """
    server = start_jobs(tmp_path / "jobs", max_fields_in_flight=8, drain_notice_s=0.0)
    jobs = [submit(server)["id"] for _ in range(4)]
    server.wait(lambda: works_at_hand(tmp_path / "jobs") >= 4, seconds=LIMIT_S)
    assert server.stop() == 0
    assert works_at_hand(tmp_path / "jobs") > 0
    again = start_jobs(tmp_path / "jobs")
    assert [ended(again, job)["status"] for job in jobs] == ["succeeded"] * len(jobs)
    assert "work taken over" in again.log.read_text(encoding="utf-8")
    assert again.stop() == 0


def works_at_hand(folder: Path) -> int:
    """What processes have taken from the queue and not ended, by the database in the folder of jobs."""
    with closing(sqlite3.connect(folder / "jobs.sqlite", timeout=30)) as database:
        count: int = database.execute("SELECT count(*) FROM workflow_status WHERE status = 'PENDING'").fetchone()[
            0
        ]
    return count


def test_logs_and_names_of_files_hold_no_slide(jobs_server: Server, finished: str) -> None:
    """Neither the slide's name nor a label is in a log line or in the folder of jobs."""
    submit(jobs_server, label="Meier, Erika")
    text = jobs_server.log.read_text(encoding="utf-8")
    assert finished in text
    assert "Ward" not in text
    assert "Meier" not in text


def test_the_client_submits_follows_and_fetches(jobs_server: Server, tmp_path: Path) -> None:
    """The README's lines: progress, result, cells of a box, files, the problems as types."""
    with Client(jobs_server.url) as client:
        job = client.submit(SLIDE, pipeline="toy", mpp=MPP, label="client", idempotency_key="client-1")
        assert (
            client.submit(SLIDE, pipeline="toy", mpp=MPP, label="client", idempotency_key="client-1").id == job.id
        )
        with pytest.raises(IdempotencyMismatchError):
            client.submit(SLIDE, pipeline="toy", mpp=0.4, label="client", idempotency_key="client-1")
        steps = list(job.progress(poll_s=0.1))
        assert steps[-1].fraction == 1.0
        with job.result() as result:
            assert len(result.cells) == result.summary.cells == steps[-1].cells
            result.save(tmp_path / "result")
        box = job.cells(bbox=(0, 0, 500, HEIGHT))
        assert {cell.id for cell in box} <= {cell.id for cell in result.cells}
        assert len(box) > 5
        assert job.fetch(tmp_path / "files") == tmp_path / "files"
        assert {path.name for path in (tmp_path / "files").iterdir()} == {
            "cells.geojson.gz", "cells.parquet", "figures", "heatmaps", "overlay.png", "summary.json",
        }  # fmt: skip
        assert [found.id for found in client.jobs(label="client")] == [job.id]
        with pytest.raises(JobFinishedError):
            job.cancel()
        stopped = client.submit(SLIDE, pipeline="toy", mpp=MPP)
        stopped.cancel()
        with pytest.raises(JobCancelledError):
            stopped.result()
        stopped.delete()
        with pytest.raises(UnknownJobError):
            client.job(stopped.id)
        with pytest.raises(InvalidRequestError, match="Nothing was sent"):
            client.submit(SLIDE, pipeline="toy", outputs=["svg"])


async def test_the_asynchronous_client_does_the_same(jobs_server: Server, tmp_path: Path) -> None:
    """Submit, progress, result, cells, files, list, cancel."""
    async with AsyncClient(jobs_server.url) as client:
        job = await client.submit(SLIDE, pipeline="toy", mpp=MPP, label="later")
        steps = [step async for step in job.progress(poll_s=0.1)]
        with await job.result() as result:
            assert len(result.cells) == steps[-1].cells
        assert len(await job.cells(bbox=(0, 0, 500, HEIGHT))) > 5
        assert (await job.fetch(tmp_path / "files") / "cells.parquet").is_file()
        assert [found.id async for found in client.jobs(label="later")] == [job.id]
        with pytest.raises(JobFinishedError):
            await job.cancel()
        await job.delete()


def test_the_command_line_does_the_same(
    jobs_server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """submit with --out, list, show, fetch, cancel: exit codes and files."""
    of = ["jobs", "--url", jobs_server.url]
    words = ["submit", SLIDE, "--pipeline", "toy", "--mpp", str(MPP), "--label", "cli"]
    assert main([*of, *words, "--out", str(tmp_path / "out")]) == 0
    job = capsys.readouterr().out.split()[0]
    assert (tmp_path / "out" / "cells.geojson.gz").is_file()
    assert main([*of, "list", "--label", "cli"]) == 0
    assert job in capsys.readouterr().out
    assert main([*of, "show", job]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "succeeded"
    assert main([*of, "fetch", job, "--out", str(tmp_path / "again")]) == 0
    assert main([*of, "cancel", job]) == 2
    assert "job-finished" in capsys.readouterr().err
    assert main([*of, "submit", "none.tif", "--pipeline", "toy"]) == 2
