"""Images that arrive for jobs, on a disk without room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slidecascade.errors import StorageFullError
from slidecascade.jobs.uploads import Upload


def test_an_upload_without_room_is_removed(tmp_path: Path) -> None:
    """What is buffered cannot be written when the upload ends, and again when its file is closed: it is gone."""
    upload = Upload(tmp_path / "job", "job", min_free_bytes=0)
    upload.write(bytes(100))
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, upload._file.fileno())
    os.close(full)
    with pytest.raises(StorageFullError):
        upload.finish()
    upload.discard()
    assert list(tmp_path.iterdir()) == []
