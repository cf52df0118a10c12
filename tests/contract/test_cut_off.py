"""Workers on hosts of their own, one of which is cut off from the database, in network namespaces of the test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleet import Fleet, undisturbed, wait_for
from postgres import Postgres
from toy_pipeline import ToyPipeline

pytestmark = pytest.mark.slow

TAKE_OVER_S = 10.0
NAMES = ("hub", "one", "two")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Hosts:
    """A hub and two hosts beside it, which reach the hub only."""

    def __init__(self) -> None:
        self._names = {name: f"slidecascade-{os.getpid()}-{name}" for name in NAMES}
        for name in self._names.values():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        for number, host in enumerate(("one", "two"), start=1):
            hub, own = self._names["hub"], self._names[host]
            ip("-n", hub, "link", "add", f"to-{host}", "type", "veth", "peer", "name", "up0", "netns", own)
            ip("-n", hub, "address", "add", f"10.77.{number}.1/24", "dev", f"to-{host}")
            ip("-n", own, "address", "add", f"10.77.{number}.2/24", "dev", "up0")
            ip("-n", hub, "link", "set", f"to-{host}", "up")
            ip("-n", own, "link", "set", "up0", "up")
            ip("-n", own, "route", "add", "default", "via", f"10.77.{number}.1")
        ip("-n", self._names["hub"], "address", "add", "10.77.0.1/32", "dev", "lo")

    def inside(self, name: str) -> list[str]:
        """The command that a process of a host is started by."""
        return ["ip", "netns", "exec", self._names[name]]

    def link(self, host: str, state: str) -> None:
        """Cut a host off (``down``), or join it again (``up``)."""
        ip("-n", self._names["hub"], "link", "set", f"to-{host}", state)

    def close(self) -> None:
        for name in self._names.values():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    try:
        hosts = Hosts() if sys.platform == "linux" else None
    except (OSError, subprocess.CalledProcessError):
        hosts = None
    if hosts is None:
        pytest.skip("network namespaces cannot be made here (Debian's iproute2, as root)")
    yield hosts
    hosts.close()


def test_a_worker_that_is_cut_off_is_replaced_and_comes_back(
    hosts: Hosts, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Its field is begun elsewhere within ten seconds; it writes its own part all the same, which changes nothing.

    When its network is back it works again, without being started again.
    """
    server = Postgres(inside=hosts.inside("hub"), host="10.77.0.1")
    toy = ToyPipeline(tmp_path / "toy")
    url = server.database()
    fleet = Fleet(toy, tmp_path / "fleet", url, server.locally(url))
    try:
        first = fleet.start(held=True, inside=hosts.inside("one"))
        job = fleet.submit()
        wait_for(lambda: bool(first.begun()), "the first field", log=first.log)
        (lost,) = first.begun()
        second = fleet.start(inside=hosts.inside("two"))
        hosts.link("one", "down")
        since = time.monotonic()
        wait_for(lambda: lost in second.begun(), "the take-over", log=second.log)
        record_property("take_over_s", round(time.monotonic() - since, 2))
        assert time.monotonic() - since <= TAKE_OVER_S
        first.release()
        assert fleet.ended(job).status == "succeeded"
        expected = undisturbed(toy, fleet.slides)
        assert fleet.features(job) == expected

        hosts.link("one", "up")
        second.hold()
        again = fleet.submit()
        wait_for(lambda: len(fleet.parts(again)) >= 3, "parts of the first worker", log=first.log)
        assert first.process.poll() is None
        second.release()
        assert fleet.ended(again).status == "succeeded"
        assert fleet.features(again) == expected
    finally:
        fleet.close()
        server.stop()
        server.close()
