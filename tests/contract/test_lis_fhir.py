"""The bridge with a FHIR server (a fake one), its metrics, and its encrypted store."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sqlite3
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.lis.kills import Bridge, write_config
from benchmarks.lis.standin import PIPELINE, SLIDE, StandIn, standing_in

from fhir_fake import FakeFhirServer, fake_fhir_server, faults_of
from lis_messages import PATIENT_ID, Mllp, message, msh, new_order, number, order, pid, wait
from served_process import free_port
from slidecascade.cli import main
from slidecascade.fhir.config import FhirServer
from slidecascade.fhir.server import FhirClient
from slidecascade_lis.carriers import FhirCarrier, RefusedError
from slidecascade_lis.records import Undelivered
from slidecascade_lis.seal import new_key

TOKEN = "a-bearer-token"  # noqa: S105 - of the fake

POINTER = {"code": ["overlay", "Overview", "99L"], "url": "https://host/v1/jobs/{job}/files/overlay.png"}


class House:
    """A bridge with a service, a FHIR server and no LIS."""

    def __init__(self, folder: Path, service: StandIn, fhir: FakeFhirServer, bridge: Bridge, metrics: int) -> None:
        self.folder, self.service, self.fhir, self.bridge, self.metrics = folder, service, fhir, bridge, metrics

    def ask(self, content: str) -> str:
        with Mllp(self.bridge.port) as mllp:
            return mllp.ask(content).code

    def request(self, identifier: str, status: str = "active", at: int = 0, **fields: Any) -> None:
        """Put a ServiceRequest on the FHIR server."""
        self.fhir.put(
            {
                "resourceType": "ServiceRequest",
                "id": identifier,
                "status": status,
                "intent": "order",
                "meta": {"lastUpdated": f"2026-11-26T19:00:{at:02d}Z"},
                "code": {"coding": [{"system": "urn:l", "code": PIPELINE}]},
                "subject": {"reference": f"Patient/{PATIENT_ID}"},
                "specimen": [{"reference": "Specimen/s1"}],
                **fields,
            }
        )

    def tasks(self, identifier: str) -> list[dict[str, Any]]:
        reference = {"reference": f"ServiceRequest/{identifier}"}
        return [one for one in self.fhir.of("Task") if one.get("focus") == reference]

    def scraped(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=30) as answer:
            return str(answer.read().decode())

    def restart(self) -> None:
        self.bridge.kill()
        self.bridge = Bridge.start(self.bridge.config, self.bridge.port)
        asyncio.run(self.bridge.listens())


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("fhir-bridge")
    (folder / "token").write_text(TOKEN, encoding="utf-8")
    (folder / "store.key").write_text(new_key(), encoding="utf-8")
    with standing_in() as service, fake_fhir_server() as fhir:
        fhir.token, service.overlay = TOKEN, b"overlay"
        fhir.put({"resourceType": "Specimen", "id": "s1", "identifier": [{"value": SLIDE}]})
        port, metrics = free_port(), free_port()
        config = write_config(
            folder,
            service_url=service.url,
            port=port,
            result_port=1,
            receivers={},
            fhir={
                "hospital": {
                    "server": {"url": fhir.url, "token_file": str(folder / "token")},
                    "first_retry_s": 0.1,
                    "max_retry_s": 0.5,
                    "codes": {"count.Other": {"system": "urn:l", "code": "other"}},
                    "requests": {"poll_s": 0.2, "query": {"category": "analysis"}},
                }
            },
            orders={"slide": {"take": ["SPM-2.1", "OBR-13"]}, "pipeline": {"take": ["OBR-4"]}},
            results={"pointers": [POINTER, {**POINTER, "file": "overlay.png"}, {**POINTER, "file": "away.png"}]},
            store={"database": str(folder / "lis.sqlite"), "key_file": str(folder / "store.key")},
            metrics={"port": metrics},
        )
        bridge = Bridge.start(config, port)
        made = House(folder, service, fhir, bridge, metrics)
        try:
            asyncio.run(bridge.listens())
            yield made
        finally:
            made.bridge.stop()


def test_an_order_of_hl7_becomes_a_bundle(house: House, tmp_path: Path) -> None:
    """Its figures, with order and patient by their identifiers; the validator finds no fault."""
    placer = number()
    assert house.ask(new_order(placer)) == "AA"
    wait(lambda: any(placer in json.dumps(bundle) for bundle in list(house.fhir.bundles)))
    (bundle,) = (bundle for bundle in house.fhir.bundles if placer in json.dumps(bundle))
    found = {entry["resource"]["resourceType"]: entry["resource"] for entry in bundle["entry"]}
    assert found["DiagnosticReport"]["basedOn"] == [{"type": "ServiceRequest", "identifier": {"value": placer}}]
    assert found["DiagnosticReport"]["subject"]["identifier"] == {"value": PATIENT_ID}
    assert (found["DiagnosticReport"]["status"], found["Task"]["status"]) == ("preliminary", "completed")
    attachments = [
        one["resource"]["content"][0]["attachment"]
        for one in bundle["entry"]
        if one["resource"]["resourceType"] == "DocumentReference"
    ]
    sha1 = base64.b64encode(hashlib.sha1(b"overlay", usedforsecurity=False).digest()).decode()
    assert [(one.get("contentType"), one.get("size"), one.get("hash")) for one in attachments] == [
        ("application/octet-stream", None, None),
        ("image/png", 7, sha1),
        ("application/octet-stream", None, None),
    ]
    codes = [one["resource"]["code"] for one in bundle["entry"] if "valueQuantity" in one["resource"]]
    assert {"coding": [{"system": "urn:l", "code": "other"}], "text": "Number of Other"} in codes
    assert faults_of(bundle, tmp_path) == []


def test_requests_of_the_server_become_jobs_once(house: House, tmp_path: Path) -> None:
    """By the same rules as HL7 orders, over several pages, also after kill -9 of the bridge."""
    names = [f"sr-{index}" for index in range(5)]
    jobs = len(house.service.jobs)
    for at, name in enumerate(names):
        house.request(name, at=at)
    wait(lambda: all(house.tasks(name) for name in names))
    house.restart()
    house.request("sr-after", at=7)
    wait(lambda: bool(house.tasks("sr-after")))
    assert {task["status"] for name in names for task in house.tasks(name)} == {"completed"}
    assert [len(house.tasks(name)) for name in names] == [1] * 5
    assert len(house.service.jobs) == jobs + 6
    assert house.fhir.searches[-1]["category"] == "analysis"
    report = next(one for one in house.fhir.of("DiagnosticReport") if one["basedOn"][0].get("reference"))
    assert report["subject"] == {"reference": f"Patient/{PATIENT_ID}"}
    assert report["specimen"] == [{"reference": "Specimen/s1"}]
    assert faults_of(house.fhir.bundles[-1], tmp_path) == []


def test_a_request_that_cannot_be_done_is_rejected_once(house: House, tmp_path: Path) -> None:
    """By a Task with the reason; a corrected version of it is taken."""
    house.request("sr-wrong", at=10, specimen=[{"identifier": {"value": "nowhere.svs"}}])
    wait(lambda: bool(house.tasks("sr-wrong")))
    searches = len(house.fhir.searches)
    wait(lambda: len(house.fhir.searches) >= searches + 3)
    (task,) = house.tasks("sr-wrong")
    assert task["status"] == "rejected"
    assert "nowhere.svs" in task["statusReason"]["text"]
    assert faults_of(house.fhir.bundles[-1], tmp_path) == []
    house.request("sr-wrong", at=11)
    wait(lambda: [one["status"] for one in house.tasks("sr-wrong")] == ["rejected", "completed"])


def test_the_response_of_enhanced_mode_is_the_reply(house: House) -> None:
    """A FHIR server takes no HL7: nothing but results is posted to it."""
    posts = house.fhir.posts
    placers = [number() for _ in range(3)]
    with Mllp(house.bridge.port) as mllp:
        reply = mllp.ask(new_order(placers[0], accept="AL", application="AL"))
        assert (reply.code, reply.all("MSH")[0][8], reply.all("ORC")[0][1]) == ("AA", "ORL^O22^ORL_O22", "OK")
        assert mllp.ask(new_order(placers[1], accept="NE", application="AL")).code == "AA"
        mllp.send(new_order(placers[2], accept="NE", application="NE"))
        wrong = message(msh(accept="AL", application="AL"), pid(), *order(number(), slide="nowhere.svs"))
        assert mllp.ask(wrong).code == "AE"
        assert mllp.ask(message(msh("ADT^A01", accept="AL"))).code == "AE"
    wait(lambda: all(placer in json.dumps(house.fhir.bundles) for placer in placers))
    assert house.fhir.posts == posts + 3


async def test_what_is_no_bundle_is_not_posted() -> None:
    """HL7 that was queued when the receiver was a LIS, or by an earlier version, is dead."""
    found = Undelivered(1, "c", "m", None, "hospital", "MSH|^~\\&|\rPID|1", "pending", 0, 0.0, 0.0, None)
    with fake_fhir_server() as fhir, FhirClient(FhirServer(url=fhir.url)) as client:
        with pytest.raises(RefusedError, match="not a Bundle"):
            await FhirCarrier(client).carry(found)
        assert fhir.requests == 0


def test_a_revoked_request_is_cancelled(house: House) -> None:
    """Its job is cancelled and a Task says so; one that was never taken is left alone."""
    house.service.seconds = 600
    try:
        jobs = set(house.service.jobs.values())
        house.request("sr-revoked", at=12)
        wait(lambda: bool(set(house.service.jobs.values()) - jobs))
        house.request("sr-never", "revoked", at=13)
        house.request("sr-revoked", "revoked", at=14)
        wait(lambda: [one["status"] for one in house.tasks("sr-revoked")] == ["cancelled"])
        wait(lambda: house.service.cancelled >= set(house.service.jobs.values()) - jobs)
        assert house.tasks("sr-never") == []
    finally:
        house.service.seconds = 0.1


def test_a_revoked_request_of_two_specimens_is_cancelled(house: House) -> None:
    """Both analyses end, and the request is not rejected."""
    house.service.seconds = 600
    specimens = [{"reference": "Specimen/s1"}, {"identifier": {"value": SLIDE}}]
    try:
        jobs = set(house.service.jobs.values())
        house.request("sr-two", at=15, specimen=specimens)
        wait(lambda: len(set(house.service.jobs.values()) - jobs) == 2)
        house.request("sr-two", "revoked", at=16, specimen=specimens)
        wait(lambda: len(house.tasks("sr-two")) == 2)
        assert {one["status"] for one in house.tasks("sr-two")} == {"cancelled"}
        wait(lambda: house.service.cancelled >= set(house.service.jobs.values()) - jobs)
    finally:
        house.service.seconds = 0.1


def test_results_wait_for_a_server_that_is_away(house: House) -> None:
    """Also while it does not accept the token; what it rejects is dead until it is sent again."""
    placer = number()
    house.fhir.token = "renewed"  # noqa: S105
    assert house.ask(new_order(placer)) == "AA"
    wait(lambda: 'slidecascade_lis_outbox_messages{receiver="hospital",state="pending"} 1.0' in house.scraped())
    (house.folder / "token").write_text("renewed", encoding="utf-8")
    wait(lambda: any(placer in json.dumps(bundle) for bundle in list(house.fhir.bundles)))
    house.fhir.rejects = True
    assert house.ask(new_order()) == "AA"
    wait(lambda: 'slidecascade_lis_outbox_messages{receiver="hospital",state="dead"} 1.0' in house.scraped())
    house.fhir.rejects = False
    database = sqlite3.connect(house.folder / "lis.sqlite", timeout=30)
    wanted = "SELECT control_id FROM slidecascade_lis_outbox WHERE state = 'dead'"
    (control,) = database.execute(wanted).fetchone()
    database.close()
    assert main(["lis", "resend", control, "--config", str(house.bridge.config)]) == 0
    wait(lambda: 'slidecascade_lis_outbox_messages{receiver="hospital",state="dead"} 0.0' in house.scraped())


def test_metrics_count_without_ids(house: House) -> None:
    """Messages by type and acknowledgement, orders by state, the time to an acknowledgement, transactions."""
    assert house.ask(new_order(control="METRIC", placer="METRIC")) == "AA"
    assert house.ask(message(msh("ADT^A01"))) == "AE"
    text = house.scraped()
    assert 'slidecascade_lis_messages_total{acknowledgement="AA",type="OML^O21"}' in text
    assert 'slidecascade_lis_messages_total{acknowledgement="AE",type="other"}' in text
    assert 'slidecascade_lis_messages_total{acknowledgement="AA",type="ServiceRequest"}' in text
    assert 'slidecascade_lis_orders{state="succeeded"}' in text
    assert "slidecascade_lis_acknowledgement_seconds_bucket" in text
    assert "slidecascade_lis_transactions_total" in text
    for secret in ("METRIC", PATIENT_ID, SLIDE, "sr-0"):
        assert secret not in text


def test_the_store_is_encrypted_and_its_key_changed(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    """No file has a patient's name; a new key comes into use beside the old one; a wrong key is one sentence."""
    placer = number()
    assert house.ask(message(msh(), pid(), *order(placer))) == "AA"
    for path in house.folder.glob("lis.sqlite*"):
        content = path.read_bytes()
        assert b"Gudrun" not in content
        assert SLIDE.encode() not in content
    config, key = str(house.bridge.config), house.folder / "store.key"
    first = key.read_text(encoding="utf-8")
    second = new_key()
    key.write_text(f"{second}\n{first}", encoding="utf-8")
    house.restart()
    assert main(["lis", "rekey", "--config", config]) == 0
    key.write_text(second, encoding="utf-8")
    house.restart()
    assert main(["lis", "messages", "--config", config]) == 0
    capsys.readouterr()
    house.bridge.stop()
    key.write_text(new_key(), encoding="utf-8")
    assert main(["lis", "serve", "--config", config]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    key.write_text(second, encoding="utf-8")
    house.restart()
    assert house.ask(message(msh(), f"ORC|SS|{placer}")) == "AA"


def test_nothing_secret_is_logged(house: House) -> None:
    log = house.bridge.log.read_text(encoding="utf-8")
    assert '"request"' in log
    for secret in (TOKEN, "renewed", PATIENT_ID, "Gudrun", "sr-0", SLIDE, "Traceback"):
        assert secret not in log
