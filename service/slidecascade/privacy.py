"""Disables the telemetry of libraries, so that no data leaves the host.

ONNX Runtime from 1.32 on writes a device id and an event store to the user's cache on import, and sends the events
about ten seconds later; BentoML posts an event for every command and every served process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

SWITCHES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ORT_DISABLE_TELEMETRY": "1",
        "ORT_TELEMETRY_DISABLED": "1",  # in nightly builds and in ONNX Runtime's other libraries
        "BENTOML_DO_NOT_TRACK": "True",
    }
)
"""Environment variables that disable telemetry."""


def forbid_telemetry() -> None:
    """Disable telemetry in this process and its children, overriding the environment.

    Must be called before the libraries are imported: ONNX Runtime reads its variable on import only.
    """
    os.environ.update(SWITCHES)
