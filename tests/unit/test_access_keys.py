"""Keys: made once, kept hashed, and ended in a running service."""

from __future__ import annotations

import re
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from slidecascade.access.caller import Limits
from slidecascade.access.keys import LOOK_S, KeyFile, KeyRing
from slidecascade.cli import main
from slidecascade.errors import SettingsError
from slidecascade.slides.visible import Visible


class Clock:
    """Advances when the test sets it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_is_its_callers_name_scopes_and_limits(path: Path) -> None:
    """And nothing else is: not its prefix, not another secret, not what the file holds."""
    text = KeyFile(path).create("lis", ["jobs:write", "jobs:read"], limits=Limits(queued_jobs=3))
    ring = KeyRing(path)
    caller = ring.caller(text)
    assert caller is not None
    assert (caller.name, caller.limits.queued_jobs) == ("lis", 3)
    assert caller.scopes == {"jobs:write", "jobs:read"}
    assert caller.may("jobs:read")
    assert not caller.may("infer")
    for wrong in (
        "",
        text[:-1],
        text + "A",
        text[:-1] + ("A" if text[-1] != "A" else "B"),
        text.upper(),
        "é" * 59,
    ):
        assert ring.caller(wrong) is None


def test_the_file_does_not_hold_the_key(path: Path) -> None:
    """The secret has 256 bits, the file only its hash, and only its owner may read the file."""
    text = KeyFile(path).create("lis", ["infer"])
    secret = text.split("_", 2)[2]
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", secret)
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_revoked_key_ends_in_a_running_service(path: Path) -> None:
    """Within the interval at which the service looks at the file, which is under five seconds."""
    clock = Clock()
    text = KeyFile(path).create("lis", ["infer"])
    ring = KeyRing(path, clock=clock)
    assert ring.caller(text)
    assert KeyFile(path).revoke("lis") == 1
    clock.now += LOOK_S
    assert LOOK_S < 5
    assert ring.caller(text) is None
    added = KeyFile(path).create("lis", ["infer"])
    clock.now += LOOK_S
    assert ring.caller(added)


def test_an_expired_key_is_not_accepted(path: Path) -> None:
    """From the moment of its expiry."""
    text = KeyFile(path).create("lis", ["infer"], expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert KeyRing(path).caller(text) is None


def test_a_rotated_key_is_valid_beside_the_new_one_for_a_while(path: Path) -> None:
    """Both belong to the same name; without overlap the first ends at once."""
    first = KeyFile(path).create("lis", ["infer"], limits=Limits(requests_per_minute=5))
    second = KeyFile(path).rotate("lis", overlap=timedelta(hours=1))
    ring = KeyRing(path)
    callers = [ring.caller(first), ring.caller(second)]
    assert all(caller is not None and caller.name == "lis" for caller in callers)
    assert callers[1] is not None
    assert callers[1].limits.requests_per_minute == 5
    third = KeyFile(path).rotate("lis", overlap=timedelta(0))
    ring = KeyRing(path)
    assert (ring.caller(first), ring.caller(second)) == (None, None)
    assert ring.caller(third)


def test_a_name_has_one_key_until_it_is_revoked(path: Path) -> None:
    """Because the name owns jobs, and a second key of it would be given out by accident."""
    KeyFile(path).create("lis", ["infer"])
    with pytest.raises(SettingsError, match="rotate or revoke"):
        KeyFile(path).create("lis", ["infer"])
    with pytest.raises(SettingsError, match="no valid key"):
        KeyFile(path).revoke("lsi")


def test_keys_made_at_the_same_time_are_all_kept(path: Path) -> None:
    """The file is locked while it is changed."""
    names = [f"n{index}" for index in range(8)]
    threads = [threading.Thread(target=KeyFile(path).create, args=(name, ["infer"])) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.name for key in KeyFile(path).list()) == names


def test_a_damaged_or_writable_file_is_rejected(path: Path) -> None:
    """At start with a sentence; in a running service no key is accepted."""
    clock = Clock()
    text = KeyFile(path).create("lis", ["infer"])
    ring = KeyRing(path, clock=clock)
    path.chmod(0o622)
    with pytest.raises(SettingsError, match="chmod 600"):
        KeyRing(path)
    path.chmod(0o600)
    path.write_text("{")
    with pytest.raises(SettingsError, match="damaged"):
        KeyRing(path)
    clock.now += LOOK_S
    assert ring.caller(text) is None
    path.unlink()
    with pytest.raises(SettingsError, match="cannot be read"):
        KeyRing(path)


def test_the_command_shows_a_key_once(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`create` prints it alone on stdout; `list` prints everything but it."""
    create = ["keys", "--file", str(path), "create", "--name", "lis", "--scope", "infer", "jobs:read"]
    assert main([*create, "--expires", "90d", "--requests-per-minute", "60"]) == 0
    text = capsys.readouterr().out.strip()
    assert KeyRing(path).caller(text)
    assert main(["keys", "--file", str(path), "list"]) == 0
    listed = capsys.readouterr().out
    assert "lis" in listed
    assert "infer jobs:read" in listed
    assert "requests_per_minute=60" in listed
    assert text.split("_", 2)[2] not in listed
    assert main(["keys", "--file", str(path), "rotate", "lis"]) == 0
    assert main(["keys", "--file", str(path), "revoke", "lis"]) == 0
    assert "2 revoked" in capsys.readouterr().out
    assert main([*create, "--requests-per-minute", "0"]) == 2
    assert main(["keys", "--file", str(path), "revoke", "nobody"]) == 2
    assert main(["keys", "list"]) == 2


