"""Figures as JSON, together with what they are of: the commit, the networks, the machine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any, Final

from benchmarks.machine import Machine

from slidecascade.models.repository import load_repository
from slidecascade.settings import bundled_models_dir

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results"
UNKNOWN: Final = "unknown"
_SHA_DIGITS: Final = 12
_SET_DIGITS: Final = 6
_WIDTH: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What figures are of.

    Attributes:
        commit: short hash of the checkout; "unknown" where there is no repository.
        changed: files other than results differed from that commit.
        networks: sha256 of each bundled network, by name.
        machine: where they were measured; None when only `noted_later`.
        noted_later: the measured commit was not recorded: `commit` is the one that added the figures.
    """

    commit: str
    changed: bool
    networks: Mapping[str, str]
    machine: Machine | None
    noted_later: bool = False

    @classmethod
    def here(cls) -> Provenance:
        """This checkout, its networks and this machine; take it before measuring."""
        commit = _git("rev-parse", f"--short={_SHA_DIGITS}", "HEAD") or UNKNOWN
        status = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
        packages = load_repository(bundled_models_dir())
        return cls(
            commit=commit,
            changed=bool(status),
            networks={name: package.spec.sha256 for name, package in sorted(packages.items())},
            machine=Machine.here(),
        )


def write(path: Path, figures: Mapping[str, Any], provenance: Provenance) -> None:
    """Write `figures` with `provenance` beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {**figures, "provenance": dataclasses.asdict(provenance)}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any] | None:
    """The figures of a file; None when it is absent, for its section to be left out."""
    if not path.is_file():
        return None
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def line(document: Mapping[str, Any], *, in_full: bool = False) -> list[str]:
    """The sentence of a page that says which commit and networks the figures of `document` are of.

    The networks are the name of their set, which `networks_table` lists on the same page, or `in_full` a list.
    """
    found = document.get("provenance")
    if found is None:
        return paragraph("The commit and the networks of these figures were not recorded.")
    if in_full:
        networks = ", ".join(f"{name} {sha256[:_SHA_DIGITS]}" for name, sha256 in found["networks"].items())
    else:
        networks = f"[{set_name(found['networks'])}](#networks)"
    if found["noted_later"]:
        return paragraph(
            f"Added in commit `{found['commit']}`, whose networks are {networks}; the commit measured was not "
            "recorded."
        )
    changed = " with uncommitted changes" if found["changed"] else ""
    machine = found["machine"]
    return paragraph(
        f"Of commit `{found['commit']}`{changed} and the networks {networks}; {machine['processor']}, "
        f"{machine['cores']} cores, load {machine['load_before']:g} before."
    )


def set_name(networks: Mapping[str, str]) -> str:
    """Six digits for a set of networks; unlike a count, they stay when other figures are measured anew."""
    text = "\n".join(f"{name} {sha256}" for name, sha256 in sorted(networks.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:_SET_DIGITS]


def networks_table(results: Path, page: str) -> list[str]:
    """The sets of networks that `page` names, a column each: first digits of the sha256 of every network."""
    found = (read(path) for path in sorted(results.glob("*.json")))
    sets = [document["provenance"]["networks"] for document in found if document and "provenance" in document]
    named = {set_name(networks): networks for networks in sets if f"[{set_name(networks)}]" in page}
    if not named:
        return []
    columns = sorted(named.items(), key=lambda item: page.index(f"[{item[0]}]"))
    rows = sorted({name for networks in named.values() for name in networks})
    return [
        "## Networks",
        "",
        "The sets that the sections name, with the first digits of the sha256 of each network.",
        "",
        f"| network | {' | '.join(name for name, _ in columns)} |",
        f"|---|{'---|' * len(columns)}",
        *(
            f"| {row} | {' | '.join(networks.get(row, '-')[:_SHA_DIGITS] for _, networks in columns)} |"
            for row in rows
        ),
    ]


def paragraph(text: str) -> list[str]:
    """Lines of at most 100 characters."""
    return wrap(text, width=_WIDTH, break_long_words=False, break_on_hyphens=False)


def commit_of(checkout: Path) -> str:
    """The commit of another checkout."""
    return _git("rev-parse", f"--short={_SHA_DIGITS}", "HEAD", folder=checkout) or UNKNOWN


def _git(*arguments: str, folder: Path | None = None) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder or ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
