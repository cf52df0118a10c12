"""Creates the runner of each model from the settings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from slidecascade.cancellation import Control
from slidecascade.cores import usable_cores
from slidecascade.errors import SettingsError
from slidecascade.models.repository import ModelPackage
from slidecascade.models.tensors import Tensors
from slidecascade.runners.batcher import Batcher
from slidecascade.runners.measured import MeasuredRunner
from slidecascade.runners.runner import RemoteRunner, Runner, RunObserver, bound, trim
from slidecascade.runners.schedule import Limits, few_sizes
from slidecascade.settings import RunnerKind, Settings

NO_SERVICES: Mapping[str, Any] = MappingProxyType({})

_GPU_BATCH_PX = 2**24
_CPU_BATCH_PX = 2**22
"""Larger batches are no faster on a CPU, and a U-Net needs 4.4 GB per core for 2**24 px."""


def open_runner(
    packages: Iterable[ModelPackage],
    settings: Settings,
    observer: RunObserver,
    *,
    services: Mapping[str, Any] = NO_SERVICES,
) -> Runner:
    """The runner of the networks of `packages`; all kinds of runner return the same results.

    Args:
        services: the BentoML services of models, by name; a model with the runner ``bento`` and no service, as in
            commands other than ``serve``, runs in this process.

    Raises:
        ModelPackageError: for an invalid package.
        SettingsError: when a setting names an unknown model or an unusable GPU.
        MissingExtraError: when a runner's libraries are not installed.
    """
    chosen = _by_kind(packages, settings, services)
    with ExitStack() as opened:
        runners: dict[str, Runner] = {}
        for kind, mine in chosen.items():
            runner = _open(kind, mine, settings, observer, services)
            opened.callback(runner.close)
            runners |= dict.fromkeys((package.spec.name for package in mine), runner)
        opened.pop_all()
    for name in runners:
        observer.queued(name, 0)
    return next(iter(runners.values())) if len(chosen) == 1 else RoutedRunner(runners)


def concurrent_calls(settings: Settings) -> int:
    """Number of concurrent calls of `Runner.run`, besides those of regions.

    One per core where networks run unbatched on this machine, else `max_inferences_in_flight`.
    """
    kinds = {settings.runner, *settings.runners_by_model.values()}
    if kinds == {"local"} and not batches(settings):
        return settings.threads or usable_cores()
    return settings.max_inferences_in_flight


def names_by_kind(names: Iterable[str], settings: Settings) -> Mapping[RunnerKind, list[str]]:
    """The models of each runner kind, from the settings.

    Raises:
        SettingsError: when a setting names a model that is not in `names`.
    """
    known = list(names)
    overrides = settings.runners_by_model
    if unknown := sorted(overrides.keys() - set(known)):
        raise SettingsError(
            f"SLIDECASCADE_RUNNER_BY_MODEL names {unknown[0]!r}, which is not in the models folder: use one of "
            f"{', '.join(known)}."
        )
    chosen: dict[RunnerKind, list[str]] = defaultdict(list)
    for name in known:
        chosen[overrides.get(name, settings.runner)].append(name)
    return chosen


class RoutedRunner:
    """Dispatches calls to the runner of each model."""

    def __init__(self, runners: Mapping[str, Runner]) -> None:
        self._runners = dict(runners)

    def run(self, model: str, inputs: Tensors) -> Tensors:
        return self._runners[model].run(model, inputs)

    def on_behalf_of(self, control: Control) -> Runner:
        return RoutedRunner({model: bound(runner, control) for model, runner in self._runners.items()})

    def check_ready(self) -> None:
        for runner in dict.fromkeys(self._runners.values()):
            if isinstance(runner, RemoteRunner):
                runner.check_ready()

    def trim(self) -> None:
        for runner in dict.fromkeys(self._runners.values()):
            trim(runner)

    def close(self) -> None:
        for runner in dict.fromkeys(self._runners.values()):
            runner.close()


def _by_kind(
    packages: Iterable[ModelPackage], settings: Settings, services: Mapping[str, Any]
) -> Mapping[RunnerKind, list[ModelPackage]]:
    known = {package.spec.name: package for package in packages}
    chosen: dict[RunnerKind, list[ModelPackage]] = defaultdict(list)
    for kind, names in names_by_kind(known, settings).items():
        for name in names:
            chosen["local" if kind == "bento" and name not in services else kind].append(known[name])
    return chosen


def _open(
    kind: RunnerKind,
    packages: list[ModelPackage],
    settings: Settings,
    observer: RunObserver,
    services: Mapping[str, Any],
) -> Runner:
    retry_after_s = settings.retry_after_s
    match kind:
        case "local":
            return open_local(packages, settings, observer)
        case "bento":
            from slidecascade.runners.bento import BentoRunner

            return MeasuredRunner(BentoRunner(packages, services, retry_after_s=retry_after_s), observer)
        case "triton":
            from slidecascade.runners.triton import TritonRunner

            runner = TritonRunner(packages, url=settings.triton_url, retry_after_s=retry_after_s)
            return MeasuredRunner(runner, observer)


def open_local(packages: Iterable[ModelPackage], settings: Settings, observer: RunObserver) -> Runner:
    """A runner of the networks of `packages` in this process.

    Raises:
        ModelPackageError: for an invalid package.
        SettingsError: when the device is a GPU and none is usable.
    """
    from slidecascade.runners.local import LocalRunner, Placement

    on_gpu = settings.device != "cpu"
    in_batches = batches(settings)
    gpus = settings.gpu_numbers if on_gpu and in_batches else settings.gpu_numbers[:1]
    limits = Limits(
        batch_items=settings.max_batch,
        batch_px=_GPU_BATCH_PX if on_gpu else _CPU_BATCH_PX,
        queue_items=settings.max_queue_items,
        retry_after_s=settings.retry_after_s,
        padded=on_gpu,
    )
    placement = Placement(
        device=settings.device, memory_mib=settings.gpu_memory_mib, engine_dir=settings.engine_dir
    )
    packages = tuple(packages)
    runners = [
        LocalRunner(packages, placement=replace(placement, gpu=gpu), warm_up=few_sizes(settings.max_batch))
        for gpu in gpus
    ]
    if not in_batches:
        return MeasuredRunner(runners[0], observer)
    # A GPU runs one batch after another; on a CPU concurrent calls keep the cores busy.
    return Batcher(runners if on_gpu else runners * usable_cores(), limits=limits, observer=observer)


def batches(settings: Settings) -> bool:
    """Whether calls on this machine are batched."""
    return settings.batching == "on" or (settings.batching == "auto" and settings.device != "cpu")
