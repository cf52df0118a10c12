"""The result of analysing a region."""

from __future__ import annotations

import json
import os
import shutil
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self
from uuid import uuid4

from pydantic import ValidationError

from slidecascade.wire import ZIP, AnswerWarning, JsonObject, Summary
from slidecascade_client.cells import Cells
from slidecascade_client.errors import UnexpectedAnswerError
from slidecascade_client.localfiles import is_inside
from slidecascade_client.reply import PackedReply, Reply
from slidecascade_client.shapes import Area, Tile, areas_of, tiles_of

_CELLS = "cells.geojson"
_GEOJSON = ".geojson"
_SUMMARY = "summary.json"
_OVERLAY = "overlay.png"
_HEATMAPS = "heatmaps/"
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}

# What `zipfile` raises on damaged content, and besides on a damaged directory.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError)
_UNREADABLE = (*_DAMAGED, NotImplementedError, RuntimeError, ValueError, OSError)
_COPY_BYTES = 2**20


_READ = ("summary", "geojson", "cells", "tiles", "areas", "heatmaps", "overlay")


@dataclass(frozen=True, slots=True)
class _Packed:
    """A result for another process: `read` holds the values that were looked at, by attribute."""

    reply: PackedReply
    files: tuple[str, ...]
    read: dict[str, Any]


