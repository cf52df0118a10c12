"""Which hosts a server answers for."""

from __future__ import annotations

import pytest

from slidecascade.hosts import default_hosts, host_name
from slidecascade.settings import read_settings


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost", "localhost"),
        ("LOCALHOST.:80", "localhost"),
        ("[::1]:3000", "::1"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("127.0.0.1:3000", "127.0.0.1"),
        ("localhost.pages.example", "localhost.pages.example"),
        ("", ""),
    ],
)
def test_the_name_in_a_host_header(header: str, name: str) -> None:
    """Port, brackets, a final dot and capitals do not count."""
    assert host_name(header) == name


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "::1", "127.0.0.53"])
def test_on_loopback_the_names_of_loopback_are_answered_for(address: str) -> None:
    """And the address that is listened on."""
    assert {"localhost", "127.0.0.1", "::1", address} == set(default_hosts(address))


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.7", "slides.example"])  # noqa: S104  # not listened on
def test_elsewhere_any_name_is_answered_for(address: str) -> None:
    """A server that is reachable by others may have unknown names."""
    assert default_hosts(address) == ()


def test_allowed_hosts_are_a_list_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spaces, capitals and empty entries do not count."""
    monkeypatch.setenv("SLIDECASCADE_ALLOWED_HOSTS", "Slides.example, 10.0.0.7,,[::1]")
    assert read_settings().allowed_hosts == ("slides.example", "10.0.0.7", "::1")
