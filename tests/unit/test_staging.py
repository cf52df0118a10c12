"""Files and folders that are whole or absent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from slidecascade.errors import InvalidRequestError, UnwritableOutputError
from slidecascade.staging import staged_folder, write_file, write_files, writing_to
from toy_dataset import disk_full_after


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    """A full disk, then a source that fails half way: the old bytes are there and nothing else."""
    path = tmp_path / "deeper" / "numbers.bin"
    write_file(path, b"old")
    with disk_full_after(1000), pytest.raises(UnwritableOutputError, match="Results cannot be written to"):
        write_file(path, b"x" * 5000)

    def failing() -> Iterator[bytes]:
        yield b"new"
        raise InvalidRequestError("The source failed.")

    with pytest.raises(InvalidRequestError, match="The source failed"):
        write_file(path, failing())
    assert path.read_bytes() == b"old"
    assert _names(path.parent) == {"numbers.bin"}
    write_file(path, iter([b"n", b"ew"]))
    assert path.read_bytes() == b"new"


def test_of_several_files_all_are_on_the_disk_before_one_appears(tmp_path: Path) -> None:
    """When the second does not fit, the first one keeps its old content."""
    write_file(tmp_path / "a", b"old")
    with disk_full_after(1000), pytest.raises(UnwritableOutputError):
        write_files(tmp_path, {"a": b"new", "b": b"x" * 5000})
    assert (tmp_path / "a").read_bytes() == b"old"
    assert _names(tmp_path) == {"a"}


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    """While it is written its place is free; a failure leaves no partial files."""
    with staged_folder(tmp_path / "data") as folder:
        (folder / "a").write_bytes(b"1")
        assert not (tmp_path / "data").exists()
    assert (tmp_path / "data" / "a").read_bytes() == b"1"
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "data").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "plain").rmdir()
    with pytest.raises(UnwritableOutputError, match="File exists"), staged_folder(tmp_path / "other") as folder:
        folder.mkdir()
    assert _names(tmp_path) == {"data"}


def test_a_folder_is_replaced_only_by_a_complete_one(tmp_path: Path) -> None:
    """Without `replace` a folder with content is an error; with it a failure keeps the old one."""
    with staged_folder(tmp_path / "model") as folder:
        (folder / "a").write_bytes(b"old")
    with pytest.raises(UnwritableOutputError), staged_folder(tmp_path / "model") as folder:
        (folder / "a").write_bytes(b"new")
    with pytest.raises(InvalidRequestError), staged_folder(tmp_path / "model", replace=True):
        raise InvalidRequestError("Stop.")
    with (
        pytest.raises(UnwritableOutputError),
        staged_folder(tmp_path / "model", replace=True, is_durable=False) as folder,
    ):
        folder.rmdir()  # so that there is nothing to put in place
    assert (tmp_path / "model" / "a").read_bytes() == b"old"
    with staged_folder(tmp_path / "model", replace=True) as folder:
        (folder / "b").write_bytes(b"new")
    assert _names(tmp_path / "model") == {"b"}
    assert _names(tmp_path) == {"model"}


def test_errors_of_the_service_pass_unchanged(tmp_path: Path) -> None:
    """An inner sentence about one folder is not wrapped into one about another."""
    with pytest.raises(UnwritableOutputError, match="inner"), writing_to(tmp_path):
        raise UnwritableOutputError("inner")
