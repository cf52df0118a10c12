"""Channels by meaning, end to end: over HTTP, by the client, on the command line and in a job."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from served_jobs import GEOJSON, features, problem
from served_process import Server, StartServer, environment
from slidecascade import wire
from slidecascade_client import Client, UnknownChannelError
from toy_channels import field_of, tiff, write_pipeline, write_stack

SLIDE = "two.ome.tiff"
PIPELINE = "toy-nuclear"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of two channels: many nuclei, and few others."""
    folder = tmp_path_factory.mktemp("channels")
    write_pipeline(folder, PIPELINE, ["nuclear"])
    (folder / "slides").mkdir()
    write_stack(folder / "slides" / SLIDE, field_of(3)[[0, 2]])
    return folder


@pytest.fixture(scope="module")
def served(folder: Path, start_server: StartServer) -> Server:
    return start_server(
        slides=folder / "slides",
        models=folder / "models",
        pipelines_dir=folder / "pipelines",
        jobs_dir=folder / "jobs",
        jobs_min_free_bytes=0,
        threads=2,
    )


def ask(served: Server, accept: str = wire.JSON, **fields: Any) -> httpx.Response:
    request = {"pipeline": PIPELINE, "slide": SLIDE} | fields
    files = {"request": (None, json.dumps(request))}
    return httpx.post(f"{served.url}/v1/regions", files=files, headers={"Accept": accept}, timeout=120)


@pytest.fixture(scope="module")
def expected(served: Server) -> list[bytes]:
    """The cells of the first channel, as a region over HTTP has them."""
    answer = ask(served, wire.GEOJSON, channels={"nuclear": "DAPI"})
    assert answer.status_code == 200, answer.text
    found = features(answer.content)
    assert 45 < len(found) <= 60
    return found


def test_the_slide_lists_its_channels(served: Server) -> None:
    with Client(served.url) as client:
        assert list(client.slide(SLIDE).channels) == ["DAPI", "CD45"]


def test_a_region_is_answered_for_the_channel_asked_for(served: Server, expected: list[bytes]) -> None:
    """By index as by name; the answer states which it was, and how it was scaled."""
    by_index = ask(served, wire.GEOJSON, channels={"nuclear": 0})
    assert features(by_index.content) == expected
    summary = ask(served, channels={"nuclear": 1}).json()
    used = summary["facts"]["channels"]["nuclear"]
    assert (used["index"], used["name"]) == (1, "CD45")
    assert used["low"] < used["high"]
    assert 15 < sum(summary["counts"].values()) <= 25


@pytest.mark.parametrize("channels", [{}, {"nuclear": "CD3"}, {"nuclear": 2}])
def test_a_channel_that_is_not_there_is_unknown_channel(served: Server, channels: dict[str, Any]) -> None:
    """With the names there are."""
    answer = ask(served, channels=channels)
    assert problem(answer) == (404, "unknown-channel")
    assert "0 (DAPI), 1 (CD45)" in answer.json()["detail"]


def test_the_client_sends_channels(served: Server, folder: Path, expected: list[bytes]) -> None:
    """Of a slide of the service, and of the same file sent as an image."""
    with Client(served.url) as client:
        of_slide = client.analyze_region(slide=SLIDE, pipeline=PIPELINE, channels={"nuclear": "dapi"})
        of_image = client.analyze_region(
            folder / "slides" / SLIDE, pipeline=PIPELINE, mpp=0.5, channels={"nuclear": 0}
        )
        assert len(of_slide.cells) == len(of_image.cells) == len(expected)
        with pytest.raises(UnknownChannelError, match="CD45"):
            client.analyze_region(slide=SLIDE, pipeline=PIPELINE, channels={"nuclear": "CD3"})


def test_a_job_uses_the_channel_asked_for(served: Server, expected: list[bytes]) -> None:
    with Client(served.url) as client:
        job = client.submit(SLIDE, pipeline=PIPELINE, channels={"nuclear": "DAPI"})
        assert job.wait().status == "succeeded"
        answer = httpx.get(f"{served.url}/v1/jobs/{job.id}/result", headers=GEOJSON, timeout=30)
    assert features(answer.content) == expected


