"""The benchmark against peers: its statistics, its judgement of cells, and that peers give the service's cells."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.peers.agreement import NOTHING, Agreement, agreement
from benchmarks.peers.cases import Case, make_cases
from benchmarks.peers.composition import Composition
from benchmarks.peers.figures import Load, Spread, Standing, percentile
from benchmarks.peers.joining import together
from benchmarks.peers.percell import OneByOne
from benchmarks.peers.plots import plot
from benchmarks.peers.process import PeerFailedError, Process, end, hold, release
from benchmarks.peers.rounds import Round, Started, closed
from benchmarks.peers.table import page, table
from benchmarks.peers.tuning import tolerable
from numpy.typing import NDArray

from made_analysis import make_analysis
from slidecascade.models.batches import batch_of
from slidecascade.models.tensors import Tensors
from slidecascade.outputs.cells import geojson
from slidecascade.runners.local import LocalRunner
from slidecascade.runners.runner import Runner

CASES = tuple(Case(number, b"", str(number).encode(), ()) for number in range(3))


def one_round(latencies: list[float], seconds: float, *, callers: int = 8, again: int = 0) -> Round:
    return Round(
        callers=callers,
        seconds=seconds,
        cpu_s=1.5 * seconds,
        latencies_s=tuple(latencies),
        again=again,
        answers=(),
    )


def test_a_percentile_is_the_value_of_some_request() -> None:
    """Nearest rank: of twenty values the 95th percentile is the nineteenth."""
    values = [float(number) for number in range(20, 0, -1)]
    assert percentile(values, 0.95) == 19
    assert percentile(values, 0.5) == 10
    assert percentile([7.0], 0.95) == 7


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that was slow in one round does not change a ratio."""
    ours = [one_round([0.1] * 10, 1.0), one_round([0.4] * 10, 4.0)]
    theirs = [one_round([0.2] * 10, 2.0), one_round([0.8] * 10, 8.0, again=2)]
    load = Load.of(theirs, ours)
    assert load.throughput_ratio == Spread(2.0, 2.0, 2.0)
    assert load.latency_ratio == Spread(2.0, 2.0, 2.0)
    assert load.cpu_ratio == Spread(2.0, 2.0, 2.0)
    assert (load.rounds, load.regions, load.again) == (2, 20, 2)
    assert load.regions_per_s == Spread(3.125, 1.25, 5.0)
    assert Load.of(theirs[:1], ours).throughput_ratio.median == 2.0


def standing(ratio: float, *, target: float | None = 3.0, **more: Any) -> Standing:
    """A contender that is `ratio` times slower, and whose p95 is twice as much longer."""
    load = Load.of([one_round([2 * ratio] * 4, ratio)], [one_round([1.0] * 4, 1.0)])
    fields: dict[str, Any] = {"name": "peer", "title": "A peer", "setup": "", "agreement": Agreement(cells=5)}
    return Standing(**(fields | {"target": target, "loads": (load,)} | more))


def test_a_target_holds_for_throughput_and_latency() -> None:
    """The worse of both decides; without a target, or without figures, there is nothing to meet."""
    assert standing(3.1).met() is True
    assert standing(2.9).met() is False
    assert standing(2.9, target=None).met() is None
    assert standing(2.9, loads=()).met() is None


def test_the_table_has_ratios_cells_and_targets() -> None:
    """One row for every contender, also for skipped ones."""
    text = table(
        [
            standing(1.0, name="ours", title="Ours", target=None),
            standing(4.0),
            standing(4.0, agreement=Agreement(cells=50, missing=2, other_class=1)),
            standing(4.0, title="Gone", loads=(), absent="it was not installed"),
        ],
        8,
    ).splitlines()
    assert text[0].startswith("| 8 callers | SlideCascade's throughput over it |")
    assert text[2] == "| Ours | 1 | 1 | 4.00 (4.00 to 4.00) | 2.00 s | 2.00 s | 1.00 (0.38 s) | the same | - |"
    assert "| **4.00 x** (4.00 to 4.00) | **8.00 x** (8.00 to 8.00) |" in text[3]
    assert text[3].endswith("| the same | 3 x: met |")
    assert "2 missing, 0 added, 1 in other classes of 50" in text[4]
    assert text[5] == "| Gone | - | - | - | - | - | - | - | it was not installed |"


