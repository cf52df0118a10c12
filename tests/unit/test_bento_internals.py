"""What the service touches of BentoML's internals is still there: the first thing to fail when BentoML changes.

`slidecascade.hosting` replaces BentoML's dispatcher and its time limit, and keeps addresses that its supervisor
would remove. None of that is public, so each piece is looked for here by name.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # BentoML's own
    import bentoml
    from _bentoml_sdk.service import Service

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as above


def _doubler() -> Any:
    class Doubler:
        @bentoml.api(batchable=True, max_batch_size=4)  # type: ignore[untyped-decorator]  # untyped
        def double(self, values: np.ndarray) -> np.ndarray:
            return values * 2

    return bentoml.service(name="canary")(Doubler)


def _parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_application_factory_has_a_time_limit_and_a_dispatcher_for_every_batchable_call() -> None:
    """`UntimedService` clears the first, `ModelService` replaces the second."""
    from _bentoml_impl.server.app import ServiceAppFactory

    service = _doubler()
    service.inject_config()
    factory = ServiceAppFactory(service, is_main=False)

    assert list(factory.dispatchers) == ["double"]
    assert hasattr(factory, "timeout")
    assert callable(factory)
    calls = inspect.getsource(ServiceAppFactory)
    assert "await self.dispatchers[name](" in calls, "calls no longer go through the factory's dispatchers"
    limits = inspect.getsource(sys.modules[ServiceAppFactory.__mro__[1].__module__])
    assert "self.timeout" in limits, "the time limit is read from another attribute"


def test_a_service_class_may_be_given_and_has_the_methods_that_are_overridden() -> None:
    """`UntimedService` and `EntryService` override or call these."""
    assert "service_class" in _parameters(bentoml.service) or "kwargs" in _parameters(bentoml.service)
    assert _parameters(Service.to_asgi) == ["self", "is_main"]
    assert _parameters(Service.inject_config) == ["self"]
    assert _parameters(Service.on_load_bento) == ["self", "bento"]
    assert "self" in _parameters(Service.all_services)
    assert "service_class" in inspect.getsource(sys.modules[Service.__module__])


def test_addresses_of_services_are_a_mapping_of_file_uris(tmp_path: Path) -> None:
    """`keep_socket_reachable` and the supervisor put addresses of their own there."""
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.utils.uri import path_to_uri, uri_to_path

    addresses = BentoMLContainer.remote_runner_mapping.get()
    assert isinstance(addresses, dict)
    path = str(tmp_path / "model.sock")
    assert path_to_uri(path).startswith("file:")
    assert uri_to_path(path_to_uri(path)) == path


def test_the_client_keeps_its_session_by_two_settings() -> None:
    """A session that was renewed would be closed under the calls in flight: both bounds are set beyond reach."""
    from _bentoml_impl.client import proxy2

    source = inspect.getsource(proxy2)
    assert "self.max_requests" in source
    assert "self.max_age" in source


def test_gpu_numbers_are_dealt_out_unless_the_environment_says_otherwise() -> None:
    """The entry service deals out the GPUs of its settings by itself."""
    from _bentoml_impl.server import allocator

    assert allocator.DISABLE_GPU_ALLOCATION_ENV == "BENTOML_DISABLE_GPU_ALLOCATION"


def test_an_input_spec_reads_a_request_itself() -> None:
    """`Images` and `RegionInput` override this class method."""
    assert _parameters(bentoml.IODescriptor.from_http_request) == ["request", "serde"]
