"""The settings of peers: every one reaches its program, and the best are found before measuring."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from benchmarks.peers import contenders as peers
from benchmarks.peers.agreement import Agreement
from benchmarks.peers.cases import HELD_OUT_SEED, MEASURED_SEED, Case
from benchmarks.peers.composition import Composition
from benchmarks.peers.contenders import Candidate, Contender, Place, contenders
from benchmarks.peers.figures import Standing, Trial
from benchmarks.peers.knobs import BentoKnobs, Knobs, LitServeKnobs, TritonKnobs
from benchmarks.peers.plain_triton import configured
from benchmarks.peers.process import ROOT, PeerFailedError, Process
from benchmarks.peers.rounds import Started
from benchmarks.peers.table import page
from benchmarks.peers.triton_server import TritonServer
from benchmarks.peers.tuning import Effort, tune

from made_analysis import make_analysis
from slidecascade.errors import ModelFailedError
from slidecascade.outputs.cells import geojson

PEERS = Path(peers.__file__).parent
APPS = ("lit_app", "ray_app", "published_app")


@dataclass
class Launches:
    """Starts nothing and keeps what it was to start: commands, their variables, model folders of Triton."""

    commands: list[list[str]] = field(default_factory=list)
    variables: list[Mapping[str, str]] = field(default_factory=list)
    triton_configs: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def launch(self, _name: str, command: Sequence[str], **more: Any) -> Iterator[Process]:
        self.commands.append(list(command))
        self.variables.append(more["variables"])
        process = Process.of(os.getpid())
        assert process is not None
        yield process

    @contextlib.contextmanager
    def serve_triton(self, models: Path, folder: Path) -> Iterator[TritonServer]:
        self.triton_configs += [path.read_text(encoding="utf-8") for path in sorted(models.glob("*/config.pbtxt"))]
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            yield TritonServer(process, 1, 2, folder / "log", "prefix")

    def of(self, candidate: Candidate, folder: Path) -> Launches:
        """What starting `candidate` led to."""
        place = Place(
            cases=(),
            folder=folder,
            composition=Composition.load(),
            launch=self.launch,
            serve_triton=self.serve_triton,
            python_of=lambda name: Path(f"/environments/{name}/python"),
        )
        with candidate.start(place):
            pass
        return self


CHOICES = [
    pytest.param(contender.name, number, id=f"{contender.name}-{number}")
    for contender in contenders()
    for number, candidate in enumerate(contender.candidates)
    if candidate.knobs.values()
]


@pytest.mark.parametrize(("name", "number"), CHOICES)
def test_every_setting_of_a_contender_is_in_what_it_launches(name: str, number: int, tmp_path: Path) -> None:
    """On the command line after the setting's name, in a variable of its name, or in Triton's configuration."""
    candidate = next(each for each in contenders() if each.name == name).candidates[number]
    launches = Launches().of(candidate, tmp_path)
    knobs = candidate.knobs
    if isinstance(knobs, TritonKnobs):
        assert len(launches.triton_configs) == len(Composition.load().packages)
        for text in launches.triton_configs:
            assert re.findall(r"\bcount: (\d+)", text) == [str(knobs.instances)]
            assert re.findall(r"max_batch_size: (\d+)", text) == [str(knobs.batch)]
            assert re.findall(r"max_queue_delay_microseconds: (\d+)", text) == [str(knobs.delay_us)]
        return
    (command,), (variables,) = launches.commands, launches.variables
    for setting, value in knobs.values():
        if isinstance(knobs, BentoKnobs):
            assert variables[f"PEER_{setting.upper()}"] == value
        else:
            option = f"--{setting.replace('_', '-')}"
            assert command.count(option) == 1
            assert command[command.index(option) + 1] == value


def test_no_two_choices_of_a_program_are_launched_alike(tmp_path: Path) -> None:
    """Rows of a table with different names are different configurations: LitServe with batching and without."""
    seen: dict[str, str] = {}
    for contender in contenders():
        if contender.name.startswith(("litserve", "ray", "naive")):
            for number, candidate in enumerate(contender.candidates):
                folder = tmp_path / f"{contender.name}-{number}"
                folder.mkdir()
                launches = Launches().of(candidate, folder)
                own = {key: value for key, value in launches.variables[0].items() if key.startswith("PEER_")}
                command = [word for word in launches.commands[0] if not word.isdigit() or len(word) < 4]
                key = re.sub(r"\S*/ray-\w+", "folder", f"{command} {own}")
                assert key not in seen, f"{contender.name} {candidate.knobs} is {seen[key]}"
                seen[key] = f"{contender.name} {candidate.knobs}"
    assert len(seen) > 10


def test_batching_and_no_batching_differ_in_the_batch() -> None:
    """The contender that is called unbatched has batches of one in all its choices, the other in none."""
    sizes = {
        contender.name: {
            candidate.knobs.batch
            for candidate in contender.candidates
            if isinstance(candidate.knobs, LitServeKnobs)
        }
        for contender in contenders()
        if contender.name.startswith("litserve")
    }
    assert sizes["litserve-unbatched"] == {1}
    assert min(sizes["litserve"]) > 1


@pytest.mark.parametrize("app", APPS)
def test_a_peers_program_reads_every_option_it_takes(app: str) -> None:
    """An option that is parsed and then ignored would be a setting that is claimed and not there."""
    tree = ast.parse((PEERS / f"{app}.py").read_text(encoding="utf-8"))
    taken = {
        node.args[0].value.removeprefix("--").replace("-", "_")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "add_argument"
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    }
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "arguments"
    }
    assert taken
    assert read == taken


def test_variables_of_the_bentoml_peer_are_those_it_reads() -> None:
    """Names in its source and names that are set are the same."""
    source = (PEERS / "naive_app.py").read_text(encoding="utf-8")
    knobs = BentoKnobs(workers=2, batch=32, latency_ms=1000)
    assert set(re.findall(r'environ\.get\("(\w+)"', source)) == set(knobs.variables())
    assert knobs.variables()["PEER_LATENCY_MS"] == "1000"


def test_a_configuration_of_triton_without_a_setting_is_an_error() -> None:
    """A setting that finds no place would be dropped in silence."""
    with pytest.raises(ValueError, match="'count' 0 times"):
        configured("max_batch_size: 1", TritonKnobs(instances=1, batch=1, delay_us=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyKnobs(Knobs):
    """How long a region takes."""

    pause_ms: int


ANSWER = b"".join(geojson.encode(make_analysis(20)))
OTHER = ANSWER.replace(b'"features":[', b'"features":[{"broken":1},')
HELD_OUT = (Case(0, b"", ANSWER, ()),)
EFFORT = Effort(candidates=9, rounds=2, regions=3, callers=2)


def toy(*choices: Callable[[ToyKnobs], Started] | int) -> Contender:
    """A contender whose choices take so many milliseconds, or start as they say."""

    def candidate(number: int, choice: Callable[[ToyKnobs], Started] | int) -> Candidate:
        knobs = ToyKnobs(pause_ms=choice if isinstance(choice, int) else number)

        @contextlib.contextmanager
        def start(_place: Place) -> Iterator[Started]:
            yield choice(knobs) if callable(choice) else Started(ask=slow(knobs.pause_ms), process=None)

        return Candidate(knobs=knobs, start=start)

    return Contender(
        name="toy", title="Toy", setup="", candidates=tuple(candidate(*each) for each in enumerate(choices))
    )


def slow(pause_ms: int) -> Callable[[Case], bytes]:
    def ask(case: Case) -> bytes:
        # Work, not sleep: processor time in proportion to the setting.
        sum(range(pause_ms * 20_000))
        return case.answer

    return ask


def place(_name: str) -> Place:
    return Place(cases=HELD_OUT, folder=Path(), composition=Composition.load())


def fails(_knobs: ToyKnobs) -> Started:
    raise PeerFailedError("first line\nno such device")


def breaks(_knobs: ToyKnobs) -> Started:
    """A contender that composes here, whose tile failed."""
    raise ModelFailedError("A tile failed.")


def wrong(_knobs: ToyKnobs) -> Started:
    return Started(ask=lambda _case: OTHER, process=None)


def test_the_fastest_settings_are_chosen() -> None:
    """Each choice is measured by itself, and what was tried is kept for the page."""
    chosen, trials = tune(toy(40, 1, 20), place, HELD_OUT, EFFORT)
    assert str(chosen.knobs) == "pause_ms=1"
    assert [trial.knobs for trial in trials] == ["pause_ms=40", "pause_ms=1", "pause_ms=20"]
    assert all(trial.regions_per_s > 0 for trial in trials)


def test_settings_that_fail_or_find_other_cells_are_not_chosen() -> None:
    """However fast; the reason is kept."""
    chosen, trials = tune(toy(fails, wrong, 30, breaks), place, HELD_OUT, EFFORT)
    assert str(chosen.knobs) == "pause_ms=30"
    assert trials[0].failure == "no such device"
    assert trials[1].failure
    assert trials[3].failure == "A tile failed."
    with pytest.raises(PeerFailedError, match="all of its settings: no such device"):
        tune(toy(fails, wrong), place, HELD_OUT, EFFORT)


def test_a_contender_without_a_choice_is_not_tried() -> None:
    """It is only started when it is measured."""
    assert tune(toy(fails), place, HELD_OUT, EFFORT)[1] == ()


def test_settings_are_chosen_on_regions_that_are_not_measured() -> None:
    """The specimens are others, for up to hundreds of cases."""
    assert HELD_OUT_SEED - MEASURED_SEED >= 100


def test_the_page_publishes_the_settings_and_what_was_tried() -> None:
    """The chosen ones beside the contender, all of them in a table."""
    trials = (Trial(knobs="batch=8", regions_per_s=2.5), Trial(knobs="batch=4", failure="it did not start"))
    standing = Standing(
        name="peer",
        title="A peer",
        setup="as it comes",
        target=None,
        knobs="batch=8",
        trials=trials,
        agreement=Agreement(cells=1),
    )
    document = {
        "machine": {"processor": "A processor", "cores": 2},
        "plan": {"cases": 4, "rounds": 3, "side_px": 1024, "loads": ((8, 16),)},
        "cells": [3],
        "pipeline": "nash",
        "mpp": 0.25,
        "versions": {},
        "models": {},
        "warm_up": "one region",
        "load_before": 0.1,
    }
    text = page([standing], document)
    assert "- **A peer**: as it comes; batch=8 (the fastest of 2 choices)." in text
    assert "| A peer | batch=8 | 2.50 | chosen |" in text
    assert "| A peer | batch=4 | it did not start |  |" in text


IMPORTS = """
import sys
from importlib.metadata import packages_distributions
import cv2, numpy as np
from benchmarks.peers.composition import Composition
from benchmarks.peers.imagenetworks import ImageNetworks
from benchmarks.peers.joining import together
from slidecascade.runners.local import LocalRunner
composition = Composition.load()
png = bytes(cv2.imencode(".png", np.full((64, 64, 3), 200, np.uint8))[1])
together([png], composition.answer, LocalRunner(composition.packages, threads_per_call=1))
distributions = packages_distributions()
tops = {name.split(".")[0] for name in sys.modules}
print(*sorted({each for top in tops for each in distributions.get(top, [])}))
"""
NEVER_PINNED = {"setuptools", "slidecascade"}


@pytest.mark.parametrize("peer", ["litserve", "ray"])
def test_a_peers_environment_has_what_the_services_code_imports(peer: str) -> None:
    """From decoding to GeoJSON; a peer that cannot start is skipped without an error."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True, cwd=ROOT)
    imported = {name.lower().replace("_", "-") for name in done.stdout.split()} - NEVER_PINNED
    text = (ROOT / "requirements" / f"peers-{peer}.txt").read_text(encoding="utf-8")
    pinned = {name.lower().replace("_", "-") for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}
    assert "simplejpeg" in imported
    assert imported <= pinned
