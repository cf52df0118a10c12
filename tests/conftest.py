"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from slidecascade.privacy import forbid_telemetry

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

forbid_telemetry()  # before any test's module imports ONNX Runtime


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real slides, tiles and labels; not part of the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real slides (../shared/data) are not on this machine")
    return SHARED_DATA
