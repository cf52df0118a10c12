"""Which runner runs which model: what the settings say, what cannot be, and that nothing depends on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.errors import (
    CancelledError,
    DeadlineExceededError,
    MissingExtraError,
    ModelPackageError,
    NotReadyError,
    OverloadedError,
    SettingsError,
)
from slidecascade.hosting.main import _export_settings
from slidecascade.metrics import Metrics
from slidecascade.models.batches import batch_of
from slidecascade.models.repository import ModelPackage, load_repository
from slidecascade.models.tensors import Tensors
from slidecascade.runners.batcher import Batcher
from slidecascade.runners.choice import RoutedRunner, concurrent_calls, open_runner
from slidecascade.runners.local import LocalRunner, Placement, _missing
from slidecascade.runners.measured import MeasuredRunner
from slidecascade.runners.runner import Runner, Unobserved, bound
from slidecascade.settings import _EXAMPLES, Settings, read_settings, unknown_settings
from slidecascade.timing import Silent
from toy_pipeline import ToyPipeline, blobs


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyPipeline:
    return ToyPipeline(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def packages(toy: ToyPipeline) -> list[ModelPackage]:
    return list(load_repository(toy.models_dir).values())


class Elsewhere:
    """A runner of another kind: it says which calls it had, and for whom."""

    def __init__(self, ready: Exception | None = None) -> None:
        self.ready = ready
        self.calls: list[str] = []
        self.closed = 0

    def run(self, model: str, inputs: Tensors) -> Tensors:
        self.calls.append(model)
        return {"probabilities": np.zeros((batch_of(inputs), 3), np.float32)}

    def check_ready(self) -> None:
        if self.ready is not None:
            raise self.ready

    def close(self) -> None:
        self.closed += 1


def test_batching_changes_no_cell(toy: ToyPipeline, packages: list[ModelPackage]) -> None:
    """The same cells, to the last bit, through the batcher, padded or not, with tiles side by side."""
    image = blobs(3, 300, 300, 40)
    alone = toy.run(image, tile_px=128)
    for settings in (Settings(batching="on"), Settings(batching="on", max_batch=3)):
        runner = open_runner(packages, settings, Unobserved())
        assert isinstance(runner, Batcher)
        batched = toy.run(image, tile_px=128, threads=4, runner=runner)
        runner.close()
        assert np.array_equal(batched.instances.centroids, alone.instances.centroids)
        for found, expected in zip(batched.instances.probabilities, alone.instances.probabilities, strict=True):
            assert np.array_equal(found, expected, equal_nan=True)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [({}, MeasuredRunner), ({"batching": "on"}, Batcher), ({"batching": "off"}, MeasuredRunner)],
)
def test_on_a_cpu_networks_are_called_directly(
    packages: list[ModelPackage], fields: dict[str, Any], kind: type[Runner]
) -> None:
    """Unless batching is enabled."""
    runner = open_runner(packages, Settings(**fields), Unobserved())
    assert isinstance(runner, kind)
    runner.close()


def test_every_runner_is_measured(packages: list[ModelPackage]) -> None:
    """Size, time and waiting of each run are in the metrics, and every model's queue is there from the start."""
    metrics = Metrics()
    runner = open_runner(packages, Settings(), metrics)
    bound(runner, Control()).run("toy-classifier", {"image": np.zeros((3, 72, 72, 3), np.uint8)})
    runner.close()
    page = metrics.expose().decode()
    assert 'slidecascade_batch_size_sum{model="toy-classifier"} 3.0' in page
    assert 'slidecascade_batch_wait_seconds_count{model="toy-classifier"} 1.0' in page
    assert 'slidecascade_model_run_seconds_count{model="toy-classifier"} 1.0' in page
    assert 'slidecascade_batch_queue_items{model="toy-second"} 0.0' in page


def test_models_can_run_in_different_places() -> None:
    """Each call goes to the runner that has the model; each runner is checked and closed once."""
    here, there = Elsewhere(), Elsewhere(NotReadyError("Not there.", retry_after_s=1))
    runner = RoutedRunner({"a": here, "b": there, "c": here})
    for model in "abcb":
        bound(runner, Control()).run(model, {"image": np.zeros((1, 2, 2, 3), np.uint8)})
    assert (here.calls, there.calls) == (["a", "c"], ["b", "b"])
    with pytest.raises(NotReadyError, match="Not there"):
        runner.check_ready()
    runner.close()
    assert (here.closed, there.closed) == (1, 1)


def test_an_analyser_asks_the_networks_that_are_elsewhere(toy: ToyPipeline) -> None:
    """Readiness is theirs as well; a region of networks that are away is refused, to be sent again."""
    there = Elsewhere()
    analyser = Analyser(
        Settings(models_dir=toy.models_dir, pipelines_dir=toy.pipelines_dir),
        observer=Silent(),
        make_runner=lambda packages: MeasuredRunner(there, Unobserved()),
    )
    analyser.check_ready()
    there.ready = NotReadyError("Not there.", retry_after_s=1)
    with pytest.raises(NotReadyError):
        analyser.check_ready()
    analyser.close()


