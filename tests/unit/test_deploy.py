"""``deploy/`` holds together: names, files, ports, and what Prometheus' own checker says."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from deployment import (
    COMPOSE,
    DASHBOARD,
    DEPLOY,
    LIS_DASHBOARD,
    PROMETHEUS,
    RULE_TESTS,
    RULES,
    Query,
    loaded,
    panel_queries,
    panels,
    rule_queries,
    rules,
    variables,
)
from slidecascade.metrics import JobNumbers, Metrics
from slidecascade_lis.commits import Commits
from slidecascade_lis.metrics import Observer, StoreCollector
from slidecascade_lis.store import Store

QUERIES = [*panel_queries(), *panel_queries(LIS_DASHBOARD), *rule_queries()]
DASHBOARDS = pytest.mark.parametrize("dashboard", [DASHBOARD, LIS_DASHBOARD], ids=lambda path: path.stem)
SCRAPE_LABELS = {"job", "instance"}
PROMETHEUS_OWN = "up"


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    """The labels of every series, by its name, once everything has happened."""
    metrics = Metrics()
    metrics.request(route="/v1/regions", method="POST", status=200, seconds=1)
    metrics.limits(regions=8, inferences=32)
    metrics.ready(True)
    metrics.networks_ready(True)
    metrics.regions(1)
    metrics.inferences(1)
    metrics.cancelled()
    metrics.stage("read", 1)
    metrics.cells("nash", "Immune", 1)
    metrics.ran("nuclei-unet", size=4, seconds=0.1)
    metrics.waited("nuclei-unet", 0.01)
    metrics.queued("nuclei-unet", 1)
    metrics.jobs(
        JobNumbers(
            by_status={"failed": 1},
            fields=1,
            cells=1,
            waiting=1,
            oldest_s=1,
            take_overs=1,
            notifications={"dead": 1},
            used_bytes=1,
            free_bytes=1,
        )
    )
    return {PROMETHEUS_OWN: set()} | series(metrics.expose())


def series(exposition: bytes) -> dict[str, set[str]]:
    """The labels of every series of an exposition."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(exposition.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.fixture(scope="module")
