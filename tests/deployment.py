"""What lies in ``deploy/``, as the tests read it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "slidecascade.json"
LIS_DASHBOARD = DASHBOARD.with_name("slidecascade-lis.json")
PROMETHEUS = DEPLOY / "prometheus" / "prometheus.yml"
RULES = DEPLOY / "prometheus" / "rules" / "slidecascade.yml"
RULE_TESTS = DEPLOY / "prometheus" / "tests" / "alerts.yml"
COMPOSE = DEPLOY / "docker-compose.yaml"


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and whose it is."""

    owner: str
    expr: str

    def filled(self, *, window: str) -> str:
        """The expression with Grafana's variables as it fills them in when all of everything is chosen."""
        everything = {variable["name"]: variable["allValue"] for variable in variables() if "allValue" in variable}
        text = self.expr.replace("$__rate_interval", window)
        return re.sub(r"\$(\w+)", lambda found: str(everything[found[1]]), text)


def loaded(path: Path) -> Any:
    """A YAML or JSON file."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)


def variables(dashboard: Path = DASHBOARD) -> list[dict[str, Any]]:
    """A dashboard's variables."""
    return list(loaded(dashboard)["templating"]["list"])


def panels(dashboard: Path = DASHBOARD) -> list[dict[str, Any]]:
    """A dashboard's panels that show something."""
    return [panel for panel in loaded(dashboard)["panels"] if panel["type"] != "row"]


def panel_queries(dashboard: Path = DASHBOARD) -> Iterator[Query]:
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield Query(f"{panel['title']} {target['refId']}", target["expr"])


def rules() -> list[dict[str, Any]]:
    return [rule for group in loaded(RULES)["groups"] for rule in group["rules"]]


def rule_queries() -> Iterator[Query]:
    for rule in rules():
        yield Query(rule["alert"], rule["expr"])
