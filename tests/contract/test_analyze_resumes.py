"""``slidecascade analyze`` resumes a killed run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import cv2
import pytest

from served_process import environment
from toy_pipeline import ToyPipeline, blobs

LIMIT_S = 120.0


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyPipeline:
    return ToyPipeline(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "blobs.png"
    cv2.imwrite(str(path), blobs(11, 1100, 900, 700)[:, :, ::-1])
    return path


def start(toy: ToyPipeline, image: Path, out: Path, home: Path) -> subprocess.Popen[bytes]:
    words = ["analyze", str(image), "--pipeline", "toy", "--mpp", "0.5", "--tile-px", "64", "--out", str(out)]
    # A shell that runs the tests in the background ignores SIGINT for everything below it.
    heard = ["env", "--default-signal=INT"]
    return subprocess.Popen(
        [*heard, sys.executable, "-m", "slidecascade", *words, "--models", str(toy.models_dir)],
        env=environment(home, pipelines_dir=toy.pipelines_dir, threads=2),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def parts(out: Path) -> int:
    return len(list((out / ".slidecascade" / "parts").glob("0*.json")))


def features(out: Path) -> list[bytes]:
    lines = (out / "cells.geojson").read_bytes().splitlines()
    return sorted(line.rstrip(b",") for line in lines[1:-1])


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_any_moment_it_gives_the_cells_of_an_undisturbed_run(
    toy: ToyPipeline, image: Path, tmp_path: Path, seed: int
) -> None:
    """Kill -9 after some fields, or while files are written, again and again: the same features, ids included."""
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    process = start(toy, image, undisturbed, tmp_path)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    rng = random.Random(seed)  # noqa: S311  # moments, not secrets

    kills = 0
    most = 0
    process = start(toy, image, disturbed, tmp_path)
    while process.poll() is None:
        wanted = parts(disturbed) + rng.randint(1, 6)
        ends_at = time.monotonic() + LIMIT_S
        while process.poll() is None and parts(disturbed) < wanted and kills < 5:
            assert time.monotonic() < ends_at
            assert parts(disturbed) >= most or (disturbed / "summary.json").exists(), "a part is gone"
            most = max(most, parts(disturbed))
        with suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 0.03) if kills < 5 else LIMIT_S)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
            process = start(toy, image, disturbed, tmp_path)
    _, stderr = process.communicate()

    assert process.returncode == 0, stderr
    assert kills >= 2
    assert b"fields are finished" in stderr
    assert features(disturbed) == features(undisturbed)
    assert len(features(disturbed)) > 100
    names = sorted(path.name for path in disturbed.iterdir())
    assert names == ["cells.geojson", "cells.parquet", "figures", "heatmaps", "overlay.png", "summary.json"]
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (disturbed, undisturbed))
    assert ours | {"timings_s": {}} == theirs | {"timings_s": {}}
    for name in ("overlay.png", "heatmaps/red.png", "heatmaps/red.tiff", "cells.parquet"):
        assert (disturbed / name).read_bytes() == (undisturbed / name).read_bytes(), name


def test_ctrl_c_keeps_what_is_done(toy: ToyPipeline, image: Path, tmp_path: Path) -> None:
    """The exit code is 1, there is no stack trace, and the next run says what it need not do again."""
    out = tmp_path / "out"
    process = start(toy, image, out, tmp_path)
    ends_at = time.monotonic() + LIMIT_S
    while parts(out) < 2:
        assert time.monotonic() < ends_at
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert b"Traceback" not in stderr
    assert b"the same command continues" in stderr
    assert not (out / "summary.json").exists()
    again = start(toy, image, out, tmp_path)
    _, stderr = again.communicate(timeout=LIMIT_S)
    assert again.returncode == 0
    assert b"fields are finished" in stderr


def test_two_processes_do_not_write_to_one_folder(toy: ToyPipeline, image: Path, tmp_path: Path) -> None:
    """The second one is rejected at once, and the first one is not disturbed."""
    out = tmp_path / "out"
    first = start(toy, image, out, tmp_path)
    ends_at = time.monotonic() + LIMIT_S
    while parts(out) < 1:
        assert time.monotonic() < ends_at
    first.send_signal(signal.SIGSTOP)
    second = start(toy, image, out, tmp_path)
    _, stderr = second.communicate(timeout=LIMIT_S)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 1
    assert b"Another process" in stderr
    first.communicate(timeout=LIMIT_S)
    assert first.returncode == 0
