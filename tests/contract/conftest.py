"""A served process for the session, and a factory for others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest

from long_slide import write_long_slide
from served_jobs import SLIDE, StartJobs, submit, succeeded
from served_process import Server, StartServer, Upload, free_port, launch
from slidecascade_render.liver.slides import write_slide
from slidecascade_render.liver.tissue import TissueOptions, render
from toy_pipeline import ToyPipeline

MPP = 0.5


@pytest.fixture(scope="session")
def started_servers() -> Iterator[list[Server]]:
    """All that `start_server` has started; what is left in it at the end is stopped."""
    started: list[Server] = []
    yield started
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def shared_servers() -> list[Server]:
    """Those that tests of several modules use."""
    return []


@pytest.fixture(scope="module", autouse=True)
def _servers_end_with_their_module(started_servers: list[Server], shared_servers: list[Server]) -> Iterator[None]:
    """A server takes half a gigabyte, and the session starts fifty."""
    yield
    for server in [server for server in started_servers if server not in shared_servers]:
        server.stop()
        started_servers.remove(server)


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory, started_servers: list[Server]) -> StartServer:
    """Starts ``slidecascade serve`` with the settings given; it is stopped at the end of the module."""

    def start(*, slides: Path | None = None, models: Path | None = None, **settings: object) -> Server:
        port = free_port()
        command = [sys.executable, "-m", "slidecascade", "serve", "--port", str(port)]
        command += ["--slides", str(slides)] if slides else []
        command += ["--models", str(models)] if models else []
        server = launch(command, port=port, home=tmp_path_factory.mktemp("home"), **settings)
        started_servers.append(server)
        return server

    return start


@pytest.fixture(scope="session")
def server(start_server: StartServer, shared_servers: list[Server], slide_root: Path) -> Server:
    """One process for all tests that do not stop or overload it."""
    shared_servers.append(start_server(slides=slide_root, max_upload_bytes=2**23))
    return shared_servers[-1]


@pytest.fixture(scope="session")
def slide_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one rendered slide, twice, and a link that leads out of it."""
    root = tmp_path_factory.mktemp("slides")
    (root / "ward 7").mkdir()
    write_slide(root / "rendered.tiff", TissueOptions(seed=1, mpp=MPP), 1024, 768)
    (root / "ward 7" / "nested.tiff").write_bytes((root / "rendered.tiff").read_bytes())
    outside = tmp_path_factory.mktemp("outside") / "outside.tiff"
    outside.write_bytes((root / "rendered.tiff").read_bytes())
    (root / "link.tiff").symlink_to(outside)
    return root


@pytest.fixture(scope="session")
def job_toy(tmp_path_factory: pytest.TempPathFactory) -> ToyPipeline:
    """The models and pipelines that jobs are tested with."""
    return ToyPipeline(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def job_slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one slide of several fields."""
    folder = tmp_path_factory.mktemp("job-slides")
    write_long_slide(folder / SLIDE)
    return folder


@pytest.fixture(scope="session")
def start_job_server(start_server: StartServer, job_toy: ToyPipeline, job_slides: Path) -> StartJobs:
    """Starts a server that takes jobs in the folder given."""

    def start(jobs_dir: Path, **settings: object) -> Server:
        fields = {"pipelines_dir": job_toy.pipelines_dir, "threads": 2, "jobs_min_free_bytes": 0, **settings}
        return start_server(slides=job_slides, models=job_toy.models_dir, jobs_dir=jobs_dir, **fields)

    return start


@pytest.fixture(scope="session")
def job_server(
    start_job_server: StartJobs, shared_servers: list[Server], tmp_path_factory: pytest.TempPathFactory
) -> Server:
    """One process for all tests of jobs that do not stop it."""
    shared_servers.append(start_job_server(tmp_path_factory.mktemp("jobs") / "jobs"))
    return shared_servers[-1]


@pytest.fixture(scope="session")
def done_job(job_server: Server) -> str:
    """The id of a job that has succeeded."""
    return succeeded(job_server, str(submit(job_server)["id"]))


@pytest.fixture(scope="session")
def tissue_png() -> bytes:
    """Rendered tissue of `MPP` micrometres per pixel, 256 x 256 px."""
    image = render(TissueOptions(seed=1, mpp=MPP), width_px=256, height_px=256).image
    return bytes(cv2.imencode(".png", image[:, :, ::-1])[1])


@pytest.fixture
def stalled() -> Iterator[Callable[[Server], Upload]]:
    """Begins uploads that wait; all are closed at the end."""
    uploads: list[Upload] = []

    def begin(server: Server, *, path: str = "/v1/regions") -> Upload:
        before = server.metric("slidecascade_bodies_arriving")
        uploads.append(Upload(server, path=path))
        server.wait(lambda: server.metric("slidecascade_bodies_arriving") == before + 1)
        return uploads[-1]

    yield begin
    for upload in uploads:
        upload.close()
