"""What bad luck does to a job: it ends in one result, that of an undisturbed run, or fails by name."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import toy_models
from fleet import FIELDS, SLIDE, Fleet, undisturbed, wait_for
from long_slide import write_long_slide
from postgres import Postgres
from slidecascade.jobs.records import JobRecord
from small_disk import fill, small_disk
from toy_pipeline import ToyPipeline

pytestmark = pytest.mark.slow

TAKE_OVER_S = 10.0
KILLS = 20


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.stop()
    server.close()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyPipeline:
    return ToyPipeline(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def expected(toy: ToyPipeline, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The features of an undisturbed run."""
    folder = tmp_path_factory.mktemp("slides")
    write_long_slide(folder / SLIDE)
    found = undisturbed(toy, folder)
    assert len(found) > 500
    return found


@pytest.fixture
def fleet(server: Postgres, toy: ToyPipeline, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(toy, tmp_path, server.database())
    yield fleet
    fleet.close()


def succeeded(fleet: Fleet, job: str, expected: list[bytes]) -> JobRecord:
    """The job, which has ended in the features `expected`, with every field once."""
    record = fleet.ended(job)
    assert (record.status, record.failure) == ("succeeded", None)
    assert record.fields_done == record.fields_total == FIELDS
    assert fleet.features(job) == expected
    return record


def test_twenty_kills_within_one_slide_lose_and_repeat_nothing(fleet: Fleet, expected: list[bytes]) -> None:
    """Kill -9 of a worker at random moments, from planning to the files: the features of an undisturbed run.

    A field over which three workers happen to die is given up, as it must be: then the job is retried.
    """
    rng = random.Random(7)  # noqa: S311  # moments, not secrets
    job = fleet.submit()
    alive = [fleet.launch(jobs_lease_s=1) for _ in range(3)]
    for kill in range(KILLS):
        due = min(FIELDS - 2, kill + rng.randint(0, 2))
        wait_for(lambda due=due: len(fleet.parts(job)) >= due or fleet.records.get(job).ended, f"part {due}")  # type: ignore[misc]
        if fleet.records.get(job).failure is not None:
            assert fleet.records.get(job).failure.problem == "worker-lost"  # type: ignore[union-attr]
            fleet.records.retry(job)
        victim = alive.pop(rng.randrange(3))
        moment = time.monotonic() + rng.uniform(0, 0.3)
        wait_for(lambda moment=moment: time.monotonic() >= moment, "the moment")  # type: ignore[misc]
        victim.send(signal.SIGKILL)
        alive.append(fleet.launch(jobs_lease_s=1))
    if fleet.ended(job).failure is not None:
        fleet.records.retry(job)
    succeeded(fleet, job, expected)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_the_field_of_a_lost_worker_is_taken_over(
    fleet: Fleet, expected: list[bytes], how: signal.Signals, record_property: Callable[[str, object], None]
) -> None:
    """Within ten seconds another one begins it; a worker that wakes up later changes nothing."""
    first = fleet.start(held=True)
    job = fleet.submit()
    wait_for(lambda: bool(first.begun()), "the first field", log=first.log)
    (lost,) = first.begun()
    second = fleet.start()
    first.send(how)
    since = time.monotonic()
    wait_for(lambda: lost in second.begun(), "the take-over", log=second.log)
    seconds = time.monotonic() - since
    record_property("take_over_s", round(seconds, 2))
    print(f"take-over after {how.name}: {seconds:.2f} s")
    assert seconds <= TAKE_OVER_S
    if how == signal.SIGSTOP:
        fleet.wait_for_parts(job, 5)
        first.release()
        first.send(signal.SIGCONT)
    record = succeeded(fleet, job, expected)
    assert record.attempt == 1
    if how == signal.SIGSTOP:
        assert first.process.poll() is None
        again = fleet.submit()  # it works on as if nothing had happened
        succeeded(fleet, again, expected)


def test_a_field_that_kills_its_workers_is_given_up(fleet: Fleet, expected: list[bytes]) -> None:
    """After three deaths the job fails by name, and its neighbour succeeds; `--processes` starts workers again."""
    parent = fleet.launch(words=["--processes", "2"], jobs_lease_s=1)
    (parent.gate / "deadly").write_text("3")
    job = fleet.submit()
    record = fleet.ended(job)
    assert record.failure is not None
    assert record.failure.problem == "worker-lost"
    assert "3 processes died" in record.failure.detail
    deaths = len(list(parent.gate.glob("at-*-3")))
    assert deaths == 3
    assert parent.text().count('"a worker has ended"') == 3
    (parent.gate / "deadly").unlink()
    succeeded(fleet, fleet.submit(), expected)
    parent.process.terminate()
    assert parent.process.wait(60) == 0


def test_an_orderly_stop_gives_fields_back_and_is_no_death(fleet: Fleet, expected: list[bytes]) -> None:
    """SIGTERM in the same field three times, as by updates of the program: the next worker goes on at once."""
    job = fleet.submit()
    for _ in range(3):
        worker = fleet.start(held=True)
        wait_for(lambda worker=worker: bool(worker.begun()), "a field", log=worker.log)  # type: ignore[misc]
        worker.send(signal.SIGTERM)
        assert worker.process.wait(60) == 0
    fleet.start()
    succeeded(fleet, job, expected)
    assert "worker-lost" not in fleet.workers[-1].text()


def test_a_database_that_restarts_is_waited_for(fleet: Fleet, server: Postgres, expected: list[bytes]) -> None:
    """Postgres dies within a field and comes back: the field is not run again, no worker is taken for dead."""
    workers = [fleet.start(held=True), fleet.start(held=True)]
    job = fleet.submit()
    wait_for(lambda: all(worker.begun() for worker in workers), "fields of both", log=workers[0].log)
    server.stop()
    for worker in workers:
        worker.wait_for("the queue cannot be reached")
        worker.release()
    wait_for(lambda: len(fleet.parts(job)) >= 2, "parts written meanwhile", log=workers[0].log)
    server.start()
    succeeded(fleet, job, expected)
    assert all("work taken over" not in worker.text() for worker in workers)
    begun = [index for worker in workers for index in sorted(worker.begun())]
    assert len(begun) == len(set(begun))


@pytest.mark.parametrize("hours", ["8760", "-8760"])
def test_clocks_that_jump_change_nothing(fleet: Fleet, expected: list[bytes], hours: str) -> None:
    """The clocks of two workers differ, and one jumps by a year within a field: nobody is taken for dead."""
    first, second = fleet.start(held=True), fleet.start(held=True)
    (second.gate / "hours").write_text("-30")
    job = fleet.submit()
    wait_for(lambda: bool(first.begun()) and bool(second.begun()), "fields of both", log=first.log)
    (first.gate / "hours").write_text(hours)
    ends_at = time.monotonic() + 4.0  # longer than a lease
    wait_for(lambda: time.monotonic() >= ends_at, "a lease")
    first.release()
    second.release()
    succeeded(fleet, job, expected)
    assert "work taken over" not in first.text() + second.text()


def test_a_slide_that_is_replaced_fails_its_job_by_name(fleet: Fleet, toy: ToyPipeline) -> None:
    """Nothing of the new slide is mixed in; a retry analyses the new one."""
    worker = fleet.start(held=True)
    job = fleet.submit()
    wait_for(lambda: bool(worker.begun()), "a field", log=worker.log)
    write_long_slide(fleet.slides / "new", seed=90)
    (fleet.slides / "new").replace(fleet.slides / SLIDE)
    worker.release()
    record = fleet.ended(job)
    assert record.failure is not None
    assert record.failure.problem == "slide-changed"
    assert not fleet.parts(job)
    fleet.records.retry(job)
    succeeded(fleet, job, undisturbed(toy, fleet.slides))


def test_a_slide_that_vanishes_fails_its_job_by_name(fleet: Fleet, expected: list[bytes]) -> None:
    """When it is back, a retry goes on with the parts there are."""
    worker = fleet.start()
    job = fleet.submit()
    fleet.wait_for_parts(job, 2)
    worker.hold()
    (fleet.slides / SLIDE).rename(fleet.home / "away")
    worker.release()
    record = fleet.ended(job)
    assert record.failure is not None
    assert record.failure.problem == "unknown-slide"
    kept = fleet.parts(job)
    assert kept
    (fleet.home / "away").rename(fleet.slides / SLIDE)
    fleet.records.retry(job)
    succeeded(fleet, job, expected)
    assert fleet.records.get(job).fields_before >= len(kept)


def test_a_model_that_is_updated_fails_the_jobs_that_began_without_it(server: Postgres, tmp_path: Path) -> None:
    """No result has cells of two models; the job's problem says what happened, and a retry takes the new one."""
    own = ToyPipeline(tmp_path / "toy")
    fleet = Fleet(own, tmp_path / "fleet", server.database())
    try:
        worker = fleet.start()
        job = fleet.submit()
        fleet.wait_for_parts(job, 2)
        worker.send(signal.SIGTERM)
        assert worker.process.wait(60) == 0
        shutil.rmtree(own.models_dir / "toy-classifier")
        graph = toy_models.fragile_classifier(72)
        toy_models.write_package(own.models_dir, toy_models.classifier_fields("toy-classifier", 72), graph)
        fleet.start()
        record = fleet.ended(job)
        assert record.failure is not None
        assert record.failure.problem == "model-changed"
        fleet.records.retry(job)
        assert fleet.ended(job).status == "succeeded"
        assert fleet.features(job) == undisturbed(own, fleet.slides)
    finally:
        fleet.close()


@pytest.mark.parametrize("suffix", ["parquet", "edge", "json"])
def test_a_part_that_is_damaged_on_the_disk_is_made_again(
    fleet: Fleet, expected: list[bytes], suffix: str
) -> None:
    """Truncated while the job runs: the digests show it."""
    worker = fleet.start()
    job = fleet.submit()
    fleet.wait_for_parts(job, 1)
    worker.hold()
    path = fleet.jobs / job / "parts" / f"{min(fleet.parts(job)):05d}.{suffix}"
    path.write_bytes(path.read_bytes()[:-20])
    worker.release()
    succeeded(fleet, job, expected)


def test_what_a_killed_worker_left_half_written_is_removed(fleet: Fleet, expected: list[bytes]) -> None:
    """A part, a result and a heatmap, each under its temporary name: none is there when the job has succeeded."""
    worker = fleet.start(held=True)
    job = fleet.submit()
    wait_for(lambda: bool(worker.begun()), "a field", log=worker.log)
    for name in ("parts/.00003.parquet", "results/.cells.geojson.gz", "results/heatmaps/.nuclei.png"):
        path = fleet.jobs / job / f"{name}.partial-1"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    worker.release()
    succeeded(fleet, job, expected)


@pytest.fixture
def full_soon(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", mib=4) as folder:
        yield folder


def test_a_full_disk_is_waited_for(
    server: Postgres, toy: ToyPipeline, full_soon: Path, expected: list[bytes]
) -> None:
    """The job waits, the log says `storage-full`, nothing is half written; with room again it goes on."""
    fleet = Fleet(toy, full_soon / "f", server.database())
    try:
        worker = fleet.start(held=True)
        job = fleet.submit()
        wait_for(lambda: bool(worker.begun()), "a field", log=worker.log)
        fill(full_soon / "filler")
        worker.release()
        wait_for(lambda: "storage-full" in logged(worker.log), "the problem", log=worker.log)
        assert fleet.records.get(job).status == "running"
        assert not list(fleet.jobs.rglob("*.partial-*"))
        (full_soon / "filler").unlink()
        succeeded(fleet, job, expected)
    finally:
        fleet.close()


def logged(path: Path) -> str:
    return path.read_text(encoding="utf-8")
