"""The folder of each job: its parts while it runs, its results for good."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from slidecascade.analysis.plan import RegionTask
from slidecascade.cells.instances import Instances
from slidecascade.cells.result import Analysis
from slidecascade.errors import (
    InvalidRequestError,
    ResultTooLargeError,
    StorageFullError,
    UnknownHeatmapError,
    UnknownJobError,
    UnreadablePartError,
)
from slidecascade.geometry import Box
from slidecascade.jobs import boxcells, frame
from slidecascade.jobs.collect import Collection
from slidecascade.jobs.dicomfiles import NEEDS, write_dicom
from slidecascade.jobs.digests import Digests, read_digests, write_digests
from slidecascade.jobs.fieldcells import FieldCells
from slidecascade.jobs.layers import Layers, field_name, write_layers
from slidecascade.jobs.records import NO_SUCH_JOB, JobRecord
from slidecascade.jobs.survey import Results
from slidecascade.jobs.uploads import Upload, stored
from slidecascade.outputs.cells import geojson, geoparquet
from slidecascade.slides.upload import RegionImage
from slidecascade.staging import make_folder, remove_partial_files, write_file
from slidecascade.wire import CSV, GEOJSON, JSON, PARQUET, PNG

_CELLS: Final = "cells.parquet"
_NO_CELLS: Final = "The job's pipeline finds no cells: fetch its result or its files."
MEDIA_TYPES: Final[Mapping[str, str]] = {
    ".csv": CSV,
    ".dcm": "application/dicom",
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
    digests: Digests | None = None

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

    @property
    def free_bytes(self) -> int:
        """Room on the disk."""
        return shutil.disk_usage(self._root).free

    def used_bytes(
        self, jobs: Sequence[str] | None = None, *, is_stopping: Callable[[], bool] = lambda: False
    ) -> int:
        """Size of all files of `jobs`, by default of all; reads every folder, until `is_stopping`."""
        total = 0
        for top in [self._root] if jobs is None else map(self.of, jobs):
            for folder, _, names in os.walk(top):
                if is_stopping():
                    return total
                for name in names:
                    with suppress(OSError):  # it was removed meanwhile
                        total += Path(folder, name).stat().st_size
        return total

    def unused_since(self, seconds: float) -> tuple[str, ...]:
        """The names of folders in the form of a job's id in which nothing was written for so long."""
        before = time.time() - seconds
        found = []
        for path in self._root.iterdir():
            with suppress(OSError, ValueError):
                if str(uuid.UUID(path.name)) == path.name and path.is_dir() and _newest(path) <= before:
                    found.append(path.name)
        return tuple(found)

    def begin_upload(self, stated_bytes: int) -> Upload:
        """A folder for the image of a new job, of `stated_bytes` as far as the client says so.

        Raises:
            StorageFullError: there is no room for it.
        """
        if shutil.disk_usage(self._root).free - stated_bytes < self._min_free_bytes:
            raise StorageFullError("There is no room for the upload: delete jobs that are not needed any more.")
        job = str(uuid.uuid4())
        return Upload(self.of(job), job, min_free_bytes=self._min_free_bytes)

    def sent(self, record: JobRecord) -> Path | RegionImage | None:
        """What was uploaded with the job; None: it names a slide. Raises UnreadableSlideError when it is gone."""
        return stored(self.of(record.id)) if record.is_upload else None

    def write_results(self, record: JobRecord, results: Results, task: RegionTask) -> None:
        """Write the files that the job asks for, and remove what killed workers have left half written."""
        analysis = results.analysis
        outputs = frozenset[str](record.request.outputs)
        if "dicom" in outputs:
            outputs |= NEEDS
        if isinstance(results, Collection):
            with task.open_source() as source:
                size_l0 = source.size_l0
            write_layers(self._layers(record.id), results, size_l0)
        results.write(
            self._results(record.id),
            partial(task.overview, damaged=bool(analysis.tiles.failed)),
            outputs=outputs,
        )
        if "dicom" in outputs:
            write_dicom(self._results(record.id), task)
        write_digests(self._results(record.id), [file.name for file in self._files(self._results(record.id))])
        if isinstance(analysis, Analysis):
            write_file(self.of(record.id) / frame.NAME, frame.Frame.of(analysis).encode())
        for folder, _, _ in os.walk(self.of(record.id)):  # workers may have died in any of them
            remove_partial_files(Path(folder))

    def has_cells(self, job: str) -> bool:
        """Whether `cells` can list those of a job whose results are written."""
        return (self.of(job) / frame.NAME).is_file() and (self._results(job) / _CELLS).is_file()

    def cells(self, job: str, box: Box, *, class_name: str | None, limit: int) -> bytes:
        """The cells of a finished job whose bounding boxes meet `box` (level-0 pixels), as GeoJSON.

        Raises: see `packed_cells`.
        """
        part, _ = self._within(job, box, class_name=class_name, limit=limit)
        return b"".join(geojson.encode(part))

    def packed_cells(self, job: str, box: Box, *, class_name: str | None, limit: int) -> bytes:
        """The same cells as columns, see `boxcells`.

        Raises:
            ResultTooLargeError: they are more than `limit`.
            InvalidRequestError: the job found no cells, has no GeoParquet file, or no such class.
            UnreadablePartError: a file is damaged.
            UnknownJobError: the job was deleted meanwhile.
        """
        return boxcells.encode(*self._within(job, box, class_name=class_name, limit=limit))

    def _within(
        self, job: str, box: Box, *, class_name: str | None, limit: int
    ) -> tuple[Analysis, NDArray[np.bytes_]]:
        """The cells that meet a box, and the ids they have in the file; raises as `packed_cells` does."""
        with self._reading(job):
            return self._read(job, box, class_name=class_name, limit=limit)

    def _read(
        self, job: str, box: Box, *, class_name: str | None, limit: int
    ) -> tuple[Analysis, NDArray[np.bytes_]]:
        path = self._results(job) / _CELLS
        if not (self.of(job) / frame.NAME).is_file():
            raise InvalidRequestError(_NO_CELLS, (("job_id", _NO_CELLS),))
        if not path.is_file():
            message = f"The job has no {_CELLS}: submit it with `parquet` among its outputs."
            raise InvalidRequestError(message, (("job_id", message),))
        analysis = frame.Frame.decode((self.of(job) / frame.NAME).read_bytes()).analysis()
        ends = [end.name for end in analysis.classes.ends]
        if class_name is not None and class_name not in ends:
            message = f"There is no such class: choose one of {', '.join(ends)}."
            raise InvalidRequestError(message, (("class", message),))
        portions: list[Instances] = [analysis.instances]
        classes: list[NDArray[np.int64]] = [analysis.class_index]
        ids: list[NDArray[np.bytes_]] = [np.zeros(0, "S36")]
        found = 0
        for rows in geoparquet.within(path, box.x, box.y, box.right, box.bottom):
            cells, index = geoparquet.cells_of(rows, analysis)
            names = geoparquet.ids_of(rows)
            if class_name is not None:
                wanted = index == ends.index(class_name)
                cells, index, names = cells.take(wanted), index[wanted], names[wanted]
            found += len(cells)
            if found > limit:
                raise ResultTooLargeError(
                    f"More than {limit} cells lie in this box: ask for a smaller one, or fetch cells.parquet."
                )
            portions.append(cells)
            classes.append(index)
            ids.append(names)
        part = replace(
            analysis, instances=Instances.concatenate(portions), class_index=np.concatenate(classes), region_l0=box
        )
        return part, np.concatenate(ids)

    def centroid(self, job: str, point_l0: tuple[float, float]) -> tuple[float, float]:
        """The centroid of the cell at a point, in level-0 pixels: the nearest whose bounding box holds it.

        Raises:
            InvalidRequestError: there is no cell, or the job has no GeoParquet file.
            UnreadablePartError, UnknownJobError: as of `packed_cells`.
        """
        path = self._results(job) / _CELLS
        x, y = point_l0
        found = [np.zeros((0, 2))]
        with self._reading(job):
            if path.is_file():
                found += [geoparquet.centroids_and_areas(rows)[0] for rows in geoparquet.within(path, x, y, x, y)]
            centroids = np.concatenate(found)
            if not len(centroids):
                raise InvalidRequestError("The job has no cell at this point: take one from its cells.")
        nearest = centroids[np.argmin(np.hypot(centroids[:, 0] - x, centroids[:, 1] - y))]
        return float(nearest[0]), float(nearest[1])

    def layers(self, job: str) -> Layers:
        """What can be drawn of a finished job.

        Raises:
            UnknownHeatmapError: the job's pipeline finds no cells.
            UnreadablePartError: a file is gone or damaged.
        """
        if not self._layers(job).is_dir():
            raise UnknownHeatmapError("The job's pipeline finds no cells, and has no layers: fetch its files.")
        return Layers(self._layers(job))

    def field(self, record: JobRecord, index: int) -> bytes | None:
        """The cells of a field, see `fieldcells`; None: it is not done yet, or there is none.

        Raises:
            InvalidRequestError: the job's pipeline finds no cells.
        """
        if record.status == "succeeded" and not (self.of(record.id) / frame.NAME).is_file():
            raise InvalidRequestError(_NO_CELLS, (("job_id", _NO_CELLS),))
        final = self._layers(record.id) / field_name(index)
        parts = self.of(record.id) / "parts"
        try:
            if record.status == "succeeded":
                return final.read_bytes()
            if not (parts / f"{index:05d}.json").is_file():
                return None
            return provisional(index, geoparquet.read(parts / f"{index:05d}.parquet")).encode()
        except (OSError, ValueError):
            return None

    def fields(self, record: JobRecord) -> tuple[int, ...]:
        """The fields whose cells `field` gives, in order."""
        if record.status == "succeeded":
            return tuple(sorted(int(path.stem) for path in self._layers(record.id).glob("*.bin")))
        return tuple(sorted(int(path.stem) for path in (self.of(record.id) / "parts").glob("[0-9]*.json")))

    def files(self, job: str) -> tuple[ResultFile, ...]:
        """The results of a job, by name."""
        folder = self._results(job)
        digests = read_digests(folder)
        found = (replace(file, digests=digests.get(file.name)) for file in self._files(folder))
        return tuple(sorted(found, key=lambda file: file.name))

    def file(self, job: str, name: str) -> ResultFile | None:
        """The file of that name, without its digests; None: there is none."""
        return next((file for file in self._files(self._results(job)) if file.name == name), None)

    def remove(self, job: str) -> None:
        """Delete the folder of a job."""
        shutil.rmtree(self.of(job), ignore_errors=True)

    @contextmanager
    def _reading(self, job: str) -> Iterator[None]:
        """A block that reads the files of a finished job, which may be damaged, or deleted at any moment."""
        try:
            yield
        except (InvalidRequestError, OSError, ValueError) as error:
            if not self.of(job).is_dir():
                raise UnknownJobError(NO_SUCH_JOB) from error
            if isinstance(error, InvalidRequestError):
                raise
            raise UnreadablePartError("The cells of this job are gone or damaged: submit it again.") from error

    def _layers(self, job: str) -> Path:
        return self.of(job) / "layers"

    def _results(self, job: str) -> Path:
        return self.of(job) / "results"

    def _files(self, folder: Path) -> Iterator[ResultFile]:
        for path in folder.rglob("*") if folder.is_dir() else ():
            if path.is_file() and not path.name.startswith("."):
                yield ResultFile(path.relative_to(folder).as_posix(), path, path.stat().st_size)


def provisional(index: int, rows: geoparquet.Table) -> FieldCells:
    """The cells of a field's part, while the neighbours at its edges are not settled."""
    drawn = geoparquet.drawn(rows)
    return FieldCells(
        index, drawn.classes, drawn.vertices, drawn.offsets, drawn.class_index, drawn.probability, is_final=False
    )


def _newest(folder: Path) -> float:
    """When something was written last in `folder`, in seconds since 1970."""
    return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