def test_the_page_says_what_was_measured_on_what() -> None:
    """Machine, versions, models, warm-up, settings."""
    document = {
        "machine": {"processor": "A processor", "cores": 2},
        "plan": {"cases": 4, "rounds": 3, "side_px": 1024, "loads": ((1, 4), (8, 16))},
        "cells": [3, 9],
        "pipeline": "nash",
        "mpp": 0.25,
        "versions": {"onnxruntime": "1.2"},
        "models": {"nash-cell": "c02d8825c83a2d4c6e62"},
        "warm_up": "one region",
        "load_before": 0.1,
    }
    text = page([standing(4.0, setup="as it comes")], document)
    for part in (
        "A processor, 2 cores",
        "3 to 9 cells",
        "onnxruntime 1.2",
        "nash-cell c02d8825c83a;",
        "one region",
    ):
        assert part.removesuffix(";") in text
    assert text.index("| 8 callers |") < text.index("| 1 caller |")
    assert "- **A peer**: as it comes." in text


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    """Contenders without figures are left out."""
    plot([standing(1.0, name="ours"), standing(4.0), standing(4.0, loads=())], tmp_path / "peers.png", callers=8)
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def answer() -> bytes:
    return b"".join(geojson.encode(make_analysis(20)))


def changed(answer: bytes, change: Callable[[list[dict[str, Any]]], object]) -> bytes:
    document = json.loads(answer)
    change(document["features"])
    return json.dumps(document).encode()


def test_the_same_cells_agree(answer: bytes) -> None:
    """Equal bytes, and equal cells in other bytes."""
    assert agreement(answer, answer) == Agreement(cells=20)
    found = agreement(answer, changed(answer, lambda cells: cells.reverse()))
    assert found.same
    assert found.least_iou == 1


def test_other_cells_are_counted(answer: bytes) -> None:
    """A cell that is not there, one that is new, and one of another class."""
    assert agreement(answer, changed(answer, lambda cells: cells.pop())).missing == 1
    assert agreement(changed(answer, lambda cells: cells.pop()), answer).added == 1
    renamed = changed(answer, lambda cells: cells[3]["properties"]["classification"].update(name="Gold"))
    assert agreement(answer, renamed).other_class == 1
    total = sum([agreement(answer, renamed), agreement(answer, answer)], start=NOTHING)
    assert (total.cells, total.other_class, total.same) == (40, 1, False)


@pytest.mark.parametrize("given", [b"", b"{}", b"[]", b'{"features": 3}'])
def test_an_answer_that_is_not_the_services_is_an_error(answer: bytes, given: bytes) -> None:
    """An error page is not an answer without cells."""
    with pytest.raises(ValueError, match="not GeoJSON of the service"):
        agreement(answer, given)


def test_a_closed_loop_sends_each_region_once() -> None:
    """As many as asked for, the cases in turn, never more at a time than there are callers."""
    lock, inside, most = threading.Lock(), 0, 0

    def ask(case: Case) -> bytes:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.005)
        with lock:
            inside -= 1
        return case.answer

    done = closed(Started(ask=ask, process=None), CASES, callers=4, regions=10)
    assert sorted(number for number, _ in done.answers) == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len(done.latencies_s) == 10
    assert most == 4
    assert done.regions_per_s == pytest.approx(10 / done.seconds)


def test_a_region_that_fails_is_sent_again() -> None:
    """Each attempt counts in its latency; a third failure ends the round."""
    failures = iter([True, True, False])

    def ask(case: Case) -> bytes:
        if next(failures, True):
            raise ConnectionResetError("gone")
        return case.answer

    assert closed(Started(ask=ask, process=None), CASES, callers=1, regions=1).again == 2
    with pytest.raises(PeerFailedError, match="3 times"):
        closed(Started(ask=ask, process=None), CASES, callers=1, regions=1)