def exposed_by_bridge(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The same of the bridge to a LIS."""
    store = Store(str(tmp_path_factory.mktemp("lis") / "lis.sqlite"))
    observer = Observer()
    observer.registry.register(StoreCollector(store, Commits(store), ["lis"]))
    observer.requested(accepted=True)
    try:
        return series(generate_latest(observer.registry))
    finally:
        store.close()


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.owner)
def test_queries_use_what_is_exposed(
    query: Query, exposed: dict[str, set[str]], exposed_by_bridge: dict[str, set[str]]
) -> None:
    """Every metric of a panel or rule is one that is exposed, and every label one of that metric's."""
    exposed = exposed | exposed_by_bridge
    selectors = re.findall(r"\b([a-z_]+)\{([^}]*)\}", query.filled(window="1m"))
    assert selectors
    known = set(SCRAPE_LABELS)
    for name, matchers in selectors:
        assert name in exposed
        known |= exposed[name]
        assert set(re.findall(r'(\w+)\s*[=!]~?\s*"', matchers)) <= exposed[name] | SCRAPE_LABELS
        job = "slidecascade-lis" if name.startswith("slidecascade_lis_") else "slidecascade"
        assert f'job="{job}"' in matchers
    grouped = ",".join(re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", query.expr))
    assert set(re.findall(r"\w+", grouped)) <= known


def test_queries_select_series_by_name() -> None:
    """No metric is used without a selector: it would mix in what others expose under the same name."""
    for query in QUERIES:
        bare = re.findall(r"\b((?:slidecascade|process)_\w+)\b(?!\{)", query.expr)
        assert not bare, query.owner


def test_every_metric_is_shown(exposed: dict[str, set[str]], exposed_by_bridge: dict[str, set[str]]) -> None:
    """What the service and the bridge count can be seen on their dashboards."""
    for dashboard, found in ((DASHBOARD, exposed), (LIS_DASHBOARD, exposed_by_bridge)):
        shown = {
            name for query in panel_queries(dashboard) for name in re.findall(r"\bslidecascade_\w+", query.expr)
        }
        families = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in shown}
        for name in found:
            family = re.sub(r"_(bucket|sum|count|created)$", "", name)
            if name.startswith("slidecascade_"):
                assert {family, f"{family}_total"} & families


def test_every_alert_says_what_to_do() -> None:
    """Each has a time it must last, a severity, a summary that names the instance, and a first thing to do."""
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert re.fullmatch(r"\d+m", rule["for"])
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert "{{ $labels.instance }}" in rule["annotations"]["summary"]
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["annotations"]["runbook"].endswith(".")


def test_every_alert_is_tested() -> None:
    """Each alert fires in one of promtool's scenarios."""
    tested = set(re.findall(r'alertname="(\w+)"', RULE_TESTS.read_text(encoding="utf-8")))
    assert tested == {rule["alert"] for rule in rules()}


def test_settings_named_in_runbooks_exist() -> None:
    """Settings named in messages exist."""
    from slidecascade.settings import Settings

    named = set(re.findall(r"SLIDECASCADE_(\w+)", RULES.read_text(encoding="utf-8")))
    assert named
    assert {name.lower() for name in named} <= set(Settings.model_fields)


@pytest.mark.parametrize(
    "arguments",
    [["check", "rules", RULES], ["check", "config", PROMETHEUS], ["test", "rules", RULE_TESTS]],
    ids=["rules", "config", "alerts"],
)
def test_promtool_agrees(arguments: list[str | Path]) -> None:
    """Prometheus' own checker finds no fault; its scenarios fire what they should and nothing else."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not on this machine (Debian: apt-get install prometheus)")
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


@DASHBOARDS
def test_the_dashboard_can_be_imported(dashboard: Path) -> None:
    """What Grafana insists on: ids and places of panels that do not collide, queries with letters, variables."""
    document = loaded(dashboard)
    assert document["id"] is None  # Grafana gives it one
    assert document["uid"] == dashboard.stem
    ids = [panel["id"] for panel in document["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in document["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = set(
            itertools.product(
                range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
            )
        )
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in panels(dashboard):
        assert panel["description"].endswith(".")
        assert [target["refId"] for target in panel["targets"]] == list("ABCD"[: len(panel["targets"])])
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])


@DASHBOARDS
def test_the_dashboard_uses_the_variables_it_has(dashboard: Path) -> None:
    """No query waits for a variable that is not defined, and every defined one is used."""
    used = set(re.findall(r"\$(\w+)", " ".join(query.expr for query in panel_queries(dashboard))))
    assert used - {"__rate_interval"} == {variable["name"] for variable in variables(dashboard)} - {"datasource"}


def test_what_compose_mounts_is_there() -> None:
    """Every file and folder mounted from the repository exists, and is mounted read-only."""
    mounted = 0
    for name, service in loaded(COMPOSE)["services"].items():
        for volume in service["volumes"]:
            source, target, *mode = re.sub(r"\$\{\w+:-([^}]+)\}", r"\1", volume).split(":")
            assert target.startswith("/")
            if source in loaded(COMPOSE)["volumes"]:
                continue
            assert (DEPLOY / source).exists(), f"{name}: {source}"
            assert mode == ["ro"], f"{name}: {source}"
            mounted += 1
    assert mounted == 7


def test_compose_is_pinned_and_listens_on_loopback() -> None:
    """No image moves by itself, no port is open to the network, no process can gain rights."""
    document = loaded(COMPOSE)
    assert set(document["services"]) == {"slidecascade", "prometheus", "grafana", "triton"}
    for service in document["services"].values():
        assert re.search(r":v?\d+\.\d+[\w.-]*$", service["image"])
        assert service["ports"]
        assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in service["ports"])
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    hosts = [port.split(":")[1] for service in document["services"].values() for port in service["ports"]]
    assert len(set(hosts)) == len(hosts)
    assert document["services"]["triton"]["profiles"] == ["triton"]


def test_the_parts_find_each_other() -> None:
    """The scrape target, the data source, the dashboard's folder and the memory limit are those of compose."""
    services = loaded(COMPOSE)["services"]
    scrape = loaded(PROMETHEUS)["scrape_configs"][0]
    assert scrape["job_name"] == "slidecascade"
    target, port = scrape["static_configs"][0]["targets"][0].split(":")
    assert services[target]["ports"][0].endswith(f":{port}")
    source = loaded(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml")["datasources"][0]
    assert source["url"] == "http://prometheus:" + services["prometheus"]["ports"][0].split(":")[2]
    assert source["jsonData"]["timeInterval"] == loaded(PROMETHEUS)["global"]["scrape_interval"]
    folder = loaded(DEPLOY / "grafana" / "provisioning" / "dashboards" / "slidecascade.yaml")
    path = folder["providers"][0]["options"]["path"]
    assert f"./grafana/dashboards:{path}:ro" in services["grafana"]["volumes"]
    memory = next(rule["expr"] for rule in rules() if rule["alert"] == "SlideCascadeMemory")
    assert services["slidecascade"]["mem_limit"] == "8g"
    assert int(memory.rpartition(" ")[2]) == 6 * 2**30


def test_every_runner_can_be_chosen_in_the_image() -> None:
    """What is installed in the image and in a Bento is what the runners of the settings need."""
    root = DEPLOY.parent
    for variant in ("cpu", "gpu"):
        pinned = (root / "requirements" / f"service-{variant}.txt").read_text(encoding="utf-8")
        assert {"onnxruntime", "tritonclient", "grpcio"} <= set(
            re.findall(r"^(\w+)(?:-gpu)?(?:\[.*\])?==", pinned, re.MULTILINE)
        )
    assert "requirements/service-${VARIANT}.txt" in (root / "Dockerfile").read_text(encoding="utf-8")
    bento = loaded(root / "bentofile.yaml")
    assert bento["python"]["requirements_txt"] == "./requirements/service-cpu.txt"


def test_the_service_and_triton_of_compose_belong_together() -> None:
    """The service gets Triton's address and reads the folder that Triton serves."""
    from slidecascade.settings import Settings

    services = loaded(COMPOSE)["services"]
    environment = services["slidecascade"]["environment"]
    assert {name.removeprefix("SLIDECASCADE_").lower() for name in environment} <= set(Settings.model_fields)
    host, port = environment["SLIDECASCADE_TRITON_URL"].split(":")
    assert services[host]["ports"] == [f"127.0.0.1:{port}:{port}"]
    models = [volume for volume in services[host]["volumes"] if volume in services["slidecascade"]["volumes"]]
    assert [volume.rpartition("}:")[2] for volume in models] == [f"{environment['SLIDECASCADE_MODELS_DIR']}:ro"]
    assert environment["SLIDECASCADE_RUNNER"] == "${RUNNER:-local}"


def test_a_drain_outlasts_the_grace_before_compose_kills() -> None:
    """Compose waits longer than the service may take to finish what is in flight."""
    from slidecascade.settings import Settings

    period = loaded(COMPOSE)["services"]["slidecascade"]["stop_grace_period"]
    fields = Settings.model_fields
    assert int(period.removesuffix("s")) > fields["drain_grace_s"].default + fields["drain_notice_s"].default


def test_nothing_is_deployed_open_to_other_machines() -> None:
    """Compose asks for no key, as its ports are published on loopback only; a cluster needs the file of keys."""
    service = loaded(COMPOSE)["services"]["slidecascade"]
    assert service["environment"]["SLIDECASCADE_ALLOW_ANONYMOUS"] == "1"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    settings, *_ = yaml.safe_load_all((DEPLOY / "kubernetes" / "settings.yaml").read_text(encoding="utf-8"))
    deployment, *_ = yaml.safe_load_all((DEPLOY / "kubernetes" / "service.yaml").read_text(encoding="utf-8"))
    assert "SLIDECASCADE_ALLOW_ANONYMOUS" not in settings["data"]
    keys = Path(settings["data"]["SLIDECASCADE_KEYS_FILE"])
    pod = deployment["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    assert (mounts["keys"]["mountPath"], mounts["keys"]["readOnly"]) == (str(keys.parent), True)
    assert "secret" in next(volume for volume in pod["volumes"] if volume["name"] == "keys")


def test_the_image_needs_neither_root_nor_a_shell_nor_a_disk_to_write_to() -> None:
    """It runs as a user, checks its health with Python, and compose mounts its root read-only."""
    text = (DEPLOY.parent / "Dockerfile").read_text(encoding="utf-8")
    final = text.rpartition("FROM ")[2]
    assert re.search(r"^USER slidecascade$", final, re.MULTILINE)
    assert not re.search(r"^(CMD|ENTRYPOINT) [^\[]", final, re.MULTILINE), "a command of a shell"
    assert 'CMD ["python", "-c"' in final.partition("HEALTHCHECK")[2]
    assert "BENTOML_HOME=/tmp/" in final
    services = {**loaded(COMPOSE)["services"], **loaded(DEPLOY / "docker-compose.jobs.yaml")["services"]}
    base = loaded(COMPOSE)["services"]
    for name, service in (("slidecascade", base["slidecascade"]), ("worker", services["worker"])):
        assert service["read_only"] is True, name
        assert service["tmpfs"] == ["/tmp"], name  # noqa: S108 - of the container
        assert service["cap_drop"] == ["ALL"], name
        assert service["healthcheck"]["test"][:2] == ["CMD", "python"], name
        compile(service["healthcheck"]["test"][3], name, "exec")
    assert base["prometheus"]["read_only"] is base["grafana"]["read_only"] is True
