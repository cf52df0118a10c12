"""The formats there are, each with the files that it is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

from slidecascade.errors import MissingExtraError, UnusableDataError
from slidecascade.exports.annotationxml import aperio, asap
from slidecascade.exports.dsa import dsa
from slidecascade.exports.fhir import fhir, store_bundle
from slidecascade.exports.folder import GEOJSON, HEATMAPS, MASK, PARQUET, RLE, ResultFolder, content
from slidecascade.exports.inputs import Inputs
from slidecascade.exports.stow import store_dicom
from slidecascade.outputs.cells import geoparquet
from slidecascade.outputs.gzipped import gzipped

_OUTLINES: Final = (PARQUET, *GEOJSON)


@dataclass(frozen=True, slots=True)
class Format:
    """A format of ``slidecascade export``.

    Attributes:
        write: the file's bytes, in pieces.
        needs: names of the result's files that it is made from, where they exist (also with ``.gz``); patterns as
            those of shells.
        send: stores a written file on a server that the caller names; returns its address.
    """

    write: Callable[[ResultFolder, Inputs], Iterator[bytes]]
    needs: tuple[str, ...]
    send: Callable[[Path, Inputs, str], str] | None = None


def write(folder: ResultFolder, form: Format, inputs: Inputs, target: Path) -> Iterator[bytes]:
    """The bytes to write to `target`; compressed, if its name ends in ``.gz``."""
    pieces = form.write(folder, inputs)
    return gzipped(pieces) if target.suffix == ".gz" else pieces


def _outlines(
    encode: Callable[[ResultFolder], Iterator[bytes]],
) -> Callable[[ResultFolder, Inputs], Iterator[bytes]]:
    """An encoder that needs nothing but the result."""
    return lambda folder, _inputs: encode(folder)


def _geojson(folder: ResultFolder, _inputs: Inputs) -> Iterator[bytes]:
    return _copy(folder, folder.geojson, "geojson")


def _parquet(folder: ResultFolder, _inputs: Inputs) -> Iterator[bytes]:
    return _copy(folder, folder.parquet, "parquet")


def _spatialdata(folder: ResultFolder, _inputs: Inputs) -> Iterator[bytes]:
    if folder.parquet is None:
        return _copy(folder, None, "parquet")
    try:
        return geoparquet.stream_for_spatialdata(folder.parquet)
    except ValueError as error:
        raise UnusableDataError(f"{folder.parquet}: {error}") from error


def _rle(folder: ResultFolder, _inputs: Inputs) -> Iterator[bytes]:
    return _copy(folder, folder.rle, "rle")


def _dicom(module: str, function: str) -> Callable[[ResultFolder, Inputs], Iterator[bytes]]:
    """A function of a module that needs the extra ``dicom``."""

    def encode(folder: ResultFolder, inputs: Inputs) -> Iterator[bytes]:
        try:
            found = import_module(f"slidecascade.exports.{module}")
        except ModuleNotFoundError as error:
            raise MissingExtraError.of(error.name, "dicom", "for the formats of DICOM") from error
        pieces: Iterator[bytes] = getattr(found, function)(folder, inputs)
        return pieces

    return encode


def _copy(folder: ResultFolder, path: Path | None, output: str) -> Iterator[bytes]:
    if path is None:
        raise UnusableDataError(
            f"The result of the pipeline {folder.summary.pipeline} ({folder.summary.kind}) has no {output} file:"
            " choose another format, or request this output of the job."
        )
    return content(path)


FORMATS: Final = {
    "geojson": Format(_geojson, GEOJSON),
    "dsa": Format(_outlines(dsa), _OUTLINES),
    "asap": Format(_outlines(asap), _OUTLINES),
    "aperio": Format(_outlines(aperio), _OUTLINES),
    "parquet": Format(_parquet, (PARQUET,)),
    "spatialdata": Format(_spatialdata, (PARQUET,)),
    "rle": Format(_rle, (RLE,)),
    "dicom-ann": Format(_dicom("bulkannotations", "bulk_annotations"), _OUTLINES, store_dicom),
    "dicom-sr": Format(_dicom("structuredreport", "structured_report"), (), store_dicom),
    "dicom-seg": Format(_dicom("segmentation", "segmentation"), (MASK, *GEOJSON), store_dicom),
    "dicom-pm": Format(_dicom("parametricmap", "parametric_map"), (HEATMAPS,), store_dicom),
    "fhir": Format(fhir, (PARQUET, RLE, *GEOJSON), store_bundle),
}
