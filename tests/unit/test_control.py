"""Time limits, cancellation, cores and settings."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from slidecascade.cancellation import Control
from slidecascade.cores import usable_cores
from slidecascade.errors import CancelledError, DeadlineExceededError, SettingsError
from slidecascade.settings import Settings, read_settings


def test_work_continues_until_the_deadline() -> None:
    """A limit that has passed stops the work; no limit never does."""
    Control().check()
    Control(deadline_s=60).check()
    hasty = Control(deadline_s=0.001)
    time.sleep(0.002)
    with pytest.raises(DeadlineExceededError, match="longer deadline_s"):
        hasty.check()


def test_cancelled_work_stops() -> None:
    """Cancelling wins over any deadline."""
    control = Control(deadline_s=60)
    control.cancel()
    with pytest.raises(CancelledError):
        control.check()


@pytest.mark.parametrize(("content", "cores"), [("max 100000", None), ("150000 100000", 2), ("50000 100000", 1)])
def test_cores_come_from_the_control_group(tmp_path: Path, content: str, cores: int | None) -> None:
    """A quota of 1.5 cores is two threads; no quota means what the scheduler grants."""
    granted = len(os.sched_getaffinity(0))
    quota = tmp_path / "cpu.max"
    quota.write_text(content, encoding="ascii")
    assert usable_cores(quota) == (granted if cores is None else min(cores, granted))
    assert usable_cores(tmp_path / "absent") == granted


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A prefix of their own; folders are separated as in PATH; arguments win."""
    monkeypatch.setenv("SLIDECASCADE_SLIDE_ROOTS", f"{tmp_path}{os.pathsep}{tmp_path / 'b'}")
    monkeypatch.setenv("SLIDECASCADE_PORT", "4000")
    settings = read_settings(port=5000, host=None)
    assert settings.slide_roots == (tmp_path, tmp_path / "b")
    assert settings.port == 5000
    assert settings.host == "127.0.0.1"


def test_an_unusable_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the variable and its value."""
    monkeypatch.setenv("SLIDECASCADE_PORT", "high")
    with pytest.raises(SettingsError, match=r"SLIDECASCADE_PORT cannot be 'high'"):
        read_settings()


def settings_page() -> str:
    """``docs/settings.md``, from the fields of `Settings`."""
    rows = [
        f"| `SLIDECASCADE_{name.upper()}` | {_default(field)} | {' '.join((field.description or '').split())} |"
        for name, field in Settings.model_fields.items()
    ]
    head = "# Settings\n\nEnvironment variables, read once at start.\n"
    return "\n".join([head, "| variable | default | meaning |", "|---|---|---|", *rows]) + "\n"


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "the bundled models"
    if isinstance(field.default, int) and not isinstance(field.default, bool):
        return f"{field.default:,}" if field.default >= 10_000 else str(field.default)
    return "none" if field.default in (None, "", ()) else str(field.default)


def test_every_setting_is_documented() -> None:
    """The page of settings is the one that their fields give; write it again when one changes."""
    page = Path(__file__).parents[2] / "docs" / "settings.md"
    assert page.read_text(encoding="utf-8") == settings_page()