def test_another_network_than_its_package_refuses_the_region(toy: ToyPipeline) -> None:
    """As when a server elsewhere was pointed at other models: not ready, with the reason, and no tile's fault."""

    class Stranger(Elsewhere):
        def run(self, model: str, inputs: Tensors) -> Tensors:
            raise ModelPackageError("It is another one: point the server at the same models folder.")

    analyser = Analyser(
        Settings(models_dir=toy.models_dir, pipelines_dir=toy.pipelines_dir),
        observer=Silent(),
        make_runner=lambda packages: MeasuredRunner(Stranger(), Unobserved()),
    )
    image = bytes(cv2.imencode(".png", np.full((64, 64, 3), 120, np.uint8))[1])
    request = wire.RegionRequest(pipeline="toy", mpp=0.5, allow_partial=True)
    with closing(analyser):
        with pytest.raises(NotReadyError, match="another one: point the server") as refused:
            analyser.analyse(request, image, Control())
        assert refused.value.retry_after_s == 2
        with pytest.raises(NotReadyError, match="another one: point the server"):
            analyser.infer("toy-classifier", {"image": np.zeros((1, 8, 8, 3), np.uint8)}, Control())


def test_what_is_overloaded_refuses_the_region(toy: ToyPipeline) -> None:
    """Networks with too much to do are no fault of a tile: the whole region may be sent again."""

    class Full(Elsewhere):
        def run(self, model: str, inputs: Tensors) -> Tensors:
            raise OverloadedError("Full.", retry_after_s=3)

    with pytest.raises(OverloadedError, match="Full"):
        toy.run(blobs(1, 200, 200, 9), tile_px=128, runner=Full(), allow_partial=True)


def test_an_override_for_a_model_that_is_not_there_is_refused(packages: list[ModelPackage]) -> None:
    """A typing error does not leave a model running in the wrong place."""
    with pytest.raises(SettingsError, match="'gold', which is not in the models folder"):
        open_runner(packages, Settings(runner_by_model="gold=local"), Unobserved())


@pytest.mark.parametrize("value", ["nash-cell", "nash-cell=gpu", "=local", "a=local,,b=local", "a=local;b=local"])
def test_overrides_are_written_name_and_runner(value: str) -> None:
    """Anything else names the setting and shows one that is right."""
    with pytest.raises(
        SettingsError, match=r"SLIDECASCADE_RUNNER_BY_MODEL cannot be .*: write it like nuclei-unet="
    ):
        read_settings(runner_by_model=value)


def test_a_model_cannot_be_sent_to_two_places() -> None:
    """Neither of two contradicting overrides wins without a word."""
    with pytest.raises(SettingsError, match="'nash-cell' is named twice: name each model once"):
        read_settings(runner_by_model="nash-cell=local,nuclei-unet=bento,nash-cell=triton")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"threads": "-1"}, "SLIDECASCADE_THREADS cannot be '-1': it should be greater than or equal to 0."),
        ({"threads": "2.5"}, "SLIDECASCADE_THREADS cannot be '2.5': it should be a whole number."),
        ({"device": "gpu"}, "SLIDECASCADE_DEVICE cannot be 'gpu': it should be 'cpu', 'cuda' or 'tensorrt'."),
    ],
)
def test_a_refused_setting_is_one_sentence(fields: dict[str, str], sentence: str) -> None:
    """The error lists the valid values."""
    with pytest.raises(SettingsError) as refused:
        read_settings(**fields)
    assert str(refused.value) == sentence


@pytest.mark.parametrize("fields", [{"runner": "cloud"}, {"gpus": "0,x"}, {"gpus": ""}, {"batching": "maybe"}])
def test_unknown_choices_are_refused(fields: dict[str, str]) -> None:
    """With the name of the setting."""
    with pytest.raises(SettingsError, match="SLIDECASCADE_"):
        read_settings(**fields)


