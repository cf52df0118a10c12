"""``slidecascade models list|show|verify``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from slidecascade.errors import UnknownModelError
from slidecascade.registry import ModelPackage, load_repository
from slidecascade.runners.local import LocalRunner
from slidecascade.settings import read_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|verify")
    for action, told in (
        ("list", "one line per model"),
        ("show", "all that a model's package states"),
        ("verify", "check sha256 and shapes and run each model once"),
    ):
        action_parser = actions.add_parser(action, help=told)
        action_parser.add_argument("--models", type=Path, help="the models folder")
        if action != "list":
            action_parser.add_argument("name", nargs=None if action == "show" else "?", help="a model's name")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0, or an error for a package that must not be served."""
    packages = load_repository(read_settings(models_dir=arguments.models).models_dir)
    if arguments.action == "list":
        for package in packages.values():
            sys.stdout.write(_line(package))
        return 0
    chosen = list(packages.values()) if arguments.name is None else [_find(packages, arguments.name)]
    if arguments.action == "show":
        sys.stdout.write(
            yaml.safe_dump(chosen[0].spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        )
        return 0
    for package in chosen:
        LocalRunner([package]).close()
        sys.stdout.write(f"{package.spec.name}: sha256 and shapes are as stated, and it runs.\n")
    return 0


def _find(packages: Mapping[str, ModelPackage], name: str) -> ModelPackage:
    if name not in packages:
        raise UnknownModelError(f"There is no model {name!r}; there are {', '.join(packages) or 'none'}.")
    return packages[name]


def _line(package: ModelPackage) -> str:
    spec = package.spec
    accuracy = ", ".join(f"{name} {value:g}" for name, value in list(spec.accuracy.items())[:1])
    return f"{spec.name:20} v{spec.version}  {spec.task:9} {spec.mpp:g} um/px  {accuracy}\n"