@pytest.mark.parametrize("stored", [{}, {"compression": "zlib"}, {"tile": (64, 64)}])
def test_a_job_of_an_uploaded_stack_uses_the_channel_asked_for(served: Server, stored: dict[str, Any]) -> None:
    """However its channels are stored, also in strips, which OpenSlide does not read."""
    data = tiff(field_of(3)[[0, 2]], photometric="minisblack", **stored)
    request = json.dumps({"pipeline": PIPELINE, "mpp": 0.5, "channels": {"nuclear": 0}})
    files: dict[str, tuple[str | None, bytes]] = {
        "image": ("stack.tif", data),
        "request": (None, request.encode()),
    }
    answer = httpx.post(f"{served.url}/v1/jobs", files=files, timeout=60)
    assert answer.status_code == 202, answer.text
    found = features(httpx.get(f"{served.url}{_done(served, answer)}/result", headers=GEOJSON, timeout=30).content)
    assert 45 < len(found) <= 60


def _done(served: Server, answer: httpx.Response) -> str:
    path = f"/v1/jobs/{answer.json()['id']}"
    served.wait(lambda: httpx.get(f"{served.url}{path}", timeout=30).json()["status"] == "succeeded", seconds=120)
    return path


def test_the_command_line_uses_the_channel_asked_for(folder: Path, tmp_path: Path, expected: list[bytes]) -> None:
    """Of the file itself, without a service."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "slidecascade", "analyze", str(folder / "slides" / SLIDE)]
    command += ["--pipeline", PIPELINE, "--out", str(out), "--channels", "nuclear=0"]
    settings = environment(tmp_path, models_dir=folder / "models", pipelines_dir=folder / "pipelines", threads=2)
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    (geojson,) = out.glob("*.geojson")
    assert features(geojson.read_bytes()) == expected
    wrong = subprocess.run(
        [*command[:-1], "nuclear=CD3"], env=settings, capture_output=True, text=True, check=False, timeout=300
    )
    assert wrong.returncode != 0
    assert "0 (DAPI), 1 (CD45)" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def shown(served: Server, looks: str | None, part: str = "dzi_files/9/0_0.jpeg") -> np.ndarray:
    """The pixels of a tile, or of another part, with these channels."""
    query = {} if looks is None else {"channels": looks}
    answer = httpx.get(f"{served.url}/v1/slides/{SLIDE}/{part}", params=query, timeout=30)
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)), np.int64)


def test_a_tile_shows_the_channels_asked_for_in_their_colours_and_contrasts(served: Server) -> None:
    red = shown(served, "0:ff0000:0:1")
    assert red[..., 0].max() > 200
    assert red[..., 1:].mean() < 5
    assert np.abs(shown(served, "0:00ff00:0:1")[..., 1] - red[..., 0]).mean() < 5
    both = shown(served, "0:ff0000:0:1,1:00ff00:0:1")
    assert both[..., 0].mean() > 5
    assert both[..., 1].mean() > 0.2
    assert shown(served, "0:ff0000:0:4")[..., 0].mean() < red[..., 0].mean() / 2
    assert np.abs(shown(served, "0:ff0000:0:1", "thumbnail")[..., 1:]).mean() < 5
    # The picture of all channels is another one, also to those who keep it.
    assert np.abs(shown(served, None) - red).mean() > 5


@pytest.mark.parametrize("looks", ["", "0", "0:ff0000:1:0", "7:ff0000:0:1", "0:ff0000:0:1,", "x:ff0000:0:1"])
def test_impossible_channels_of_a_picture_are_invalid(served: Server, looks: str) -> None:
    url = f"{served.url}/v1/slides/{SLIDE}/dzi_files/9/0_0.jpeg"
    assert problem(httpx.get(url, params={"channels": looks}, timeout=30)) == (422, "invalid-request")
