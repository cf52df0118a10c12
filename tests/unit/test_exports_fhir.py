"""The FHIR Bundle of a result, read by another project's models of R4."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import orjson
import pytest

from fhir_fake import faults_of
from made_analysis import make_analysis
from slidecascade.cli import main
from slidecascade.outputs.cells import geojson
from slidecascade.outputs.cells.summary import summarise
from slidecascade.outputs.summary import text
from slidecascade.warning import AnswerWarning

CONFIG = """
subject: Patient/17
specimen: Specimen/4
service_request: ServiceRequest/9
files_url: https://results.example/17/{name}
codes:
  count.Immune: {system: "urn:example:codes", code: immune, display: Immune cells}
"""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results"
    path.mkdir()
    analysis = make_analysis(60, warnings=(AnswerWarning("ink", "There is ink."),))
    path.joinpath("cells.geojson").write_bytes(b"".join(geojson.encode(analysis)))
    path.joinpath("summary.json").write_bytes(text(summarise(analysis)))
    return path


def exported(results: Path, target: Path, *options: str) -> dict[str, Any]:
    assert main(["export", str(results), "--format", "fhir", "--out", str(target), *options]) == 0
    document: dict[str, Any] = orjson.loads(target.read_bytes())
    return document


def configured(results: Path, tmp_path: Path, config: str = CONFIG) -> dict[str, Any]:
    path = tmp_path / "fhir.yaml"
    path.write_text(config, encoding="utf-8")
    return exported(results, tmp_path / "bundle.json", "--fhir-config", str(path))


def resources(bundle: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == kind]


def references(value: object) -> set[str]:
    """Every reference in a document."""
    if isinstance(value, dict):
        own = {value["reference"]} if "reference" in value else set()
        return own.union(*(references(item) for item in value.values()))
    return set().union(*(references(item) for item in value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("config", ["", CONFIG])
def test_the_models_of_r4_accept_the_bundle(results: Path, tmp_path: Path, config: str) -> None:
    """No unknown, missing or mistyped field."""
    models = pytest.importorskip("fhirclient.models.bundle")
    bundle = configured(results, tmp_path, config)
    read = models.Bundle(bundle, strict=True)
    assert read.type == "transaction"
    assert read.as_json() == bundle


@pytest.mark.parametrize("config", ["", CONFIG])
def test_the_validator_of_another_project_finds_no_fault(results: Path, tmp_path: Path, config: str) -> None:
    """It knows the codes of required bindings, which the models do not check."""
    bundle = configured(results, tmp_path, config)
    assert faults_of(bundle, tmp_path) == []
    resources(bundle, "DiagnosticReport")[0]["status"] = "unfinished"
    assert len(faults_of(bundle, tmp_path)) == 1


def test_every_reference_is_in_the_bundle_or_configured(results: Path, tmp_path: Path) -> None:
    """And every resource is labelled as asserted by an algorithm and is not final."""
    bundle = configured(results, tmp_path)
    known = {entry["fullUrl"] for entry in bundle["entry"]}
    assert len(known) == len(bundle["entry"])
    assert references(bundle) - known == {"Patient/17", "Specimen/4", "ServiceRequest/9"}
    for entry in bundle["entry"]:
        assert entry["resource"]["meta"]["security"][0]["code"] == "AIAST"
        assert entry["request"] | {"ifNoneExist": ""} == {
            "method": "POST",
            "url": entry["resource"]["resourceType"],
            "ifNoneExist": "",
        }
    statuses = {item["status"] for kind in ("Observation", "DiagnosticReport") for item in resources(bundle, kind)}
    assert statuses == {"preliminary"}
    (report,) = resources(bundle, "DiagnosticReport")
    assert "Research Use Only" in report["conclusion"]
    assert "There is ink." in report["conclusion"]


def test_fractions_have_their_denominators(results: Path, tmp_path: Path) -> None:
    """As components beside the percentage."""
    summary = orjson.loads((results / "summary.json").read_bytes())
    found = {item["code"]["text"]: item for item in resources(configured(results, tmp_path), "Observation")}
    share = summary["fractions"]["Hepatocyte: Steatosis"]
    observation = found["Hepatocyte: Steatosis per Hepatocyte"]
    assert observation["valueQuantity"]["value"] == pytest.approx(100 * share["value"], abs=1e-4)
    assert [part["valueQuantity"]["value"] for part in observation["component"]] == [
        share["numerator"],
        share["denominator"],
    ]


@pytest.mark.parametrize("areas_mm2", [(0.02, 0.05), (None, None)])
def test_area_fractions_have_their_areas(
    results: Path, tmp_path: Path, areas_mm2: tuple[float | None, float | None]
) -> None:
    """Under their titles, with the areas as components; the models of R4 accept them without areas, too."""
    models = pytest.importorskip("fhirclient.models.bundle")
    path = results / "summary.json"
    share = {"title": "Area of fat over area of tissue", "value": 0.4, "class_name": "Fat", "model": "liver-fat"}
    share |= dict(zip(("numerator_mm2", "denominator_mm2"), areas_mm2, strict=True))
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | {"area_fractions": {"fat": share}}))
    bundle = configured(results, tmp_path)
    (found,) = (one for one in resources(bundle, "Observation") if one["code"]["text"] == share["title"])
    assert (found["valueQuantity"]["value"], found["valueQuantity"]["code"]) == (40.0, "%")
    assert [part["code"]["text"] for part in found["component"]] == [
        "numerator: area of Fat",
        "denominator: area of tissue",
    ]
    quantities = [part.get("valueQuantity", {}) for part in found["component"]]
    assert tuple(quantity.get("value") for quantity in quantities) == areas_mm2
    assert {quantity.get("code") for quantity in quantities} <= {"mm2", None}
    assert models.Bundle(bundle, strict=True).as_json() == bundle


def test_codes_are_those_of_the_configuration(results: Path, tmp_path: Path) -> None:
    """What has none is described in words only."""
    found = resources(configured(results, tmp_path), "Observation")
    coded = [item["code"] for item in found if "coding" in item["code"]]
    assert [code["coding"][0]["code"] for code in coded] == ["immune"]
    assert all(
        "coding" not in item["code"] for item in resources(exported(results, tmp_path / "b"), "Observation")
    )


def test_files_and_models_are_identified(results: Path, tmp_path: Path) -> None:
    """Files by hash, size and address, models by version and sha256."""
    bundle = configured(results, tmp_path)
    attachments = [item["content"][0]["attachment"] for item in resources(bundle, "DocumentReference")]
    assert [item["title"] for item in attachments] == ["summary.json", "cells.geojson"]
    for item in attachments:
        content = (results / item["title"]).read_bytes()
        assert item["size"] == len(content)
        assert base64.b64decode(item["hash"]) == hashlib.sha1(content, usedforsecurity=False).digest()
        assert item["url"] == f"https://results.example/17/{item['title']}"
    (device,) = resources(bundle, "Device")
    values = {item["value"] for item in device["version"]}
    assert {"a" * 64, "b" * 64, "c" * 64} <= values


def test_the_same_result_has_the_same_addresses(results: Path, tmp_path: Path) -> None:
    """A repeated transaction stores nothing twice."""
    first, again = exported(results, tmp_path / "a.json"), exported(results, tmp_path / "b.json")
    assert [entry["fullUrl"] for entry in first["entry"]] == [entry["fullUrl"] for entry in again["entry"]]


@pytest.mark.parametrize("config", ["subjekt: Patient/1", "subject: 17", "codes: [", "specimen: Patient/1"])
def test_a_wrong_configuration_is_rejected(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str
) -> None:
    """With the name of the file."""
    path = tmp_path / "fhir.yaml"
    path.write_text(config, encoding="utf-8")
    arguments = ["export", str(results), "--format", "fhir", "--out", str(tmp_path / "x.json")]
    assert main([*arguments, "--fhir-config", str(path)]) == 2
    assert "fhir.yaml" in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()
