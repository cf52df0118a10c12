"""Attacks on a served process: names that must stay inside, injected lines, frames, ports, links."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import odd_images
import proc
from open_sockets import Listening, listening
from served_process import Server, StartServer, free_port
from slidecascade.access.keys import KeyFile
from slidecascade_render.liver.slides import write_slide
from slidecascade_render.liver.tissue import TissueOptions
from toy_pipeline import ToyPipeline

NAME = "MUSTERMANN-Maria-4711"
"""What must not be found in anything that the service writes."""


@dataclass(frozen=True)
class House:
    """A server with keys, a port for metrics, and the folders it writes to."""

    server: Server
    key: str
    metrics_url: str
    written: tuple[Path, ...]

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(
            base_url=self.server.url,
            timeout=120,
            headers={"X-API-Key": self.key, "Accept": "application/json", **headers},
        )


@pytest.fixture(scope="module")
def house(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> House:
    folder = tmp_path_factory.mktemp("house")
    toy = ToyPipeline(folder)
    slides, scratch, audit = (folder / name for name in ("slides", "scratch", "audit"))
    for made in (slides, scratch):
        made.mkdir()
    write_slide(slides / f"{NAME}.tiff", TissueOptions(seed=1, mpp=0.5), 512, 512)
    key = KeyFile(folder / "keys.json").create("lab", ["admin"])
    port = free_port()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TMPDIR", str(scratch))
        server = start_server(
            slides=slides,
            models=toy.models_dir,
            pipelines_dir=toy.pipelines_dir,
            threads=1,
            decoders=1,
            keys_file=folder / "keys.json",
            audit_dir=audit,
            jobs_dir=folder / "jobs",
            jobs_min_free_bytes=0,
            metrics_port=port,
        )
    return House(server, key, f"http://127.0.0.1:{port}", (scratch, audit, server.log.parent))


def test_marked_names_stay_inside(house: House) -> None:
    """A name in a slide, an upload, a path, a header and a query is in no log, metric, audit line or file."""
    request = {"pipeline": "toy", "mpp": 0.5}
    with house.client(Referer=f"http://{NAME}/", Cookie=f"a={NAME}") as client:
        assert client.get(f"/v1/slides/{NAME}.tiff").status_code == 200
        assert client.get(f"/v1/slides/{NAME}.svs").status_code == 404
        assert client.get(f"/{NAME}", params={"q": NAME}).status_code == 404
        assert client.get(f"/v1/slides/{NAME}.tiff/dzi").status_code == 200
        slide = request | {"slide": f"{NAME}.tiff", "region": {"x": 0, "y": 0, "width": 256, "height": 256}}
        assert client.post("/v1/regions", json=slide).status_code == 200
        assert client.post("/v1/regions", json=slide | {NAME: 1}).status_code == 422
        for data, status in ((odd_images.saved("PNG"), 200), (odd_images.saved("PNG")[:-30], 422)):
            files = {"image": (f"{NAME}.png", data), "request": (NAME, json.dumps(request).encode())}
            assert client.post("/v1/regions", files=files).status_code == status
    house.server.wait(lambda: sum(line["message"] == "request" for line in house.server.lines()) >= 8)
    metrics = httpx.get(f"{house.metrics_url}/metrics", headers={"X-API-Key": house.key}).text
    assert "slidecascade_cells_total" in metrics
    assert NAME not in metrics
    written = [path for folder in house.written for path in folder.rglob("*")]
    assert any(path.is_relative_to(house.written[1]) for path in written)
    for path in written:
        assert NAME not in str(path)
        if path.is_file():
            assert NAME.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    "path",
    ["/v1/slides/a%0d%0a%7B%22level%22:%22error%22%7D", "/v1/slides/a%00b", "/%0aINJECTED", "/v1/jobs/%1b%5B2J"],
)
def test_a_path_writes_no_line_of_its_own(house: House, path: str) -> None:
    """Every line of the log is one JSON object of the service, and holds nothing of the path."""
    with house.client() as client:
        assert client.get(path).status_code == 404
    for line in house.server.log.read_text(encoding="utf-8").splitlines():
        assert set(json.loads(line)) >= {"message", "level"}
        assert "INJECTED" not in line
        assert "\x1b" not in line


@pytest.mark.parametrize("path", ["/viewer/", "/docs", "/v1/slides", "/v1/jobs", "/nothing", "/livez"])
def test_no_page_can_be_framed_or_stored_by_others(house: House, path: str) -> None:
    """Clickjacking needs a frame, cache poisoning a shared cache."""
    with house.client() as client:
        headers = client.get(path).headers
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "public" not in headers["Cache-Control"]
    assert {"no-store", "no-cache", "private"} & set(headers["Cache-Control"].replace(",", "").split())


def test_answers_differ_by_accept_and_say_so(house: House) -> None:
    """A cache that knows one answer must not give it to who asked for another type."""
    request = {"pipeline": "toy", "slide": f"{NAME}.tiff", "region": {"x": 0, "y": 0, "width": 128, "height": 128}}
    for accept in ("application/json", "application/geo+json", "image/png"):
        with house.client(Accept=accept) as client:
            answer = client.post("/v1/regions", json=request)
        assert answer.headers["Content-Type"].startswith(accept)
        assert "Accept" in answer.headers["Vary"].split(", ")
        assert answer.headers["Cache-Control"] == "no-store"


def test_another_site_cannot_write_with_a_browsers_login(house: House) -> None:
    """The login that a browser adds by itself reads only, whatever form a page submits."""
    with httpx.Client(base_url=house.server.url, auth=("any", house.key), timeout=60) as browser:
        assert browser.get("/v1/slides").status_code == 200
        form = {"request": json.dumps({"pipeline": "toy", "slide": "a"})}
        for path in ("/v1/regions", "/v1/jobs", "/analyze_region", "/submit_job"):
            assert browser.post(path, data=form, headers={"Origin": "https://evil.example"}).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https"},
        {"X-Forwarded-User": "admin", "X-Remote-User": "admin", "Remote-User": "admin"},
        {"Forwarded": "for=127.0.0.1;proto=https", "X-Real-IP": "127.0.0.1"},
        {"X-SSL-Client-CN": "lis.hospital.org", "X-Client-Cert": "lis.hospital.org"},
        {"X-Original-URL": "/livez", "X-Rewrite-URL": "/livez", "X-HTTP-Method-Override": "GET"},
    ],
)
def test_what_a_proxy_would_say_is_not_believed(house: House, headers: dict[str, str]) -> None:
    """Nobody becomes somebody else by a header that any client can send."""
    for path in ("/v1/slides", "/metrics", "/v1/notifications"):
        assert httpx.get(f"{house.server.url}{path}", headers=headers).status_code == 401


def test_a_forwarded_host_is_no_host(house: House) -> None:
    """Host decides, and a name that is not served is refused."""
    with house.client(Host="evil.example", **{"X-Forwarded-Host": "localhost"}) as client:
        assert client.get("/v1/slides").status_code == 421


def test_metrics_have_a_port_of_their_own(house: House) -> None:
    """Which has nothing else but health; keys are asked for at both."""
    key = {"X-API-Key": house.key}
    assert httpx.get(f"{house.metrics_url}/metrics", headers=key).status_code == 200
    assert httpx.get(f"{house.metrics_url}/metrics").status_code == 401
    assert httpx.get(f"{house.metrics_url}/livez").status_code == 200
    assert httpx.get(f"{house.metrics_url}/readyz").status_code == 200
    for path in ("/v1/slides", "/v1/jobs", "/viewer/", "/docs", "/v2", "/nothing"):
        assert httpx.get(f"{house.metrics_url}{path}", headers=key).status_code == 404
    assert httpx.post(f"{house.metrics_url}/v1/regions", json={}, headers=key).status_code == 404
    assert httpx.get(f"{house.server.url}/metrics", headers=key).status_code == 404
    assert httpx.get(f"{house.server.url}/livez").status_code == 200


def test_a_scan_finds_the_two_ports_only(house: House) -> None:
    """Service and decoders listen on the port of the API and that of metrics, on loopback, and nowhere else."""
    ports = {house.server.port, int(house.metrics_url.rpartition(":")[2])}
    found = listening(house.server.process.pid)
    assert found == Listening(frozenset(("127.0.0.1", port) for port in ports), frozenset(), frozenset())


def test_a_slide_that_becomes_a_link_is_not_followed_out(house: House, tmp_path: Path) -> None:
    """A file that is exchanged for a link after it was served is looked at again, and not followed."""
    root = house.server.log.parent  # only read here: any folder beyond the root
    slides = next(path for path in (house.written[0].parent / "slides").iterdir() if path.name == f"{NAME}.tiff")
    (tmp_path / "outside.tiff").write_bytes(slides.read_bytes())
    inside = slides.with_name("swapped.tiff")
    inside.write_bytes(slides.read_bytes())
    with house.client() as client:
        assert client.get("/v1/slides/swapped.tiff").status_code == 200
        inside.unlink()
        inside.symlink_to(tmp_path / "outside.tiff")
        assert client.get("/v1/slides/swapped.tiff").status_code == 404
        inside.unlink()
        inside.symlink_to(root)
        assert client.get("/v1/slides/swapped.tiff").status_code == 404
    inside.unlink()


def test_nothing_of_an_upload_is_left_in_the_folder_for_temporary_files(house: House) -> None:
    """Uploads of regions are decoded in memory, also in the process that decodes them."""
    assert [path for path in house.written[0].rglob("*") if path.is_file()] == []
    (decoder,) = house.server.decoders()
    assert os.readlink(f"/proc/{decoder}/fd/0") == "/dev/null"
    opened = set(proc.open_files(decoder))
    assert all(name.startswith(("/dev/null", "socket:")) for name in opened), opened
