"""BentoML around the service: its own clients, its own server, its packages."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import REPOSITORY
from served_process import SMALL, Server, Upload, environment, free_port, launch
from slidecascade import wire
from slidecascade.settings import bundled_models_dir

NUCLEI = {"pipeline": "nuclei", "mpp": 0.5}
BENTOML = [sys.executable, "-m", "bentoml"]


CLIENT = """
import json, pathlib, sys, bentoml
url, image, request, method = sys.argv[1:]
fields = {"request": json.loads(request)} if method in ("analyze_region", "submit_job") else json.loads(request)
more = fields | ({"image": pathlib.Path(image)} if image else {})
with bentoml.SyncHTTPClient(url, timeout=120) as client:
    try:
        print(json.dumps(getattr(client, method)(**more)))
    except bentoml.exceptions.BentoMLException as error:
        print(error)
"""


def call(
    server: Server, request: dict[str, Any], image: Path | str = "", *, method: str = "analyze_region"
) -> dict[str, Any]:
    """What BentoML's client is answered; in a process of its own, for it leaves files and warnings behind."""
    command = [sys.executable, "-c", CLIENT, server.url, str(image), json.dumps(request), method]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def serve_command(port: int) -> list[str]:
    return [
        *BENTOML,
        "serve",
        "slidecascade.hosting.bento_entry:SlideCascade",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]


def test_a_bentoml_client_analyses_an_image(server: Server, tissue_png: bytes, tmp_path: Path) -> None:
    """BentoML's client gets the cells and the summary of an upload; they are those of the REST API."""
    (tmp_path / "Doe, Jane.png").write_bytes(tissue_png)
    answer = call(server, NUCLEI, tmp_path / "Doe, Jane.png")

    summary = wire.Summary.model_validate(answer["summary"])
    assert summary.cells == len(answer["cells"]["features"]) > 5
    files = {"image": tissue_png, "request": json.dumps(NUCLEI).encode()}
    rest = httpx.post(f"{server.url}/v1/regions", files=files, timeout=60).json()
    assert answer["cells"]["features"] == rest["features"]


def test_a_bentoml_client_names_a_slide(server: Server) -> None:
    """Without an image the request names a slide."""
    answer = call(server, {"pipeline": "nuclei", "slide": "rendered.tiff", "region": SMALL})

    assert answer["summary"]["coordinate_space"] == "level0-pixels"


def test_a_bentoml_client_submits_jobs(
    job_server: Server, job_slides: Path, tissue_png: bytes, tmp_path: Path
) -> None:
    """Of a slide, and of an image that is uploaded; the key is in the request; problems are the same ones."""
    slide = {"pipeline": "toy", "mpp": 0.5, "slide": next(job_slides.iterdir()).name, "idempotency_key": "native"}
    job = wire.JobInfo.model_validate(call(job_server, slide, method="submit_job"))
    assert wire.JobInfo.model_validate(call(job_server, slide, method="submit_job")).id == job.id
    named = {"job_id": job.id}
    assert wire.JobInfo.model_validate(call(job_server, named, method="show_job")).id == job.id
    stopped = call(job_server, named, method="cancel_job")
    if "status" in stopped and stopped["status"] != 409:  # it may have succeeded meanwhile
        assert wire.JobInfo.model_validate(stopped).status == "cancelled"
    again = wire.Problem.model_validate(call(job_server, named, method="cancel_job"))
    assert again.name == "job-finished"
    unknown = call(job_server, {"job_id": "none"}, method="show_job")
    assert wire.Problem.model_validate(unknown).name == "unknown-job"
    wrong = httpx.post(f"{job_server.url}/show_job", json={"job": "none"})
    assert {item["field"] for item in wrong.json()["errors"]} == {"job", "job_id"}
    (tmp_path / "Doe, Jane.png").write_bytes(tissue_png)
    reported = call(job_server, {"pipeline": "toy", "mpp": 0.5}, tmp_path / "Doe, Jane.png", method="submit_job")
    upload = wire.JobInfo.model_validate(reported)
    job_server.wait(lambda: httpx.get(f"{job_server.url}/v1/jobs/{upload.id}").json()["status"] == "succeeded")
    result = call(job_server, {"job_id": upload.id}, method="job_result")
    summary = wire.Summary.model_validate(result["summary"])
    rest = httpx.get(f"{job_server.url}/v1/jobs/{upload.id}/result", headers={"Accept": wire.GEOJSON}).json()
    assert list(result) == ["summary", "cells"]
    assert result["cells"]["features"] == rest["features"]
    assert summary.cells == len(rest["features"])
    none = call(job_server, {"job_id": "none"}, method="job_result")
    assert wire.Problem.model_validate(none).name == "unknown-job"
    refused = call(job_server, {"pipeline": "none", "slide": "x"}, method="submit_job")
    assert wire.Problem.model_validate(refused).name == "unknown-pipeline"


