"""The folder of each job: its parts while it runs, its results for good."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from slidecascade.analysis.plan import RegionTask
from slidecascade.cells.instances import Instances
from slidecascade.cells.result import Analysis
from slidecascade.errors import InvalidRequestError, ResultTooLargeError, StorageFullError
from slidecascade.geometry import Box
from slidecascade.jobs import frame
from slidecascade.jobs.records import JobRecord
from slidecascade.jobs.survey import Results
from slidecascade.outputs.cells import geojson, geoparquet
from slidecascade.staging import make_folder, write_file
from slidecascade.wire import CSV, GEOJSON, JSON, PARQUET, PNG

MEDIA_TYPES: Final[Mapping[str, str]] = {
    ".csv": CSV,
    ".geojson": GEOJSON,
    ".gz": "application/gzip",
    ".json": JSON,
    ".parquet": PARQUET,
    ".png": PNG,
    ".npy": "application/octet-stream",
    ".tiff": "image/tiff",
}


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A file of a job's results; `name` holds a slash where it lies in a folder."""

    name: str
    path: Path
    size_bytes: int

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES[self.path.suffix]


class Folders:
    """The folders of jobs below `root`, named by the jobs' ids.

    Args:
        min_free_bytes: less on the disk is full.
    """

    def __init__(self, root: Path, *, min_free_bytes: int) -> None:
        self._root = root
        self._min_free_bytes = min_free_bytes
        make_folder(root)

    def of(self, job: str) -> Path:
        """The folder of a job."""
        return self._root / job

    def require_room(self) -> None:
        """Raises StorageFullError when the disk is full."""
        if shutil.disk_usage(self._root).free < self._min_free_bytes:
            raise StorageFullError(
                "The disk for results is full: delete jobs that are not needed any more, or ask for room."
            )

    def write_results(self, record: JobRecord, results: Results, task: RegionTask) -> None:
        """The files that the job asks for."""
        analysis = results.analysis
        results.write(
            self._results(record.id),
            partial(task.overview, damaged=bool(analysis.tiles.failed)),
            outputs=record.request.outputs,
        )
        if isinstance(analysis, Analysis):
            write_file(self.of(record.id) / frame.NAME, frame.Frame.of(analysis).encode())

    def cells(self, job: str, box: Box, *, class_name: str | None, limit: int) -> bytes:
        """The cells of a finished job whose bounding boxes meet `box` (level-0 pixels), as GeoJSON.

        Raises:
            ResultTooLargeError: they are more than `limit`.
            InvalidRequestError: the job found no cells, has no GeoParquet file, or no such class.
        """
        path = self._results(job) / "cells.parquet"
        if not (self.of(job) / frame.NAME).is_file():
            raise InvalidRequestError("The job's pipeline finds no cells: fetch its result or its files.")
        if not path.is_file():
            raise InvalidRequestError("The job has no cells.parquet: submit it with `parquet` among its outputs.")
        analysis = frame.Frame.decode((self.of(job) / frame.NAME).read_bytes()).analysis()
        ends = [end.name for end in analysis.classes.ends]
        if class_name is not None and class_name not in ends:
            message = f"There is no such class: choose one of {', '.join(ends)}."
            raise InvalidRequestError(message, (("class", message),))
        portions: list[Instances] = [analysis.instances]
        classes: list[NDArray[np.int64]] = [analysis.class_index]
        found = 0
        for rows in geoparquet.within(path, box.x, box.y, box.right, box.bottom):
            cells, index = geoparquet.cells_of(rows, analysis)
            if class_name is not None:
                wanted = index == ends.index(class_name)
                cells, index = cells.take(wanted), index[wanted]
            found += len(cells)
            if found > limit:
                raise ResultTooLargeError(
                    f"More than {limit} cells lie in this box: ask for a smaller one, or fetch cells.parquet."
                )
            portions.append(cells)
            classes.append(index)
        part = replace(
            analysis, instances=Instances.concatenate(portions), class_index=np.concatenate(classes), region_l0=box
        )
        return b"".join(geojson.encode(part))

    def files(self, job: str) -> tuple[ResultFile, ...]:
        """The results of a job, by name."""
        return tuple(sorted(self._files(self._results(job)), key=lambda file: file.name))

    def file(self, job: str, name: str) -> ResultFile | None:
        """The file of that name; None: there is none."""
        return next((file for file in self.files(job) if file.name == name), None)

    def remove(self, job: str) -> None:
        """Delete the folder of a job."""
        shutil.rmtree(self.of(job), ignore_errors=True)

    def _results(self, job: str) -> Path:
        return self.of(job) / "results"

    def _files(self, folder: Path) -> Iterator[ResultFile]:
        for path in folder.rglob("*") if folder.is_dir() else ():
            if path.is_file() and not path.name.startswith("."):
                yield ResultFile(path.relative_to(folder).as_posix(), path, path.stat().st_size)
