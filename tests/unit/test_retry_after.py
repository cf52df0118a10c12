"""`SLIDECASCADE_RETRY_AFTER_S` is what callers read, whichever runner could not serve them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toy_models
from served_process import free_port
from slidecascade.errors import RetryLaterError
from slidecascade.models.repository import ModelPackage, load_package
from slidecascade.runners import bento
from slidecascade.runners.choice import open_runner
from slidecascade.runners.runner import RemoteRunner, Runner, Unobserved
from slidecascade.settings import Settings

MODEL = "toy-classifier"
IMAGES = np.zeros((2, 8, 8, 3), np.uint8)
RETRY_AFTER_S = 17


class Gone:
    """The service of a model whose process is not there."""

    @property
    def to_async(self) -> Any:
        return self

    def call(self, name: str, **_kwargs: Any) -> Any:
        return self.pulse() if name == "pulse" else self.run()

    async def pulse(self) -> AsyncIterator[str]:
        for _ in ():
            yield "."
        raise ConnectionRefusedError

    async def run(self) -> Any:
        raise ConnectionRefusedError

    async def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def runner(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    """What the settings open; what is elsewhere is not there."""
    if request.param == "triton":
        pytest.importorskip("tritonclient.grpc", reason="the [triton] extra is not installed")
    monkeypatch.setattr(bento, "RESTART_WAIT_S", 0.0)
    fields = toy_models.classifier_fields(MODEL, 8, crop={"size_px": 8})
    package: ModelPackage = load_package(
        toy_models.write_package(tmp_path, fields, toy_models.redness_classifier(8))
    )
    settings = Settings(
        runner=request.param,
        batching="on",
        retry_after_s=RETRY_AFTER_S,
        triton_url=f"127.0.0.1:{free_port()}",
    )
    with closing(open_runner([package], settings, Unobserved(), services={MODEL: Gone()})) as opened:
        yield opened


def refused(ask: Callable[[], object]) -> int:
    """Retry-After in seconds."""
    with pytest.raises(RetryLaterError) as caught:
        ask()
    return caught.value.retry_after_s


@pytest.mark.parametrize("runner", ["bento", "triton"], indirect=True)
def test_callers_of_networks_that_are_away_read_the_setting(runner: Runner) -> None:
    """Both those who ask for answers and those who ask for readiness."""
    assert isinstance(runner, RemoteRunner)
    assert refused(runner.check_ready) == RETRY_AFTER_S
    assert refused(lambda: runner.run(MODEL, {"image": IMAGES})) == RETRY_AFTER_S


@pytest.mark.parametrize("runner", ["bento", "local"], indirect=True)
def test_callers_of_a_runner_that_closes_read_the_setting(runner: Runner) -> None:
    """Another process may serve them by then."""
    runner.close()
    assert refused(lambda: runner.run(MODEL, {"image": IMAGES})) == RETRY_AFTER_S
