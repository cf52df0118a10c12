"""Bundles stored on a FHIR server: a fake one over real HTTP."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from fhir_fake import FakeFhirServer, fake_fhir_server
from lis_messages import write_certificates
from made_analysis import make_analysis
from slidecascade.cli import main
from slidecascade.fhir.config import FhirServer
from slidecascade.fhir.server import FhirClient, FhirRejectedError, FhirUnavailableError, deliver
from slidecascade.outputs.cells import geojson
from slidecascade.outputs.cells.summary import summarise
from slidecascade.outputs.summary import text

BUNDLE = json.dumps(
    {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {
                "resource": {"resourceType": "Task", "identifier": [{"value": "1"}]},
                "request": {"method": "POST", "url": "Task", "ifNoneExist": "identifier=1"},
            }
        ],
    }
).encode()


@pytest.fixture
def server() -> Iterator[FakeFhirServer]:
    with fake_fhir_server() as fake:
        yield fake


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results"
    path.mkdir()
    analysis = make_analysis(20)
    path.joinpath("cells.geojson").write_bytes(b"".join(geojson.encode(analysis)))
    path.joinpath("summary.json").write_bytes(text(summarise(analysis)))
    return path


def test_a_result_is_stored_with_the_token_of_the_file(
    server: FakeFhirServer, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stored again, only its Provenance is new; the token is in no output."""
    token = tmp_path / "token"
    token.write_text("s3cret\n", encoding="utf-8")
    server.token = "s3cret"  # noqa: S105 - of the fake
    store = ["export", str(results), "--format", "fhir", "--to", server.url, "--token-file", str(token)]
    assert main(store) == 0
    first = len(server.resources)
    assert len(server.of("DiagnosticReport")) == 1
    assert main([*store, "--out", str(tmp_path / "bundle.json")]) == 0
    assert len(server.resources) == first + 1
    assert json.loads((tmp_path / "bundle.json").read_bytes()) == server.bundles[1]
    token.write_text("another", encoding="utf-8")
    assert main(store) == 1
    captured = capsys.readouterr()
    assert "status 401" in captured.err
    assert "s3cret" not in captured.out + captured.err


def test_a_server_has_a_name_in_the_configuration(server: FakeFhirServer, results: Path, tmp_path: Path) -> None:
    config = tmp_path / "fhir.yaml"
    config.write_text(f"servers: {{hospital: {{url: '{server.url}'}}}}", encoding="utf-8")
    store = ["export", str(results), "--format", "fhir", "--fhir-config", str(config), "--to"]
    assert main([*store, "hospital"]) == 0
    assert len(server.bundles) == 1
    assert main([*store, "elsewhere"]) == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([], "with --out, or a server with --to"),
        (["--to", "http://fhir.example/r4"], "https"),
        (["--to", "ftp://fhir.example"], "--to"),
        (["--to", "https://user:word@fhir.example?x"], "--to"),
    ],
)
def test_a_wrong_target_is_named(
    results: Path, capsys: pytest.CaptureFixture[str], options: list[str], named: str
) -> None:
    assert main(["export", str(results), "--format", "fhir", *options]) == 2
    assert named in capsys.readouterr().err


def test_other_formats_are_not_stored(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(results), "--format", "geojson", "--to", "http://127.0.0.1:1"]) == 2
    assert "geojson" in capsys.readouterr().err


def test_a_busy_server_is_asked_again_with_growing_waits(server: FakeFhirServer) -> None:
    """Until it takes the Bundle, or the tries are used up."""
    waits: list[float] = []
    with FhirClient(FhirServer(url=server.url)) as client:
        server.answers = [503, 429, 500]
        assert deliver(client, BUNDLE, tries=4, first_wait_s=1.0, sleep=waits.append) == 4
        assert [round(wait_s) for wait_s in waits] == pytest.approx([1, 2, 4], abs=1)
        assert waits == sorted(waits)
        server.answers = [503, 503]
        with pytest.raises(FhirUnavailableError, match="status 503"):
            deliver(client, BUNDLE, tries=2, first_wait_s=0.0, sleep=waits.append)
    assert len(server.bundles) == 1


def test_an_answer_that_is_lost_stores_nothing_twice(server: FakeFhirServer) -> None:
    """The Bundle is posted again, and the server finds its resources by their identifiers."""
    server.forget = True
    with FhirClient(FhirServer(url=server.url)) as client:
        assert deliver(client, BUNDLE, tries=3, first_wait_s=0.0) == 2
    assert (len(server.bundles), len(server.of("Task"))) == (2, 1)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 422, 302])
def test_a_rejected_bundle_is_not_posted_again(server: FakeFhirServer, status: int) -> None:
    server.answers = [status]
    with FhirClient(FhirServer(url=server.url)) as client, pytest.raises(FhirRejectedError, match=f"{status}"):
        deliver(client, BUNDLE, tries=5, first_wait_s=0.0)
    assert server.requests == 1


def test_a_server_that_is_away_is_unavailable() -> None:
    with FhirClient(FhirServer(url="http://127.0.0.1:9/r4")) as client, pytest.raises(FhirUnavailableError):
        client.transact(BUNDLE)


def test_searches_follow_pages_of_this_server_alone(server: FakeFhirServer) -> None:
    """A next page elsewhere would get the token."""
    for number in range(5):
        server.put(
            {
                "resourceType": "ServiceRequest",
                "id": str(number),
                "status": "active",
                "meta": {"lastUpdated": f"2026-11-26T19:00:0{number}Z"},
            }
        )
    with FhirClient(FhirServer(url=server.url)) as client:
        pages = list(client.search("ServiceRequest", {"status": "active"}))
        assert [one["id"] for page in pages for one in page] == ["0", "1", "2", "3", "4"]
        with fake_fhir_server() as other:
            server.next_page_at = other.url
            with pytest.raises(FhirRejectedError, match="another server"):
                list(client.search("ServiceRequest", {"status": "active"}))
            assert other.requests == 0


def test_the_servers_certificate_is_verified(tmp_path: Path) -> None:
    """By the configured CA; without it nothing is sent."""
    write_certificates(tmp_path)
    with fake_fhir_server() as fake:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
        fake.socket = tls.wrap_socket(fake.socket, server_side=True)
        url = fake.url.replace("http://127.0.0.1", "https://localhost")
        with FhirClient(FhirServer(url=url, ca=tmp_path / "ca.pem")) as client:
            client.transact(BUNDLE)
        with FhirClient(FhirServer(url=url)) as client, pytest.raises(FhirUnavailableError):
            client.transact(BUNDLE)
        assert len(fake.bundles) == 1
