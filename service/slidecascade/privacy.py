"""Nothing leaves the host: libraries that report their use to their makers are switched off.

ONNX Runtime from 1.32 writes a device id and a store of events under the user's cache as soon as it is imported,
and sends them some ten seconds later; BentoML posts an event for every command and every served process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

SWITCHES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ORT_DISABLE_TELEMETRY": "1",
        "ORT_TELEMETRY_DISABLED": "1",  # its name in builds between releases and in ONNX Runtime's other libraries
        "BENTOML_DO_NOT_TRACK": "True",
    }
)
"""Environment variables of the libraries that have such a switch."""


def forbid_telemetry() -> None:
    """Switch telemetry off in this process and those it starts, whatever the environment says.

    To be called before a library is imported: ONNX Runtime reads its switch then, and never again.
    """
    os.environ.update(SWITCHES)