def test_a_key_sees_the_slides_in_its_folders(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that `create` named, also after a rotation and by a certificate; `list` shows them."""
    (tmp_path / "liver").mkdir()
    monkeypatch.chdir(tmp_path)
    create = ["keys", "--file", str(path), "create", "--name", "lab", "--scope", "slides:read"]
    limited = ["--certificate", "lab.example", "--slides", "liver/", "dicomweb:pacs"]
    assert main([*create, *limited]) == 0
    text = capsys.readouterr().out.strip()
    seen = Visible((str(tmp_path / "liver"), "dicomweb:pacs"))
    rotated = KeyFile(path).rotate("lab", overlap=timedelta(hours=1))
    ring = KeyRing(path)
    for caller in (ring.caller(text), ring.caller(rotated), ring.caller_of_certificate(("lab.example",))):
        assert caller is not None
        assert caller.visible == seen
    KeyFile(path).create("all", ["slides:read"])
    assert main(["keys", "--file", str(path), "list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[-1] for line in listed] == [" ".join(seen.folders or ())] * 2 + ["all slides"]
    create[5] = "other"
    for wrong in (["--slides", "kidney"], ["--slides", "dicomweb:a/b"], ["--slides", "liver", "--scope", "admin"]):
        assert main([*create, *wrong]) == 2
    capsys.readouterr()


def test_a_file_of_keys_with_a_relative_folder_is_damaged(path: Path, tmp_path: Path) -> None:
    """What a folder is relative to would depend on who reads it."""
    KeyFile(path).create("lab", ["slides:read"], slides=(str(tmp_path),))
    path.write_text(path.read_text().replace(str(tmp_path), "liver"))
    with pytest.raises(SettingsError, match="damaged"):
        KeyRing(path)


def test_a_certificate_stands_for_a_key(path: Path) -> None:
    """With its scopes and its end; a name that no key states is nobody's."""
    KeyFile(path).create("lab", ["infer"])
    KeyFile(path).create("lis", ["jobs:write"], certificate="lis.example")
    caller = KeyRing(path).caller_of_certificate(("x", "lis.example"))
    assert caller is not None
    assert caller.name == "lis"
    assert caller.scopes == {"jobs:write"}
    assert KeyRing(path).caller_of_certificate(("lab", "lis", "")) is None
    assert KeyRing(path).caller_of_certificate(()) is None
    KeyFile(path).rotate("lis", overlap=timedelta(0))
    assert KeyRing(path).caller_of_certificate(("lis.example",))
    KeyFile(path).revoke("lis")
    assert KeyRing(path).caller_of_certificate(("lis.example",)) is None
