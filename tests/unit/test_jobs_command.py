"""What ``slidecascade jobs`` prints when a call cannot be done."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Self

import pytest

from slidecascade.cli import main
from slidecascade.commands import jobs
from slidecascade_client import UnknownSlideError


class FakeServer:
    """Has no slides, and one job, whose pipeline finds no cells."""

    def __init__(self, url: str, api_key: str | None) -> None:
        self.url = url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def submit(self, slide: str, **fields: Any) -> FakeJob:
        if slide == "kidney":
            return FakeJob()
        raise UnknownSlideError(f"There is no slide {slide!r}.", status=404)


class FakeJob:
    id = "1"

    def progress(self) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(fields_done=1, fields_total=2, cells=0, eta_s=3.0)


@pytest.mark.parametrize("address", ["ftp://host", "nonsense", "http://"])
def test_an_unusable_address_is_a_sentence(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong --url ends with code 2, without a stack trace."""
    assert main(["jobs", "--url", address, "list"]) == 2
    reported = capsys.readouterr().err
    assert reported.startswith("slidecascade: --url, SLIDECASCADE_URL")
    assert "must be an address like" in reported


def test_a_missing_file_is_reported(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is neither a file here nor a slide there is reported as both."""
    monkeypatch.setattr(jobs, "Client", FakeServer)
    assert main(["jobs", "submit", "nope.png", "--pipeline", "nash"]) == 2
    assert "There is no file nope.png on this machine" in capsys.readouterr().err


def test_progress_without_cells_does_not_count_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job of areas shows its fields, not the cells that it does not look for."""
    monkeypatch.setattr(jobs, "Client", FakeServer)
    assert main(["jobs", "submit", "kidney", "--pipeline", "glomeruli", "--wait"]) == 0
    assert capsys.readouterr().err == "1/2 fields, 3 s left\n"
