"""Files of finished jobs that are damaged, or deleted while they are asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from made_analysis import make_analysis
from slidecascade.errors import InvalidRequestError, UnknownJobError, UnreadablePartError
from slidecascade.geometry import Box
from slidecascade.jobs import frame
from slidecascade.jobs.folders import Folders
from slidecascade.outputs.cells import geoparquet

JOB = "3d8e1c6e-5a5f-4d57-9f0e-0d1b7c1b1c11"
BOX = Box(0, 0, 10_000, 10_000)

Ask = Callable[[Folders], object]
ASKED: list[Ask] = [
    lambda folders: folders.cells(JOB, BOX, class_name=None, limit=99),
    lambda folders: folders.packed_cells(JOB, BOX, class_name=None, limit=99),
    lambda folders: folders.centroid(JOB, tuple(make_analysis(20).instances.centroids[0])),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of a job with 20 cells."""
    analysis = make_analysis(20)
    (tmp_path / JOB / "results").mkdir(parents=True)
    (tmp_path / JOB / frame.NAME).write_bytes(frame.Frame.of(analysis).encode())
    (tmp_path / JOB / "results" / "cells.parquet").write_bytes(geoparquet.encode(geoparquet.table(analysis)))
    return tmp_path


@pytest.mark.parametrize("ask", ASKED, ids=["cells", "packed", "centroid"])
def test_damaged_cells_are_reported(root: Path, ask: Ask) -> None:
    """A file that was cut off: the problem has a name, and the job is not unknown."""
    folders = Folders(root, min_free_bytes=0)
    assert ask(folders)
    cells = root / JOB / "results" / "cells.parquet"
    cells.write_bytes(cells.read_bytes()[:-100])
    with pytest.raises(UnreadablePartError, match="damaged"):
        ask(folders)


def test_a_damaged_frame_is_reported(root: Path) -> None:
    (root / JOB / frame.NAME).write_bytes(b"{")
    with pytest.raises(UnreadablePartError, match="damaged"):
        ASKED[0](Folders(root, min_free_bytes=0))


@pytest.mark.parametrize("ask", ASKED, ids=["cells", "packed", "centroid"])
def test_cells_of_a_job_that_is_deleted_meanwhile(root: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its files are looked for, or when they are opened: the job is unknown."""
    folders = Folders(root, min_free_bytes=0)
    within = geoparquet.within

    def late(path: Path, *box: float) -> object:
        shutil.rmtree(root / JOB)
        return within(path, *box)

    monkeypatch.setattr(geoparquet, "within", late)
    for _ in range(2):
        with pytest.raises(UnknownJobError):
            ask(folders)


def test_a_job_without_cells_is_not_unknown(root: Path) -> None:
    (root / JOB / frame.NAME).unlink()
    with pytest.raises(InvalidRequestError, match="no cells"):
        ASKED[0](Folders(root, min_free_bytes=0))
