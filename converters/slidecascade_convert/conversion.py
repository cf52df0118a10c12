"""Converts a checkpoint to a package in the model repository, or fails without partial files."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISDIR
from typing import Any, Final

import numpy as np
import pydantic

from slidecascade.errors import ConversionError, InvalidRequestError
from slidecascade.models.repository import load_package
from slidecascade.models.spec import ClassifierSpec, CropSpec, ModelClass, SegmenterSpec
from slidecascade.models.tensors import rgb_image
from slidecascade.runners.local import LocalRunner
from slidecascade_convert.card import card, library_card
from slidecascade_convert.confinement import TIME_LIMIT_S, run_confined
from slidecascade_convert.library_request import LibraryRequest
from slidecascade_convert.outcome import GRAPH_FILE, OUTCOME_FILE, REQUEST_FILE, TRY_FILE, Outcome, Parity
from slidecascade_convert.package import PICTURE_FILE, ServedGraph, write_package
from slidecascade_convert.picture import drawn, read, sentence
from slidecascade_convert.request import ConversionRequest
from slidecascade_convert.source import recognise
from slidecascade_convert.trial import Subject, Trial

# Colours that people with colour vision deficiencies can distinguish (Okabe and Ito 2008).
_COLOURS: Final = (
    (0, 158, 115),
    (0, 114, 178),
    (213, 94, 0),
    (240, 228, 66),
    (86, 180, 233),
    (204, 121, 167),
    (230, 159, 0),
    (0, 0, 0),
)
_MAX_BATCH = {"segment": 8, "classify": 32}
_PREFIX: Final = "slidecascade-convert-"
_STALE_S: Final = 24 * 3600.0
"""Far longer than a conversion may take: a folder that old was left by one that was killed."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """A finished conversion: the package's folder, what was measured, and what the package finds.

    `picture` shows tiles with what the package and the source network find, and `found` says so in a sentence.
    """

    folder: Path
    parity: Parity
    picture: Path
    found: str


def convert(
    request: ConversionRequest | LibraryRequest,
    *,
    memory_bytes: int | None = None,
    time_limit_s: float = TIME_LIMIT_S,
) -> Conversion:
    """Convert, compare and write a package, replacing one of the same name.

    Args:
        request: what to convert and how.
        memory_bytes: what the converting process may allocate; by default nine tenths of the machine's memory.
        time_limit_s: how long it may take.

    Raises:
        InvalidRequestError: the request contradicts the source.
        ConversionError: when the source cannot be converted; the message has the cause.
        UnwritableOutputError: the package cannot be written.
    """
    recognise(request.source)
    _sweep()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        folder = Path(name)
        outcome = _run(request, folder, memory_bytes, time_limit_s)
        if outcome.parity is None:
            kind = InvalidRequestError if outcome.is_callers_fault else ConversionError
            raise kind(outcome.refusal or "The conversion gave no answer: try again.")
        if isinstance(request, LibraryRequest):
            return _library_package(request, outcome, outcome.parity, folder)
        return _package(request, outcome, outcome.parity, folder)


def _package(request: ConversionRequest, outcome: Outcome, parity: Parity, folder: Path) -> Conversion:
    """The package of the graph in `folder`, with a picture of what it finds."""
    graph = _graph(folder)
    spec = spec_of(request, outcome, graph.sha256)
    subject = Subject.of(request)
    trial = Trial.load(folder, subject)
    written = write_package(
        request.out,
        spec,
        graph,
        card(request, parity).markdown,
        verify=_serve_once,
        max_batch=_MAX_BATCH[request.task],
        parity_json=_json(parity),
        warm_up_px=outcome.height_px or 256,
        picture_png=drawn(trial, subject, spec.classes),
    )
    version = written / str(request.version)
    return Conversion(written, parity, version / PICTURE_FILE, sentence(trial, subject))


def _library_package(request: LibraryRequest, outcome: Outcome, parity: Parity, folder: Path) -> Conversion:
    """The package of a library's network, with a picture of what it finds."""
    if outcome.library is None:
        raise ConversionError("The conversion gave no answer: try again.")
    spec = outcome.library.spec
    subject = Subject.of_library(spec)
    trial = Trial.load(folder, subject)
    written = write_package(
        request.out,
        spec,
        _graph(folder),
        library_card(outcome.library, parity).markdown,
        verify=_serve_once,
        max_batch=_MAX_BATCH["segment"],
        parity_json=_json(parity),
        picture_png=drawn(trial, subject, spec.classes),
    )
    version = written / str(request.version)
    return Conversion(written, parity, version / PICTURE_FILE, sentence(trial, subject))


def _graph(folder: Path) -> ServedGraph:
    import onnx

    return ServedGraph.of(onnx.load_model(folder / GRAPH_FILE, load_external_data=False))


def _json(parity: Parity) -> str:
    return parity.model_dump_json(indent=2, exclude_none=True) + "\n"


def _sweep() -> None:
    """Remove the files of this user's killed conversions."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            found = folder.lstat()
            if S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and time.time() - found.st_mtime > _STALE_S:
                shutil.rmtree(folder, ignore_errors=True)


def spec_of(request: ConversionRequest, outcome: Outcome, sha256: str) -> SegmenterSpec | ClassifierSpec:
    """What ``model.yaml`` is to state of the graph with that sha256."""
    is_classifier = request.task == "classify"
    image = rgb_image(
        height_px=outcome.height_px if is_classifier else None,
        width_px=outcome.width_px if is_classifier else None,
        multiple_of=outcome.multiple_of,
    )
    fields: dict[str, Any] = {
        "name": request.name,
        "version": request.version,
        "task": request.task,
        "head": request.head,
        "mpp": request.mpp,
        "inputs": (image,),
        "outputs": request.outputs,
        "classes": tuple(
            ModelClass(name=name, color=_COLOURS[index % len(_COLOURS)])
            for index, name in enumerate(request.classes)
        ),
        "licence": request.licence,
        "training_data": (),
        "accuracy": {},
        "sha256": sha256,
    }
    if is_classifier:
        return ClassifierSpec(crop=CropSpec(size_px=request.crop_px or image.height_px or 0), **fields)
    return SegmenterSpec(halo_px=request.halo_px, **fields)


def _run(
    request: ConversionRequest | LibraryRequest, folder: Path, memory_bytes: int | None, time_limit_s: float
) -> Outcome:
    if isinstance(request, ConversionRequest) and request.try_image is not None:
        np.save(folder / TRY_FILE, read(request.try_image, mpp=request.mpp))
    text = pydantic.TypeAdapter(type(request)).dump_json(_absolute(request))
    (folder / REQUEST_FILE).write_bytes(text)
    run_confined(folder, memory_bytes=memory_bytes, time_limit_s=time_limit_s)
    try:
        return Outcome.model_validate_json((folder / OUTCOME_FILE).read_bytes())
    except (OSError, pydantic.ValidationError) as error:
        raise ConversionError("The conversion gave no answer: try again.") from error


def _absolute(request: ConversionRequest | LibraryRequest) -> ConversionRequest | LibraryRequest:
    """The same request for a process with another working folder."""
    if isinstance(request, LibraryRequest):
        return replace(request, source=request.source.resolve(), out=request.out.resolve())
    calibrate = None if request.calibrate is None else request.calibrate.resolve()
    # The image that is tried was read by this process.
    return replace(
        request, source=request.source.resolve(), calibrate=calibrate, try_image=None, out=request.out.resolve()
    )


def _serve_once(graph_path: Path) -> None:
    """Load the package and run it once, as the service does when it starts."""
    LocalRunner([load_package(graph_path.parents[1])]).close()
