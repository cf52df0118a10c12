"""The load test's own judgement: right and wrong answers, percentiles, growth of memory."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from benchmarks.load import exchanges
from benchmarks.load.answers import Reference, Verdict
from benchmarks.load.exchanges import Exchange, Figures, Latency, Outcome
from benchmarks.load.memory import Sample, growth_mib_per_hour
from benchmarks.page import page, write_page
from benchmarks.record import RESULTS

from made_analysis import make_analysis
from slidecascade.outputs.cells import geojson

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def answer() -> bytes:
    return b"".join(geojson.encode(make_analysis(20)))


def changed(answer: bytes, change: Any) -> bytes:
    """The answer with something done to its first cell."""
    document = json.loads(answer)
    change(document["features"][0])
    return json.dumps(document).encode()


def test_the_same_answer_is_identical(answer: bytes) -> None:
    """A second analysis of the same input is the same, byte for byte."""
    again = b"".join(geojson.encode(make_analysis(20)))
    assert Reference.of(answer).judge(again) is Verdict.IDENTICAL


def _score(by: float) -> Any:
    def change(cell: dict[str, Any]) -> None:
        cell["properties"]["measurements"]["Detection score"] += by

    return change


def test_a_last_digit_is_distinguished(answer: bytes) -> None:
    """A score one step off is equivalent, two digits off is another answer."""
    reference = Reference.of(answer)
    assert reference.judge(changed(answer, _score(1e-4))) is Verdict.EQUIVALENT
    assert reference.judge(changed(answer, _score(1e-2))) is Verdict.WRONG


@pytest.mark.parametrize(
    "change",
    [
        lambda cell: cell["properties"]["classification"].update(name="Gold"),
        lambda cell: cell["geometry"]["coordinates"][0].pop(),
        lambda cell: cell["properties"]["measurements"].popitem(),
        lambda cell: cell.update(id="other"),
        dict.clear,
    ],
)
def test_another_cell_is_wrong(answer: bytes, change: Any) -> None:
    """Class, outline, id and measurements all count."""
    assert Reference.of(answer).judge(changed(answer, change)) is Verdict.WRONG


@pytest.mark.parametrize("other", [b"", b"{", b"[]", b"{}", b'{"features": []}', b"null"])
def test_no_answer_is_wrong(answer: bytes, other: bytes) -> None:
    """What is no answer at all does not pass for one."""
    assert Reference.of(answer).judge(other) is Verdict.WRONG


def test_a_missing_or_doubled_cell_is_wrong(answer: bytes) -> None:
    """All cells of the region, each once."""
    for edit in (lambda cells: cells[1:], lambda cells: [*cells, cells[0]]):
        document = json.loads(answer)
        document["features"] = edit(document["features"])
        assert Reference.of(answer).judge(json.dumps(document).encode()) is Verdict.WRONG


def test_percentiles_are_latencies_of_requests() -> None:
    """Nearest rank: of a hundred the 50th, 95th and 99th."""
    latency = Latency.of([float(number) for number in range(100, 0, -1)])
    assert latency == Latency(p50_s=50, p95_s=95, p99_s=99)
    assert Latency.of([2.0]) == Latency(p50_s=2, p95_s=2, p99_s=2)
    assert Latency.of([]) is None


def test_rejections_are_not_errors_and_late_answers_not_throughput(tmp_path: Path) -> None:
    """Each request is counted once; only right answers within the round make throughput."""
    rows = [
        Exchange(1.0, 0.5, Outcome.IDENTICAL),
        Exchange(2.0, 0.7, Outcome.EQUIVALENT),
        Exchange(12.0, 9.0, Outcome.IDENTICAL),
        Exchange(3.0, 0.01, Outcome.REJECTED),
        Exchange(4.0, 0.2, Outcome.WRONG),
        Exchange(5.0, 0.2, Outcome.ERROR, "status 500"),
    ]
    exchanges.write(tmp_path / "records.jsonl", rows)
    assert exchanges.read(tmp_path / "records.jsonl") == rows
    figures = Figures.of(rows, seconds=10, users=2)
    assert (figures.sent, figures.answered, figures.equivalent) == (6, 3, 1)
    assert (figures.rejected, figures.wrong, figures.errors) == (1, 1, 1)
    assert figures.error_details == ("status 500",)
    assert figures.throughput_per_s == 0.2
    assert figures.latency is not None
    assert figures.latency.p99_s == 9.0


def test_growth_of_memory_is_that_of_the_second_half() -> None:
    """Filling caches in the first half is no leak; a steady climb in the second is."""
    warm = [Sample(float(second), 100 + min(second, 50)) for second in range(100)]
    assert growth_mib_per_hour(warm) == 0
    assert growth_mib_per_hour([Sample(float(second), second) for second in range(100)]) == 3600
    assert growth_mib_per_hour([]) == 0


def test_the_page_has_the_figures_that_are_there(tmp_path: Path) -> None:
    """A row for every round of load and one for the soak; without their files the page has no such sections."""
    for name in ("region-nash.json", "region-nuclei.json", "tiling.json"):
        shutil.copy(RESULTS / name, tmp_path / name)
    without = page(tmp_path)
    assert "Under load" not in without
    assert "minutes of" not in without
    for name in ("load.json", "load-soak.json"):
        shutil.copy(RESULTS / name, tmp_path / name)
    text = write_page(tmp_path).read_text(encoding="utf-8")
    report = json.loads((tmp_path / "load.json").read_text(encoding="utf-8"))
    for figures in report["closed"]:
        callers = f"{figures['users']} caller{'s' if figures['users'] > 1 else ''}"
        assert f"| {callers} | {figures['throughput_per_s']:.2f} | " in text
    assert text.count(" a second arriving | ") == len(report["open"])
    assert "## 10 minutes of 4 callers" in text
    assert re.findall(r"!\[.*?\]\((.*?)\)", text) == ["load-closed.png", "load-open.png", "load-soak.png"]


@pytest.mark.parametrize(
    ("module", "arguments", "says"),
    [
        ("benchmarks.load", ["--users", "0"], "'0' is not a whole number of at least 1"),
        ("benchmarks.load", ["--rates", "0.5,x"], "'x' is not a number above 0"),
        ("benchmarks.load", ["--seconds", "-1"], "'-1' is not a number above 0"),
        ("benchmarks.load", ["--pipeline", "gold"], "There is no pipeline 'gold': choose one of nash, nuclei."),
        ("benchmarks.load", ["--out", "/proc/none"], "Results cannot be written to /proc/none"),
        ("benchmarks.peers", ["--side", "0"], "'0' is not a whole number of at least 64"),
        ("slidecascade", ["bench", "region", "--rounds", "0"], "'0' is not a whole number of at least 1"),
        (
            "slidecascade",
            ["bench", "region", "--out", "/proc/none/x.json"],
            "Results cannot be written to /proc/none",
        ),
    ],
)
def test_a_wrong_call_is_reported_before_measuring(module: str, arguments: list[str], says: str) -> None:
    """In one sentence at the end of stderr, and not by a traceback after minutes."""
    if module == "benchmarks.load" and find_spec("locust") is None:
        pytest.skip("Locust is not installed: make bench-load installs it")
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(find_spec("locust") is None, reason="Locust is not installed: make bench-load installs it")
def test_a_short_load_test_finds_no_fault(tmp_path: Path) -> None:
    """Callers beyond the slots get 429 with `Retry-After`; everything else is answered right."""
    options = ["--seconds", "5", "--users", "1,12", "--rates", "1.5", "--cases", "3", "--side", "256"]
    environment = os.environ | {"SLIDECASCADE_MAX_REGIONS_IN_FLIGHT": "2", "SLIDECASCADE_RETRY_AFTER_S": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", "--out", str(tmp_path), "--soak-minutes", "0.05", *options],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "load.json").read_text(encoding="utf-8"))
    crowd = report["closed"][1]
    assert crowd["answered"] > 0
    assert crowd["rejected"] > 0
    soak = json.loads((tmp_path / "load-soak.json").read_text(encoding="utf-8"))["soak"]
    assert soak["peak_mib"] > 0
    for name in ("load-closed.png", "load-open.png", "load-soak.png"):
        assert (tmp_path / name).stat().st_size > 1000
