"""A served process with keys: who is let in, whose jobs are whose, and what is written about it."""

from __future__ import annotations

import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import pytest

from certificates import write_pair
from issuer import AUDIENCE, Issuer
from long_slide import MPP
from served_jobs import JOB, SLIDE, StartJobs, problem
from served_process import START_S, STOP_S, Server, environment, free_port
from slidecascade.access.audit import read_lines
from slidecascade.access.caller import Limits, Scope
from slidecascade.access.keys import KeyFile
from slidecascade.cli import main
from slidecascade_client import (
    AsyncClient,
    Client,
    ForbiddenError,
    LimitExceededError,
    RetryPolicy,
    UnauthenticatedError,
    UnknownJobError,
)
from toy_pipeline import ToyPipeline

JOBS: tuple[Scope, ...] = ("jobs:read", "jobs:write", "slides:read")
NO_RETRY = RetryPolicy(max_tries=1)


@dataclass
class House:
    """A server, the file of its keys, its issuer and the folder of its audit log."""

    server: Server
    keys: KeyFile
    issuer: Issuer
    audit: Path

    def client(self, key: str | None) -> Client:
        return Client(self.server.url, api_key=key, retry=NO_RETRY)


@pytest.fixture(scope="module")
def house(start_job_server: StartJobs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    keys = KeyFile(folder / "keys.json")
    keys.create("first", ["models:read"])
    with Issuer() as issuer:
        oidc = folder / "oidc.yaml"
        oidc.write_text(f"issuer: {issuer.url}\naudience: {AUDIENCE}\n")
        server = start_job_server(
            folder / "jobs", keys_file=folder / "keys.json", oidc_file=oidc, audit_dir=folder / "audit"
        )
        yield House(server, keys, issuer, folder / "audit")


def until_accepted(house: House, key: str, path: str = "/v1/jobs") -> None:
    """Wait until the server has read the file again."""
    house.server.wait(lambda: ask(house, key, path).status_code == 200, seconds=5)


def ask(house: House, key: str, path: str = "/v1/jobs") -> httpx.Response:
    return httpx.get(f"{house.server.url}{path}", headers={"X-API-Key": key}, timeout=30)


def test_bentomls_own_addresses_are_closed(house: House) -> None:
    """Its pages, its schema, its calls and what it does not have: nothing is answered without a key."""
    weak = house.keys.create("weak", ["infer"])
    until = time.monotonic() + 5
    for path in (
        "/",
        "/schema.json",
        "/docs.json",
        "/healthz",
        "/static_content/favicon-32x32.png",
        "/none",
        "/metrics",
    ):
        assert problem(httpx.get(f"{house.server.url}{path}")) == (401, "unauthenticated")
        while (found := ask(house, weak, path).status_code) == 401:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert found == 403, path
    for path in (
        "/analyze_region",
        "/submit_job",
        "/show_job",
        "/job_result",
        "/cancel_job",
        "/is_ready",
        "/__metadata__",
        "/upload",
    ):
        body = b"x" * 1_000_000  # is not read
        response = httpx.post(f"{house.server.url}{path}", content=body)
        assert problem(response) == (401, "unauthenticated")
        assert ask(house, weak, path).status_code == 403
    for path in ("/livez", "/readyz", "/v2/health/ready"):
        assert httpx.get(f"{house.server.url}{path}").status_code == 200


def test_a_key_is_made_and_revoked_without_a_restart(house: House) -> None:
    """Within five seconds, by the commands."""
    key = house.keys.create("brief", ["jobs:read"])
    until_accepted(house, key)
    assert house.keys.revoke("brief") == 1
    revoked_at = time.monotonic()
    house.server.wait(lambda: ask(house, key).status_code == 401, seconds=5)
    assert time.monotonic() - revoked_at < 5


def test_jobs_belong_to_who_submitted_them(house: House) -> None:
    """For others there is no such job, at any of its addresses; an administrator sees all."""
    mine, theirs = house.keys.create("lab", JOBS), house.keys.create("lis", JOBS)
    admin = house.keys.create("admin", ["admin"])
    for key in (mine, theirs, admin):
        until_accepted(house, key)
    with house.client(mine) as lab, house.client(theirs) as lis, house.client(admin) as operator:
        job = lab.submit(SLIDE, pipeline="toy", mpp=MPP, idempotency_key="k")
        assert lab.submit(SLIDE, pipeline="toy", mpp=MPP, idempotency_key="k").id == job.id
        other = lis.submit(SLIDE, pipeline="toy", mpp=MPP, idempotency_key="k")
        assert other.id != job.id
        assert [found.id for found in lab.jobs()] == [job.id]
        assert [found.id for found in lis.jobs()] == [other.id]
        assert {found.id for found in operator.jobs()} >= {job.id, other.id}
        job.wait()
        for method, path in (
            ("GET", ""),
            ("GET", "/events"),
            ("GET", "/result"),
            ("GET", "/files"),
            ("GET", "/files/summary.json"),
            ("GET", "/cells?bbox=0,0,9,9"),
            ("GET", "/fields/0"),
            ("GET", "/layers/classes/0/0_0.png"),
            ("POST", "/cancel"),
            ("POST", "/retry"),
            ("DELETE", ""),
        ):
            address = f"{house.server.url}/v1/jobs/{job.id}{path}"
            response = httpx.request(method, address, headers={"X-API-Key": theirs}, timeout=30)
            assert problem(response) == (404, "unknown-job"), (method, path)
            assert (
                response.json()["detail"]
                == httpx.get(f"{house.server.url}/v1/jobs/none", headers={"X-API-Key": theirs}).json()["detail"]
            )
        with pytest.raises(UnknownJobError):
            lis.job(job.id)
        assert operator.job(job.id).id == job.id
        assert httpx.get(f"{house.server.url}/v1/notifications", headers={"X-API-Key": mine}).status_code == 403


async def test_clients_say_what_a_key_lacks(house: House) -> None:
    """By their own errors; the key itself is not repeated."""
    weak = house.keys.create("reader", ["jobs:read"], limits=Limits(requests_per_minute=3))
    until_accepted(house, weak)
    with house.client(None) as nobody, pytest.raises(UnauthenticatedError, match="needs a key"):
        list(nobody.jobs())
    with house.client("sc_guess") as wrong, pytest.raises(UnauthenticatedError, match="not valid"):
        list(wrong.jobs())
    async with AsyncClient(house.server.url, api_key=weak, retry=NO_RETRY) as client:
        with pytest.raises(ForbiddenError, match="models:read") as caught:
            await client.pipelines()
        assert weak not in str(caught.value)
    with house.client(weak) as reader:
        list(reader.jobs())
        with pytest.raises(LimitExceededError, match="requests_per_minute"):
            list(reader.jobs())


def test_a_key_has_its_own_number_of_jobs_and_bytes(house: House) -> None:
    """429 with the name of the limit and when to come back."""
    key = house.keys.create("small", JOBS, limits=Limits(queued_jobs=1, stored_bytes=1))
    until_accepted(house, key)
    headers = {"X-API-Key": key}
    first = httpx.post(f"{house.server.url}/v1/jobs", json=JOB, headers=headers, timeout=30)
    assert first.status_code == 202
    second = httpx.post(f"{house.server.url}/v1/jobs", json=JOB, headers=headers, timeout=30)
    assert problem(second) == (429, "limit-exceeded")
    assert int(second.headers["retry-after"]) >= 1
    path = f"/v1/jobs/{first.json()['id']}"
    house.server.wait(lambda: ask(house, key, path).json()["finished_at"] is not None, seconds=120)
    third = httpx.post(f"{house.server.url}/v1/jobs", json=JOB, headers=headers, timeout=30)
    assert (third.status_code, "stored_bytes" in third.json()["detail"]) == (429, True)


def test_slides_in_other_folders_do_not_exist(house: House, job_slides: Path, tmp_path: Path) -> None:
    """At every address that takes one, they are unknown in the words for a slide that is not there."""
    scopes: tuple[Scope, ...] = (*JOBS, "regions:write", "models:read")
    sees = house.keys.create("sees", scopes, slides=(str(job_slides),))
    blind = house.keys.create("blind", scopes, slides=(str(tmp_path),))
    for key in (sees, blind):
        until_accepted(house, key)
    assert SLIDE in ask(house, sees, "/v1/slides").text
    assert ask(house, blind, "/v1/slides").json() == {"slides": [], "truncated": False}
    values = {"level": "9", "column": "0", "row": "0", "model": "toy-cells"}
    found = [path for path in ask(house, blind, "/openapi.json").json()["paths"] if "{slide_id" in path]
    assert len(found) >= 5
    for path in found:
        address = path.format(slide_id="{slide_id}", **values) + "?pipeline=toy&x=9&y=9&mpp=0.5"
        _assert_unknown(partial(_ask_of, house, address), sees, blind)
    bodies: dict[str, Callable[[str], dict[str, object]]] = {
        "/v1/regions": lambda slide: JOB | {"slide": slide, "region": {"x": 0, "y": 0, "width": 64, "height": 64}},
        "/analyze_region": lambda slide: {"request": JOB | {"slide": slide}},
        "/v1/jobs": lambda slide: JOB | {"slide": slide},
        "/submit_job": lambda slide: {"request": JOB | {"slide": slide}},
    }
    for path, body in bodies.items():
        _assert_unknown(partial(_post_of, house, path, body), sees if path == "/v1/jobs" else None, blind)
    batch = {"jobs": [JOB, JOB | {"slide": "none.tif"}]}
    answer = httpx.post(f"{house.server.url}/v1/jobs:batch", json=batch, headers={"X-API-Key": blind}, timeout=60)
    assert [item["problem"]["type"].rpartition(":")[2] for item in answer.json()["jobs"]] == ["unknown-slide"] * 2
    assert ask(house, blind).json()["jobs"] == []


def _ask_of(house: House, address: str, slide: str, key: str) -> httpx.Response:
    return ask(house, key, address.format(slide_id=slide))


def _post_of(
    house: House, path: str, body: Callable[[str], dict[str, object]], slide: str, key: str
) -> httpx.Response:
    address = f"{house.server.url}{path}"
    return httpx.post(address, json=body(slide), headers={"X-API-Key": key}, timeout=60)


def _assert_unknown(send: Callable[[str, str], httpx.Response], sees: str | None, blind: str) -> None:
    """`send` a request about a slide: with the key `blind` there is none, with `sees` there is."""
    hidden, absent = send(SLIDE, blind), send("none.tif", blind)
    assert problem(hidden) == problem(absent) == (404, "unknown-slide"), hidden.request.url
    assert hidden.json()["detail"] == absent.json()["detail"].replace("none.tif", SLIDE)
    if sees is not None:
        assert send(SLIDE, sees).status_code in (200, 202, 404), hidden.request.url
        if (other := send(SLIDE, sees)).status_code == 404:  # no such tile or network, but a slide
            assert problem(other)[1] != "unknown-slide"


def test_tokens_of_the_issuer_are_accepted(house: House) -> None:
    """Beside keys, in the same header; the subject owns what it submits."""
    token = house.issuer.token(scope="jobs:read jobs:write slides:read", sub="jane")
    with house.client(token) as jane:
        job = jane.submit(SLIDE, pipeline="toy", mpp=MPP)
        assert [found.id for found in jane.jobs()] == [job.id]
    with house.client(house.issuer.token(scope="jobs:read", sub="jim")) as jim:
        assert list(jim.jobs()) == []
        with pytest.raises(ForbiddenError, match="jobs:write"):
            jim.submit(SLIDE, pipeline="toy", mpp=MPP)
    late = house.issuer.token(scope="jobs:read", exp=time.time() - 60)
    with house.client(late) as client, pytest.raises(UnauthenticatedError, match="expired"):
        list(client.jobs())


def test_the_audit_log_of_a_server_is_unbroken(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    """Also while it is written; it names callers and jobs' routes, and no slide, key or token."""
    assert main(["audit", "--folder", str(house.audit), "verify"]) == 0
    assert "unbroken" in capsys.readouterr().out
    lines = list(read_lines(house.audit))
    assert {"lab", "lis", "oidc:jane", "unknown"} <= {line.event.who for line in lines}
    submitted = [line for line in lines if line.event.action == "POST /v1/jobs" and line.event.outcome == 202]
    assert all(line.event.object for line in submitted)
    written = (
        "".join(path.read_text(errors="replace") for path in house.audit.iterdir()) + house.server.log.read_text()
    )
    for secret in (SLIDE, "Ward", "patient", "sc_", "eyJ"):
        assert secret not in written


def test_it_does_not_start_open_to_other_machines(tmp_path: Path) -> None:
    """Without keys and beyond loopback it ends at once with a sentence that names both remedies."""
    command = [sys.executable, "-m", "slidecascade", "serve", "--port", str(free_port())]
    command += ["--host", "0.0.0.0"]  # noqa: S104  # it must not
    ended = subprocess.run(
        command, env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert "SLIDECASCADE_KEYS_FILE" in ended.stderr
    assert "SLIDECASCADE_ALLOW_ANONYMOUS=1" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_server_speaks_tls_and_knows_a_client_by_its_certificate(job_toy: ToyPipeline, tmp_path: Path) -> None:
    """Without a certificate there is no connection; with one its name stands for a key, and plain HTTP ends."""
    certificate, private = write_pair(tmp_path, "localhost")
    authority, client_key = write_pair(tmp_path, "lis.example")
    keys = KeyFile(tmp_path / "keys.json")
    keys.create("lis", ["models:read"], certificate="lis.example")
    port = free_port()
    variables = environment(
        tmp_path,
        keys_file=tmp_path / "keys.json",
        tls_certificate=certificate,
        tls_key=private,
        tls_client_ca=authority,
        pipelines_dir=job_toy.pipelines_dir,
    )
    command = [sys.executable, "-m", "slidecascade", "serve", "--models", str(job_toy.models_dir)]
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen([*command, "--port", str(port)], env=variables, stderr=file, stdout=file)
    try:
        server = Server(f"https://localhost:{port}", process, log)
        server.wait(lambda: process.poll() is not None or '"listening"' in log.read_text(), seconds=START_S)
        trusted = ssl.create_default_context(cafile=str(certificate))
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{server.url}/livez", verify=trusted)
        trusted.load_cert_chain(authority, client_key)
        with httpx.Client(verify=trusted, base_url=server.url, timeout=30) as client:
            assert client.get("/v1/models").status_code == 200
            assert problem(client.get("/v1/slides")) == (403, "forbidden")
            assert problem(client.get("/v1/models", headers={"X-API-Key": "wrong"})) == (401, "unauthenticated")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://localhost:{port}/livez")
    finally:
        process.terminate()
        process.wait(STOP_S)