class RegionResult:
    """All that came of a region: cells, tiles or areas, numbers and pictures.

    The files stay packed in one temporary file (in memory while small) until they are asked for; `close`, the
    end of a ``with`` block, or the end of the object deletes it. What was read before stays usable. A result may
    be pickled, e.g. to come back from a process pool: its files go along, or, once it is closed, what was read.

    Attributes:
        request_id: the id to quote to the service's operator.
        files: the names of the files `save` writes.

    Raises:
        UnexpectedAnswerError: when the reply is not the archive of a region, or a file in it is damaged.
    """

    def __init__(self, reply: Reply) -> None:
        self._hold(reply)
        try:
            self._archive = self._opened()
            self.files = tuple(name for name in self._archive.namelist() if not name.endswith("/"))
            self._refuse_strange_files()
        except BaseException:
            self.close()
            raise

    def _hold(self, reply: Reply) -> None:
        self._reply = reply
        self.request_id = reply.request_id
        # A forgotten temporary file would be a ResourceWarning; this also closes it with the last reference.
        self._finalizer = weakref.finalize(self, reply.body.close)

    def __getstate__(self) -> _Packed:
        read = {name: value for name, value in vars(self).items() if name in _READ}
        return _Packed(self._reply.packed(), self.files, read)

    def __setstate__(self, state: _Packed) -> None:
        self._hold(state.reply.unpacked())
        self.files = state.files
        vars(self).update(state.read)
        if not self._reply.body.closed:
            self._archive = self._opened()

    def _opened(self) -> zipfile.ZipFile:
        found = self._reply.media_type()
        if found != ZIP:
            raise self._reply.unexpected(f"The answer is {found or 'of no stated type'} instead of {ZIP}")
        try:
            return zipfile.ZipFile(self._reply.body)
        except _UNREADABLE as error:
            raise self._reply.unexpected("The answer is not a readable zip archive") from error

    def _refuse_strange_files(self) -> None:
        missing = {_SUMMARY, _OVERLAY}.difference(self.files) | ({_CELLS} if self._features is None else set())
        if missing:
            raise self._reply.unexpected(f"The archive of the answer lacks {', '.join(sorted(missing))}")
        # Such a name would make `save` write outside its folder.
        if not all(is_inside(name) for name in self.files):
            raise self._reply.unexpected("The response's archive contains a file name outside its folder")
        if not {info.compress_type for info in self._archive.infolist()} <= _METHODS:
            raise self._reply.unexpected("The archive of the answer is packed in an unknown way")

    @property
    def _features(self) -> str | None:
        """The name of the file of features: ``cells.geojson``, ``tiles.geojson`` or ``areas.geojson``."""
        return next((name for name in self.files if name.endswith(_GEOJSON) and "/" not in name), None)

    @property
    def kind(self) -> str:
        """Of the pipeline: cells, patches or areas."""
        return self.summary.kind

    @cached_property
    def summary(self) -> Summary:
        """Counts, fractions with denominators, densities, tiles, models, timings."""
        try:
            return Summary.model_validate_json(self._read(_SUMMARY))
        except ValidationError as error:
            raise self._damaged(_SUMMARY) from error

    @property
    def counts(self) -> dict[str, int]:
        """Cells, tiles above the threshold or areas by class name, zero included."""
        return self.summary.counts

    @property
    def warnings(self) -> tuple[AnswerWarning, ...]:
        """What the service doubts about the slide or the result; look at them before the numbers."""
        return self.summary.warnings

    @cached_property
    def geojson(self) -> JsonObject:
        """The feature collection; about ten times the size of its file in memory."""
        name = self._features or _CELLS
        content = self._read(name)
        try:
            document: JsonObject = json.loads(content)
        except ValueError as error:
            raise self._damaged(name) from error
        if not isinstance(document, dict) or not isinstance(document.get("features"), list):
            raise self._damaged(name)
        return document

    @cached_property
    def cells(self) -> Cells:
        """The cells, typed; a view on `geojson`.

        Raises:
            UnexpectedAnswerError: when the pipeline finds no cells.
        """
        if self._features != _CELLS:
            raise self._reply.unexpected(f"The pipeline finds no cells but {self.kind}: use `tiles` or `areas`")
        return Cells(self.geojson["features"])

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """The squares of a pipeline of patches; none for others."""
        return tiles_of(self.geojson["features"])

    @cached_property
    def areas(self) -> tuple[Area, ...]:
        """The areas of a pipeline of areas, or the outlines of tiles above the threshold; none for others."""
        return areas_of(self.geojson["features"])

    def file(self, name: str) -> bytes:
        """The content of one of `files`, such as ``grid.csv``, ``areas_rle.csv`` or ``mask.tiff``.

        Raises:
            KeyError: when there is no heatmap of that name.
        """
        if name not in self.files:
            raise KeyError(f"The result has no file {name!r}; it has {', '.join(self.files)}.")
        return self._read(name)

    @cached_property
    def heatmaps(self) -> Mapping[str, bytes]:
        """PNG files by heatmap name; `summary.heatmaps` has their legends."""
        names = [name for name in self.files if name.startswith(_HEATMAPS)]
        return {PurePosixPath(name).stem: self._read(name) for name in names}

    @cached_property
    def overlay(self) -> bytes:
        """A PNG file: the region with outlines of the objects in class colours."""
        return self._read(_OVERLAY)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `files` into `folder`, made if needed; files of these names are replaced, each at once.

        Returns:
            `folder`.

        Raises:
            OSError: when a file cannot be written.
        """
        target = Path(folder)
        for name in self.files:
            self._write(name, target / name)
        return target

    def close(self) -> None:
        """Delete the temporary file; repeated calls have no effect."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RegionResult of request {self.request_id}: {', '.join(self.files)}>"

    def _read(self, name: str) -> bytes:
        with self._member(name) as packed:
            return packed.read()

    def _write(self, name: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{uuid4().hex}.part")
        try:
            with self._member(name) as packed, part.open("xb") as file:
                shutil.copyfileobj(packed, file, _COPY_BYTES)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    @contextmanager
    def _member(self, name: str) -> Iterator[IO[bytes]]:
        """The content of a file, unpacked while it is read."""
        if self._reply.body.closed:
            raise ValueError("The result is closed: read its contents before closing it.")
        try:
            packed = self._archive.open(name)
        except _UNREADABLE as error:
            raise self._damaged(name) from error
        try:
            with packed:
                yield packed
        except _DAMAGED as error:
            raise self._damaged(name) from error

    def _damaged(self, name: str) -> UnexpectedAnswerError:
        return self._reply.unexpected(f"{name} in the answer is damaged")