def test_overrides_are_taken_apart_and_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """BentoML builds the service from the environment: what was set is what it reads."""
    for name in ("SLIDECASCADE_RUNNER_BY_MODEL", "SLIDECASCADE_GPUS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    settings = Settings(runner_by_model="nuclei-unet=triton,nash-cell=local", gpus="0,2")
    assert settings.runners_by_model == {"nuclei-unet": "triton", "nash-cell": "local"}
    assert settings.gpu_numbers == (0, 2)
    _export_settings(settings)
    assert read_settings() == settings


def test_calls_are_worth_making_where_they_are_batched() -> None:
    """One for each core of this machine; for remote networks the limit of requests."""
    assert concurrent_calls(Settings(threads=3)) == 3
    assert concurrent_calls(Settings(threads=3, batching="on")) == 32
    assert concurrent_calls(Settings(threads=3, runner="triton")) == 32
    assert concurrent_calls(Settings(threads=3, device="cuda", max_inferences_in_flight=5)) == 5


def test_a_missing_extra_is_one_sentence(packages: list[ModelPackage], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Triton's client the setting is answered with what to install."""
    for name in [name for name in sys.modules if name.startswith(("tritonclient", "slidecascade.runners.triton"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[triton\]'"):
        open_runner(packages, Settings(runner="triton"), Unobserved())


def test_a_missing_gpu_is_reported(packages: list[ModelPackage]) -> None:
    """Neither provider falls back to the CPU."""
    for device in ("cuda", "tensorrt"):
        reported = f"SLIDECASCADE_DEVICE is '{device}'"
        with pytest.raises(SettingsError, match=reported):
            open_runner(packages, Settings(device=device), Unobserved())


def test_the_options_passed_to_a_gpu(packages: list[ModelPackage], tmp_path: Path) -> None:
    """Bounds of memory, cheap choice of algorithms, and for TensorRT the shapes to build for."""
    spec = {package.spec.name: package.spec for package in packages}
    placement = Placement(device="tensorrt", gpu=1, memory_mib=512, engine_dir=tmp_path)
    tensorrt, cuda, cpu = placement.providers(spec["toy-classifier"], most=32)
    assert cuda[1] == {
        "device_id": 1,
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": 512 * 2**20,
    }
    assert cpu == ("CPUExecutionProvider", {})
    assert tensorrt[1]["trt_profile_max_shapes"] == "image:32x72x72x3"
    assert tensorrt[1]["trt_engine_cache_path"] == str(tmp_path)
    assert [name for name, _ in placement.providers(spec["toy-segmenter"], most=4)] == [cuda[0], cpu[0]]


@pytest.fixture
def control() -> Iterator[Control]:
    made = Control(deadline_s=100)
    yield made
    made.cancel()


def test_a_sooner_control_ends_with_the_later_one(control: Control) -> None:
    """A caller's own limit shortens the request's, and its leaving is the request's."""
    assert control.within(None) is control
    assert control.within(1000) is control
    sooner = control.within(0)
    with pytest.raises(DeadlineExceededError):
        sooner.check()
    longer = control.within(50)
    longer.check()
    assert 49 < longer.seconds_left <= 50
    control.cancel()
    with pytest.raises(CancelledError):
        longer.check()


def test_a_full_queue_reports_the_retry_time_of_the_settings(packages: list[ModelPackage]) -> None:
    """Retry-After of every overloaded response is one setting."""
    settings = Settings(batching="on", retry_after_s=7)
    with closing(open_runner(packages, settings, Unobserved())) as runner:
        assert isinstance(runner, Batcher)
        assert runner._schedule.limits.retry_after_s == 7


def test_batches_are_run_by_the_local_runner(packages: list[ModelPackage]) -> None:
    """Calls of any size are returned complete and in order, through batches of other sizes."""
    runner = LocalRunner(packages)
    batcher = open_runner(packages, Settings(batching="on", max_batch=4), Unobserved())
    pixels = np.random.default_rng(1).integers(0, 256, (11, 72, 72, 3), np.uint8)
    batched, alone = (made.run("toy-classifier", {"image": pixels}) for made in (batcher, runner))
    assert np.array_equal(batched["probabilities"], alone["probabilities"])
    assert batch_of(batcher.run("toy-classifier", {"image": pixels[:0]})) == 0
    batcher.close()
    runner.close()


def test_a_missing_tensorrt_is_distinguished_from_a_missing_gpu() -> None:
    """Where CUDA works, what lacks is TensorRT."""
    assert "cannot load TensorRT" in _missing("tensorrt", ["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert "found no usable GPU" in _missing("tensorrt", ["CPUExecutionProvider"])
    assert "found no usable GPU" in _missing("cuda", ["CPUExecutionProvider"])


def test_every_setting_with_a_pattern_has_an_example() -> None:
    """Which fits the pattern: it is shown in place of it."""
    for name, field in Settings.model_fields.items():
        if any(getattr(item, "pattern", None) for item in field.metadata):
            assert getattr(read_settings(**{name: _EXAMPLES[name]}), name) == _EXAMPLES[name]


def test_a_variable_similar_to_a_setting_is_reported() -> None:
    """A misspelt setting is reported with the similar one; those of other commands are not reported."""
    environment = {
        "SLIDECASCADE_RUNNR": "triton",
        "SLIDECASCADE_RUNNER": "local",
        "slidecascade_threads": "2",
        "SLIDECASCADE_PORT_3000_TCP_ADDR": "10.0.0.7",
        "SLIDECASCADE_BOGUS": "1",
        "SLIDECASCADE_URL": "http://localhost:3000",
        "SLIDECASCADE_API_KEY": "secret",
        "SLIDECASCADE_STOW_TOKEN": "secret",
        "BENTOML_HOME": "x",
    }
    assert unknown_settings(environment) == {
        "SLIDECASCADE_BOGUS": "",
        "SLIDECASCADE_PORT_3000_TCP_ADDR": "",
        "SLIDECASCADE_RUNNR": "SLIDECASCADE_RUNNER",
    }
