"""Compose and Kubernetes files of jobs: what they name exists, and what they start has few rights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployment import COMPOSE, DEPLOY, loaded
from slidecascade import cli
from slidecascade.settings import Settings

JOBS = DEPLOY / "docker-compose.jobs.yaml"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
OTHERS = {"BENTOML_HOME"}
"""Variables that are not settings of ours."""


def documents() -> list[dict[str, Any]]:
    return [item for path in MANIFESTS for item in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def named(kind: str) -> dict[str, dict[str, Any]]:
    return {item["metadata"]["name"]: item for item in documents() if item["kind"] == kind}


def pod(deployment: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return found


DEPLOYMENTS = list(named("Deployment").values())
PODS = pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda item: item["metadata"]["name"])


def require_command(words: list[str]) -> None:
    """The command line is understood by this version of the program."""
    program, *rest = words
    assert program == "slidecascade"
    cli._parser(rest).parse_args(rest)


def require_settings(names: set[str]) -> None:
    known = {f"SLIDECASCADE_{name.upper()}" for name in Settings.model_fields} | OTHERS
    assert names <= known, names - known


def test_compose_has_postgres_two_workers_and_the_service() -> None:
    """Together with the first file: one folder of jobs, of slides, of models, and one database for all."""
    services, base = loaded(JOBS)["services"], loaded(COMPOSE)["services"]
    assert set(services) == {"slidecascade", "worker", "postgres"}
    worker, service = services["worker"], services["slidecascade"]
    assert worker["deploy"]["replicas"] == 2
    require_command(worker["command"])
    for name in ("SLIDECASCADE_JOBS_DIR", "SLIDECASCADE_JOBS_DATABASE_URL"):
        assert worker["environment"][name] == service["environment"][name]
    for name in ("SLIDECASCADE_SLIDE_ROOTS", "SLIDECASCADE_MODELS_DIR"):
        assert worker["environment"][name] == base["slidecascade"]["environment"][name]
    require_settings({*worker["environment"], *service["environment"]})
    assert set(base["slidecascade"]["volumes"]) | set(service["volumes"]) == set(worker["volumes"])
    assert worker["image"] == base["slidecascade"]["image"]
    url = re.sub(r"\$\{[^}]*\}", "secret", worker["environment"]["SLIDECASCADE_JOBS_DATABASE_URL"])
    user, host = re.fullmatch(r"postgresql\+psycopg://(\w+):secret@(\w+):5432/slidecascade", url).groups()  # type: ignore[union-attr]
    assert user == services[host]["environment"]["POSTGRES_USER"]
    assert "ports" not in services["postgres"]


def test_the_processes_of_compose_have_few_rights_and_pinned_images() -> None:
    """No image moves by itself; the worker writes to its jobs and to /tmp only; it has time to give work back."""
    services = loaded(JOBS)["services"]
    assert all(re.search(r":v?\d+\.\d+[\w.-]*$", services[name]["image"]) for name in ("worker", "postgres"))
    worker = services["worker"]
    assert worker["read_only"]
    assert worker["cap_drop"] == ["ALL"]
    assert worker["security_opt"] == ["no-new-privileges:true"]
    assert int(worker["stop_grace_period"].removesuffix("s")) > Settings.model_fields["drain_grace_s"].default
    assert [volume for volume in worker["volumes"] if not volume.endswith(":ro")] == ["jobs:/jobs"]
    assert "/jobs" in (DEPLOY.parent / "Dockerfile").read_text(encoding="utf-8")


@PODS
def test_pods_have_few_rights(deployment: dict[str, Any]) -> None:
    """Not root, no way to become it, nothing of the image can be written, no token of the cluster."""
    spec = pod(deployment)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert str(spec["securityContext"]["runAsUser"]) in (DEPLOY.parent / "Dockerfile").read_text(encoding="utf-8")
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    for container in spec["containers"]:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]


@PODS
def test_pods_start_what_exists_with_settings_that_exist(deployment: dict[str, Any]) -> None:
    """Commands, variables, config maps, claims, mounts."""
    spec = pod(deployment)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for volume in volumes.values():
        claim = volume.get("persistentVolumeClaim")
        assert claim is None or claim["claimName"] in named("PersistentVolumeClaim")
    for container in spec["containers"]:
        require_command(container["args"])
        assert re.search(r":v?\d+\.\d+[\w.-]*$", container["image"])
        names = {item["name"] for item in container["env"]}
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        for source in container["envFrom"]:
            data = named("ConfigMap")[source["configMapRef"]["name"]]["data"]
            names |= set(data)
            assert {data["SLIDECASCADE_JOBS_DIR"], data["SLIDECASCADE_SLIDE_ROOTS"]} <= mounts
        require_settings(names)
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)


@PODS
def test_pods_are_watched_and_stopped_in_order(deployment: dict[str, Any]) -> None:
    """Started, alive and ready are asked for; the grace period outlasts the drain; a budget keeps one of them."""
    spec = pod(deployment)
    fields = Settings.model_fields
    assert (
        spec["terminationGracePeriodSeconds"] > fields["drain_grace_s"].default + fields["drain_notice_s"].default
    )
    for container in spec["containers"]:
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if "httpGet" in container[probe]:
                asked = container[probe]["httpGet"]
                assert ports[asked["port"]] == fields["port"].default
                assert asked["path"] == ("/readyz" if probe == "readinessProbe" else "/livez")
            else:
                heartbeat = container["args"][container["args"].index("--heartbeat") + 1]
                assert any(heartbeat in word for word in container[probe]["exec"]["command"])
                assert any(heartbeat.startswith(mount["mountPath"]) for mount in container["volumeMounts"])
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    budgets = [item["spec"] for item in named("PodDisruptionBudget").values()]
    (budget,) = [item for item in budgets if item["selector"]["matchLabels"] == labels]
    assert budget["minAvailable"] < deployment["spec"]["replicas"]


def test_the_service_finds_its_pods_and_its_callers_are_named() -> None:
    """The port and the labels of the Service are those of the pods; not everybody in the cluster may call it."""
    service = named("Service")["slidecascade"]["spec"]
    template = named("Deployment")["slidecascade"]["spec"]["template"]
    assert service["selector"] == template["metadata"]["labels"]
    assert service["ports"][0]["port"] == Settings.model_fields["port"].default
    assert service["ports"][0]["targetPort"] == template["spec"]["containers"][0]["ports"][0]["name"]
    (rule,) = named("NetworkPolicy")["slidecascade"]["spec"]["ingress"]
    assert rule["from"]


def test_all_manifests_are_read() -> None:
    """Three files, each with the kinds that the tests above look at."""
    assert [Path(path).name for path in MANIFESTS] == ["service.yaml", "settings.yaml", "worker.yaml"]
    assert {item["kind"] for item in documents()} == {
        "ConfigMap", "Deployment", "NetworkPolicy", "PersistentVolumeClaim", "PodDisruptionBudget", "Service",
    }  # fmt: skip


@PODS
def test_no_probe_needs_a_shell(deployment: dict[str, Any]) -> None:
    """Probes ask over HTTP, or run a program of the image."""
    (container,) = pod(deployment)["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        found = container[probe]
        assert "httpGet" in found or found["exec"]["command"][0] in ("python", "test")
