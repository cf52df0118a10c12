"""No process resolves a name, sends a packet, or writes to the user's home beyond what the README states."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import sys
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import sealed_network
import sealed_serving
import toy_dataset
from conftest import REPOSITORY
from sealed_network import ANSWER, Seen
from slidecascade.cli import main
from slidecascade.privacy import SWITCHES
from slidecascade.settings import bundled_models_dir

SLIDECASCADE = (sys.executable, "-m", "slidecascade")
BENTOML = (sys.executable, "-m", "bentoml")
GRAPH = bundled_models_dir() / "nuclei-unet" / "1" / "model.onnx"
LATE_S = 14.0
"""ONNX Runtime asks for its maker's host about ten seconds after it was imported."""

TRAINING_WRITES = {".keras", ".cache/matplotlib", ".config/matplotlib"}
"""Keras' settings and matplotlib's list of fonts: what `slidecascade train` leaves in the home, by the README."""


@dataclass(frozen=True, slots=True)
class Place:
    """A working folder, and a home that was empty."""

    folder: Path
    home: Path

    def run(self, *command: str, until_asked: bool = False, seconds: float = 300, **variables: str) -> Seen:
        """`command` in a network of its own, with an environment that has no switch."""
        environment = {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            **variables,
        }
        return sealed_network.run(
            command, variables=environment, folder=self.folder, until_asked=until_asked, seconds=seconds
        )

    def written(self) -> set[str]:
        """The files in the home."""
        return {path.relative_to(self.home).as_posix() for path in self.home.rglob("*") if not path.is_dir()}

    def require_silence(self, seen: Seen, *, allowed: AbstractSet[str] = frozenset()) -> None:
        """The command succeeded without network access, and wrote only below `allowed`."""
        assert seen.code == 0, seen.output
        assert (seen.names, seen.destinations) == ((), ())
        strange = {name for name in self.written() if not any(name.startswith(f"{top}/") for top in allowed)}
        assert strange == set()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    sealed_network.require()
    made = Place(tmp_path / "work", tmp_path / "home")
    made.folder.mkdir()
    made.home.mkdir()
    return made


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, tissue_png: bytes) -> Path:
    path = tmp_path_factory.mktemp("image") / "tissue.png"
    path.write_bytes(tissue_png)
    return path


def test_a_program_that_would_leave_is_seen(place: Place) -> None:
    """The name it asks for and the packet it sends."""
    code = "import socket; socket.create_connection(('reports.example', 443))"
    seen = place.run(sys.executable, "-c", code)
    assert (seen.code, seen.names, seen.destinations) == (1, ("reports.example",), (ANSWER,))


@pytest.mark.skipif(
    tuple(map(int, importlib.metadata.version("onnxruntime").split(".")[:2])) < (1, 32),
    reason="ONNX Runtime reports its use from 1.32 on",
)
def test_onnx_runtime_by_itself_is_seen(place: Place) -> None:
    """What is switched off: without the switch it writes a device id and asks for its maker's host."""
    code = f"import onnxruntime, time; onnxruntime.InferenceSession({str(GRAPH)!r}); time.sleep(60)"
    seen = place.run(sys.executable, "-c", code, until_asked=True)
    assert [name.rpartition(".")[0] for name in seen.names] == ["mobile.events.data.microsoft"]
    assert any(name.endswith("deviceid") for name in place.written())


@pytest.mark.parametrize("runner", ["local", "bento"])
def test_serving_is_silent(place: Place, image: Path, runner: str) -> None:
    """From the start through a region to the end, the processes of models included."""
    command = (sys.executable, sealed_serving.__file__, str(image), str(LATE_S), *SLIDECASCADE, "serve")
    place.require_silence(place.run(*command, SLIDECASCADE_RUNNER=runner))


def test_serving_by_bentoml_is_silent(place: Place, image: Path) -> None:
    """BentoML's own command posts what is served and by whom, unless the service it loads switches that off."""
    serve = (*BENTOML, "serve", "slidecascade.hosting.bento_entry:SlideCascade", "--host", "127.0.0.1")
    seen = place.run(sys.executable, sealed_serving.__file__, str(image), str(LATE_S), *serve)
    place.require_silence(seen, allowed={"bentoml"})


