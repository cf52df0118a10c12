"""Folders of sockets: private, and removed by the next process if theirs was killed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from slidecascade.hosting import socketfolder
from slidecascade.hosting.socketfolder import PREFIX, socket_folder


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made; its name is short."""
    folder = tmp_path_factory.mktemp("t")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def aged(path: Path) -> Path:
    """The folder, made if need be, as old as can be."""
    path.mkdir(exist_ok=True)
    os.utime(path, (0, 0))
    return path


def test_only_this_user_enters_it_and_it_goes() -> None:
    """With what is in it."""
    with socket_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "0.sock").touch()
    assert not folder.exists()


def test_what_a_killed_process_left_is_removed(temporary: Path) -> None:
    """Unless it is young, of another kind, a link, or in use."""
    left, other, target = aged(temporary / f"{PREFIX}left"), aged(temporary / "other"), aged(temporary / "target")
    (left / "0.sock").touch()
    aged(left)
    link = temporary / f"{PREFIX}link"
    link.symlink_to(target)
    young = temporary / f"{PREFIX}young"
    young.mkdir()
    with socket_folder() as used:
        aged(used)
        with socket_folder() as mine:
            assert set(temporary.iterdir()) == {other, target, link, young, used, mine}


def test_a_folder_with_a_long_name_is_elsewhere(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's path has few bytes."""
    long = temporary / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with socket_folder() as folder:
        assert len(os.fsencode(folder)) <= socketfolder._LONGEST_FOLDER
    assert not folder.exists()
    assert list(long.iterdir()) == []