class Counting:
    """Says how many images each call had, and adds one to each."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def run(self, model: str, inputs: Tensors) -> Tensors:
        self.sizes.append(batch_of(inputs))
        if model == "broken":
            raise ValueError("broken")
        return {"corner": inputs["image"][:, 0, 0] + 1}

    def close(self) -> None: ...


def test_joined_regions_run_as_one_batch() -> None:
    """Every caller gets its own part; one who is done is not waited for."""
    runner = Counting()

    def work(number: int, joined: Runner) -> list[int]:
        answers = [joined.run("first", {"image": np.full((number, 4, 4, 3), number, np.uint8)})]
        if number > 1:
            answers.append(joined.run("second", {"image": np.full((1, 4, 4, 3), 10 * number, np.uint8)}))
        return [int(value) for part in answers for value in part["corner"][:, 0]]

    assert together([1, 2, 3], work, runner) == [[2], [3, 3, 21], [4, 4, 4, 31]]
    assert runner.sizes == [6, 2]


def test_a_joined_batch_that_fails_raises_in_every_caller() -> None:
    """No caller waits without end."""
    with pytest.raises(ValueError, match="broken"):
        together(
            [1, 2], lambda _, joined: joined.run("broken", {"image": np.zeros((1, 4, 4, 3), np.uint8)}), Counting()
        )


@pytest.fixture(scope="module")
def case() -> Case:
    return make_cases(Composition.load(), count=1, side_px=256)[0]


class InProcess:
    """A network's service without the way there."""

    def __init__(self, model: str, runner: Runner) -> None:
        self._model = model
        self._runner = runner
        self.calls = 0

    def infer(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        self.calls += 1
        assert len(images) == 1
        (output,) = self._runner.run(self._model, {"image": images}).values()
        return output


def services(composition: Composition) -> dict[str, InProcess]:
    runner = LocalRunner(composition.packages)
    return {model.name: InProcess(model.name, runner) for model in composition.pipeline.models}


def test_the_naive_composition_gives_the_same_cells(case: Case) -> None:
    """A call per tile and per cell, byte for byte."""
    composition = Composition.load()
    assert len(json.loads(case.answer)["features"]) > 3
    assert {model for model, _ in case.calls} >= {"nuclei-unet", "nash-cell"}
    networks = services(composition)
    given = composition.answer(case.png, OneByOne(networks))
    assert agreement(case.answer, given).same
    assert networks["nash-cell"].calls == len(json.loads(case.answer)["features"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # those of BentoML
def test_every_network_of_the_composition_is_a_naive_service() -> None:
    from benchmarks.peers import naive_app

    names = {package.spec.name for package in Composition.load().packages}
    for networks in (naive_app.NETWORKS, naive_app.TUNED_NETWORKS):
        assert {network.model for network in networks} == names


def test_every_network_of_the_composition_is_a_keras_model_again(case: Case) -> None:
    """With the same cells, tile by tile and cell by cell."""
    pytest.importorskip("keras", reason="Keras is not installed")
    from benchmarks.peers.published_app import Predict

    composition = Composition.load()
    given = composition.answer(case.png, Predict(composition.packages))
    assert tolerable(agreement(case.answer, given))


def test_joined_regions_give_the_same_cells(case: Case) -> None:
    """Regions in one batch change nothing in each other's answers."""
    composition = Composition.load()
    for given in together([case.png] * 2, composition.answer, LocalRunner(composition.packages)):
        assert agreement(case.answer, given).same


def soon(condition: Callable[[], bool]) -> bool:
    ends_at = time.monotonic() + 10
    while not condition() and time.monotonic() < ends_at:
        time.sleep(0.01)
    return condition()


def state(process: Process) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]


def test_a_server_is_ended_with_all_it_started() -> None:
    """Also what does not listen to a request to end, and what was held still."""
    code = (
        "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); print('up', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert child.stdout is not None
    with child.stdout:
        child.stdout.readline()
    process = Process.of(child.pid)
    assert process is not None
    family = process.family()
    hold(process)
    try:
        assert soon(lambda: all(state(member) == "T" for member in family))
        release(process)
        assert soon(lambda: all(state(member) == "S" for member in family))
        hold(process)
    finally:
        end(family, child)
    assert len(family) == 2
    assert child.returncode == -signal.SIGTERM
    assert soon(lambda: not [member for member in family if Process.of(member.pid) == member])


def test_a_number_that_was_given_anew_is_another_process() -> None:
    """A process that ended long ago is never signalled under its old number."""
    mine = Process.of(os.getpid())
    assert mine is not None
    assert Process(mine.pid, mine.started + 1) != Process.of(os.getpid())
    Process(mine.pid, mine.started + 1).send(signal.SIGKILL)