def test_a_server_without_jobs_says_so_to_bentoml(server: Server) -> None:
    """No folder of jobs: the native method names the setting."""
    reported = call(server, {"pipeline": "nuclei", "slide": "rendered.tiff"}, method="submit_job")
    assert "SLIDECASCADE_JOBS_DIR" in wire.Problem.model_validate(reported).detail


def test_a_bentoml_client_gets_the_problem(server: Server) -> None:
    """Errors of the native route are the same problems."""
    reported = call(server, NUCLEI | {"slide": "../../etc/passwd"})
    assert wire.Problem.model_validate(reported).name == "unknown-slide"


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"content": b"\x80\x05.", "headers": {"Content-Type": "application/vnd.bentoml+pickle"}}, 415),
        (
            {"files": {"image": (None, "http://127.0.0.1:1/x.png"), "request": (None, '{"pipeline": "nuclei"}')}},
            422,
        ),
        ({"json": {"request": NUCLEI | {"mpp": 0}}}, 422),
        ({"json": NUCLEI}, 422),
        ({"data": {"request": json.dumps(NUCLEI)}}, 400),
        ({"data": {"request": json.dumps(NUCLEI | {"pipeline": "gold", "slide": "x"})}}, 404),
        ({"data": {"other": "x"}}, 400),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ({"content": b"", "headers": {}}, 415),
    ],
)
def test_bentomls_own_reader_is_not_reached(server: Server, options: dict[str, Any], status: int) -> None:
    """No pickle is opened and no address fetched; every answer is a problem."""
    response = httpx.post(f"{server.url}/analyze_region", timeout=30, **options)
    assert (response.status_code, response.headers["content-type"]) == (status, wire.PROBLEM)


def test_bentoml_serve_drains(slide_root: Path, tmp_path: Path, stalled: Callable[[Server], Upload]) -> None:
    """Under BentoML's supervisor a region in flight is finished too, and the metrics are ours alone."""
    port = free_port()
    server = launch(serve_command(port), port=port, home=tmp_path, slide_roots=slide_root)
    try:
        upload = stalled(server)
        page = httpx.get(f"{server.url}/metrics").text
        assert "slidecascade_bodies_arriving 1.0" in page
        assert "bentoml_service" not in page
        server.process.send_signal(signal.SIGTERM)
        server.wait(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
        refused = httpx.post(f"{server.url}/v1/regions", json={})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert httpx.get(f"{server.url}/livez").status_code == 200
        assert upload.finish().status_code == 200
        assert server.process.wait(20) == 0
    finally:
        server.stop()
    stdout = (tmp_path / "stdout.txt").read_text()
    assert not re.search(r"Traceback|rendered|/v1/", stdout + server.log.read_text().replace('"/v1/regions"', ""))


def test_bentoml_serve_refuses_a_bad_model_once(tmp_path: Path) -> None:
    """The supervisor ends with one sentence instead of starting workers again and again."""
    models = tmp_path / "models"
    shutil.copytree(bundled_models_dir() / "nuclei-unet", models / "nuclei-unet")
    for path in models.rglob("model.onnx"):
        path.write_bytes(path.read_bytes() + b"\0")
    variables = environment(tmp_path, models_dir=models)
    ended = subprocess.run(
        serve_command(free_port()), env=variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert "nuclei-unet" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_service_packs_as_a_bento(tmp_path: Path) -> None:
    """`bentoml build` takes the code, the models and the pinned requirements, and finds the service."""
    command = [*BENTOML, "build", str(REPOSITORY), "--output", "tag"]
    built = subprocess.run(
        command, env=environment(tmp_path), capture_output=True, text=True, timeout=120, check=False
    )
    assert built.returncode == 0, built.stderr
    (folder,) = (path for path in (tmp_path / "bentos" / "slidecascade").iterdir() if path.is_dir())
    packed = {path.relative_to(folder / "src").as_posix() for path in (folder / "src").rglob("*")}
    assert {
        "service/slidecascade/hosting/bento_entry.py",
        "service/slidecascade/pipelines/nuclei.yaml",
    } <= packed
    assert "models/nuclei-unet/1/model.onnx" in packed
    assert not any("tests" in path or "__pycache__" in path for path in packed)
    assert "bentoml==" in (folder / "env" / "python" / "requirements.txt").read_text()
    assert "PYTHONPATH=/home/bentoml/bento/src/service" in (folder / "env" / "docker" / "Dockerfile").read_text()
