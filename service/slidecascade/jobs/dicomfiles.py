"""The DICOM objects of a job, made from its other files: ``dicom/NAME.dcm``."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from slidecascade.analysis.plan import RegionTask
from slidecascade.errors import InvalidRequestError
from slidecascade.exports.folder import ResultFolder
from slidecascade.exports.inputs import Inputs
from slidecascade.exports.table import FORMATS
from slidecascade.slides.dicomhead import dicom_head
from slidecascade.staging import write_file, writing_to

NEEDS: Final = frozenset({"parquet", "heatmaps", "mask"})
"""Outputs that the objects are made from."""


def require_dicom(task: RegionTask) -> None:
    """Reject a job whose objects cannot be made.

    Raises:
        InvalidRequestError: the slide is not DICOM, or the server cannot write DICOM.
    """
    if importlib.util.find_spec("pydicom") is None:
        raise InvalidRequestError("This server cannot write DICOM: the operator has to install its extra 'dicom'.")
    with task.open_source() as source:
        if dicom_head(source) is None:
            raise InvalidRequestError(
                "The slide is not DICOM: leave `dicom` out of the outputs, and export the finished job with a "
                "worklist file."
            )


def write_dicom(folder: Path, task: RegionTask) -> None:
    """Write the objects of the results in `folder`: summary, annotations or segmentation, and heatmaps.

    Raises:
        InvalidRequestError: the slide does not state what they need.
        UnwritableOutputError: the folder cannot be written.
    """
    with task.open_source() as source, tempfile.TemporaryDirectory(prefix="slidecascade-dicom-") as scratch:
        head = dicom_head(source)
        if isinstance(head, bytes):
            path = Path(scratch) / "slide.json"
            path.write_bytes(head)
            head = path
        with writing_to(folder):
            for name, pieces in _objects(ResultFolder(folder), Inputs(dicom_source=head)):
                write_file(folder / "dicom" / f"{name}.dcm", pieces())


def _objects(results: ResultFolder, inputs: Inputs) -> Iterator[tuple[str, Callable[[], Iterator[bytes]]]]:
    summary = results.summary
    yield "summary", partial(FORMATS["dicom-sr"].write, results, inputs)
    if summary.kind == "cells" and summary.cells:
        yield "annotations", partial(FORMATS["dicom-ann"].write, results, inputs)
    if summary.kind == "areas" and any(summary.counts.values()):
        yield "segmentation", partial(FORMATS["dicom-seg"].write, results, inputs)
    for legend in summary.heatmaps:
        named = Inputs(dicom_source=inputs.dicom_source, heatmap=legend.name)
        yield f"heatmap-{legend.name}", partial(FORMATS["dicom-pm"].write, results, named)