def test_the_runner_as_a_library_is_silent(place: Place) -> None:
    """Whoever imports it has called no command."""
    code = (
        "from slidecascade.models.repository import load_repository;"
        "from slidecascade.runners.local import LocalRunner;"
        "from slidecascade.settings import bundled_models_dir;"
        "LocalRunner(load_repository(bundled_models_dir()).values()).close()"
    )
    place.require_silence(place.run(sys.executable, "-c", code))


def test_analysing_is_silent(place: Place, image: Path) -> None:
    """An image's name and what was found in it stay here."""
    options = ("--pipeline", "nash", "--mpp", "0.5", "--out", "out")
    place.require_silence(place.run(*SLIDECASCADE, "analyze", str(image), *options))


def test_verifying_models_is_silent(place: Place) -> None:
    """The names of models stay here."""
    place.require_silence(place.run(*SLIDECASCADE, "models", "verify"))


def onnx_file(folder: Path) -> Path:
    import toy_onnx

    return toy_onnx.save(folder, toy_onnx.classifier())


def keras_file(folder: Path) -> Path:
    import toy_keras

    toy_keras.classifier().save(folder / "source.keras")
    return folder / "source.keras"


def torch_file(folder: Path) -> Path:
    import toy_torch

    toy_torch.scripted(toy_torch.classifier()).save(str(folder / "source.pt"))
    return folder / "source.pt"


@pytest.mark.filterwarnings("ignore")  # TensorFlow and PyTorch warn about their own code when they save
@pytest.mark.parametrize("write", [onnx_file, keras_file, torch_file])
def test_converting_is_silent(place: Place, write: Callable[[Path], Path]) -> None:
    """Whatever framework reads the file."""
    if write is not onnx_file:
        pytest.importorskip("tensorflow" if write is keras_file else "torch", reason="[convert] is not installed")
    options = "--name toy --task classify --head softmax --classes a,b,c --scale 1/255 --input-size 24 --out made"
    place.require_silence(place.run(*SLIDECASCADE, "convert", str(write(place.folder)), *options.split()))


def test_training_is_silent(place: Place) -> None:
    """Through to the package that another process writes; the libraries of reports leave their own settings."""
    pytest.importorskip("tensorflow", reason="the [train] extra is not installed")
    slides, annotations = toy_dataset.write_slides(place.folder, 4)
    cut = f"--slides {slides} --annotations {annotations} --out {place.folder / 'data'} --mpp 0.25 --size 24"
    assert main(["dataset", *cut.split(), "--slide-mpp", "0.25"]) == 0
    options = "--data data --out run --batch 16 --epochs 1 --package --name my-cell --models models"
    seen = place.run(*SLIDECASCADE, "train", "tiny-classifier", *options.split())
    place.require_silence(seen, allowed=TRAINING_WRITES)


def test_images_have_the_switches() -> None:
    """For commands in them that are not ours: the Docker image and the Bento's."""
    docker = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8").rpartition("\nFROM ")[2]
    assert dict(re.findall(r"\b(\w+)=(\S+)", docker)).items() >= SWITCHES.items()
    bento = yaml.safe_load((REPOSITORY / "bentofile.yaml").read_text(encoding="utf-8"))
    assert {entry["name"]: entry["value"] for entry in bento["envs"]}.items() >= SWITCHES.items()


def _bodies(tree: ast.AST) -> list[Sequence[ast.stmt]]:
    """Every list of statements that runs from its first to its last."""
    return [body for node in ast.walk(tree) if isinstance(body := getattr(node, "body", None), list)]


def _imports_onnx_runtime(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Import):
        return any(alias.name.split(".")[0] == "onnxruntime" for alias in statement.names)
    return isinstance(statement, ast.ImportFrom) and (statement.module or "").split(".")[0] == "onnxruntime"


def test_the_switch_comes_before_the_import() -> None:
    """Wherever ONNX Runtime is imported, telemetry was forbidden in the lines above it."""
    wrong, found = [], 0
    for top in ("service", "clients", "converters", "training", "benchmarks"):
        for path in (REPOSITORY / top).rglob("*.py"):
            if path.name == "naive_app.py" or path.parent.name == "triton_backend":  # run with the switches set
                continue
            for body in _bodies(ast.parse(path.read_text(encoding="utf-8"))):
                first = next((n for n, line in enumerate(body) if _imports_onnx_runtime(line)), None)
                if first is not None:
                    found += 1
                    if not any(ast.unparse(line) == "forbid_telemetry()" for line in body[:first]):
                        wrong.append(str(path.relative_to(REPOSITORY)))
    assert wrong == []
    assert found > 5
