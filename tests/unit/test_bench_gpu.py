"""The GPU benchmark where there is none: what it says, what it makes of nvidia-smi's words, its way through."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import card

from slidecascade.models.repository import load_repository
from slidecascade.settings import bundled_models_dir

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = """#!/bin/sh
case "$*" in
  *name*) echo "Stand-in 1000, 580.65, 81559" ;;
  *) while echo "40, 2100"; do echo "[N/A], 0"; echo "60, 2300"; sleep 0.05; done ;;
esac
"""


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The benchmark in a process of its own that finds no nvidia-smi but one in `folder`."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(folder / "gpu.json"), *arguments]
    environment = os.environ | {"PATH": f"{folder}:/bin:/usr/bin"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A folder with a program that talks as nvidia-smi does."""
    (tmp_path / "nvidia-smi").write_text(STAND_IN)
    (tmp_path / "nvidia-smi").chmod(0o755)
    return tmp_path


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    """One sentence, a good end, no file; also where the program is there and lists no GPU."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    done = bench(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, gpu.NO_GPU + "\n", "")
    assert not (tmp_path / "gpu.json").exists()


def test_without_nvidia_smi_no_card_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is not installed is not called."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert card.find_card(0) is None


def test_an_unusable_gpu_is_reported(stand_in: Path) -> None:
    """A GPU is there, but not ONNX Runtime's part for it: the setting and what to do, and no figures."""
    done = bench(stand_in, "--width", "64", "--height", "64")
    assert done.returncode == 1
    assert "install the [gpu] extra" in done.stderr
    assert not (stand_in / "gpu.json").exists()


def test_everything_but_the_gpu(stand_in: Path) -> None:
    """The same measurement on the CPU: figures with machine, versions and models, and what was refused."""
    few = ["--width", "256", "--height", "128", "--callers", "1", "2", "--rounds", "1", "--threads", "2"]
    few += ["--batches", "2", "1"]
    done = bench(stand_in, "--devices", "cpu", "tensorrt", *few)
    assert done.returncode == 0, done.stderr
    assert "GPU busy  50%" in done.stdout
    figures = json.loads((stand_in / "gpu.json").read_text())
    packages = load_repository(bundled_models_dir())
    nash = ("nuclei-unet", "nash-cell", "nash-hepatocyte", "liver-fat")
    assert figures["models"] == {name: packages[name].spec.sha256 for name in nash}
    assert figures["card"] == {"name": "Stand-in 1000", "driver": "580.65", "memory_mib": 81559}
    assert "onnxruntime" in figures["versions"]
    assert "SLIDECASCADE_DEVICE" in figures["refused"]["tensorrt"]
    found = figures["devices"]["cpu"]
    assert sum(found["cells"].values()) > 0
    assert set(found["images_per_s"]["nash-cell"]) == {"1", "2"}
    one, two = found["loads"]
    assert (one["regions"], two["regions"]) == (1, 2)
    assert one["gpu"]["peak_memory_mib"] == 2300
    assert one["batches"]["nuclei-unet"]
    assert figures["cuda_over_tensorrt"] is None


def test_unknown_values_are_omitted() -> None:
    """A GPU that does not report its load, and no GPU."""
    assert card.busy("10, 100\n[N/A], 200\nnonsense\n20, 50\n") == card.Busy(2, 0.15, 100)
    assert card.busy("") == card.Busy(0, 0.0, 0)


def test_devices_are_compared_by_callers() -> None:
    """As a ratio of medians: above 1 the second is faster."""

    def figures(*medians: float) -> gpu.Figures:
        loads = [
            gpu.Load(
                callers=callers,
                regions=1,
                p50_s=median,
                p95_s=median,
                min_s=median,
                max_s=median,
                megapixels_per_s=1.0,
                cells_per_s=1.0,
                gpu=card.Busy(0, 0.0, 0),
                batches={},
            )
            for callers, median in zip((1, 8), medians, strict=True)
        ]
        return gpu.Figures(start_s=0.0, models={}, cells={}, images_per_s={}, loads=loads)

    assert gpu.compared(figures(0.3, 0.8), figures(0.2, 0.4)) == {1: 1.5, 8: 2.0}
