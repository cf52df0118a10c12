"""``slidecascade export``: a result in the format of another program."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from slidecascade import wire
from slidecascade.commands.jobs import DEFAULT_URL, KEY_VARIABLE, URL_VARIABLE
from slidecascade.errors import InvalidRequestError
from slidecascade.exports.folder import SUMMARY, ResultFolder
from slidecascade.exports.inputs import Inputs
from slidecascade.exports.stow import store
from slidecascade.exports.table import FORMATS, Format, write
from slidecascade.slides.dicomweb import DicomWeb, token_of
from slidecascade.staging import write_file, writing_to
from slidecascade_client import Client, RetryPolicy

BEARER_VARIABLE = "SLIDECASCADE_STOW_TOKEN"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="JOB-OR-FOLDER", help="a job's id, or a folder of `analyze` or `jobs fetch`"
    )
    parser.add_argument("--format", choices=tuple(FORMATS), required=True)
    parser.add_argument("--out", type=Path, metavar="FILE", help="a name that ends in .gz is compressed")
    parser.add_argument(
        "--to",
        metavar="URL",
        help=f"of DICOM formats: store the file on this DICOMweb server; {BEARER_VARIABLE} has its bearer token",
    )
    parser.add_argument("--to-token-file", type=Path, metavar="FILE", help="the bearer token for --to")
    parser.add_argument(
        "--url",
        default=os.environ.get(URL_VARIABLE, DEFAULT_URL),
        help=f"the server of the job (default: {URL_VARIABLE}, else {DEFAULT_URL})",
    )
    parser.add_argument(
        "--api-key", default=os.environ.get(KEY_VARIABLE), help=f"its key (default: {KEY_VARIABLE})"
    )
    parser.add_argument(
        "--fhir-config", type=Path, metavar="FILE", help="codes and references of FHIR (docs/export.md)"
    )
    parser.add_argument(
        "--dicom-source", type=Path, metavar="FILE", help="of DICOM formats: a file of the slide's base level"
    )
    parser.add_argument(
        "--dicom-worklist",
        type=Path,
        metavar="FILE",
        help="of DICOM formats, for other slides: identifiers in YAML, or an item of a DICOM worklist",
    )
    parser.add_argument(
        "--dicom-codes", type=Path, metavar="FILE", help="of DICOM formats: codes of classes and figures in YAML"
    )
    parser.add_argument("--heatmap", metavar="NAME", help="of dicom-pm (default: the first)")


def run(options: argparse.Namespace) -> int:
    """Write the file, store it where asked; returns the exit code."""
    if options.out is None and options.to is None:
        raise InvalidRequestError(
            "The export has no target: name a file with --out, or a DICOMweb server with --to."
        )
    if options.to is not None and not options.format.startswith("dicom-"):
        raise InvalidRequestError(f"{options.format} is not DICOM: write it with --out, without --to.")
    with tempfile.TemporaryDirectory(prefix="slidecascade-export-") as scratch:
        target = options.out or Path(scratch) / "export.dcm"
        _write(options, target)
        if options.to is not None:
            _store(options, target)
    return 0


def _write(options: argparse.Namespace, target: Path) -> None:
    form = FORMATS[options.format]
    inputs = Inputs(
        fhir_config=options.fhir_config,
        dicom_source=options.dicom_source,
        dicom_worklist=options.dicom_worklist,
        dicom_codes=options.dicom_codes,
        heatmap=options.heatmap,
    )
    with _folder(options, form, target) as path:
        write_file(target, write(ResultFolder(path), form, inputs, target))
    if options.out is not None:
        sys.stdout.write(f"The result is in {target}. {wire.RESEARCH_USE_ONLY}\n")


def _store(options: argparse.Namespace, path: Path) -> None:
    if path.suffix == ".gz":
        raise InvalidRequestError(f"{path} is compressed, which DICOMweb servers do not store: name it otherwise.")
    fixed = os.environ.get(BEARER_VARIABLE)
    server = DicomWeb(
        name=options.to,
        url=options.to.rstrip("/"),
        token=lambda: token_of(options.to_token_file) or fixed,
        policy=RetryPolicy(),
    )
    try:
        store(path, server)
    finally:
        server.close()
    sys.stdout.write(f"The result is stored on {options.to}. {wire.RESEARCH_USE_ONLY}\n")


@contextmanager
def _folder(options: argparse.Namespace, form: Format, target: Path) -> Iterator[Path]:
    """The folder of results; for a job, what the format needs of it is fetched beside the file."""
    if Path(options.source).is_dir():
        yield Path(options.source)
        return
    with writing_to(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent)
    with scratch as folder, Client(options.url, api_key=options.api_key) as client:
        job = client.job(options.source)
        job.wait()
        wanted = [SUMMARY, *form.needs, *(f"{name}.gz" for name in form.needs)]
        with writing_to(target.parent):
            job.fetch(folder, names=[name for name in job.files() if any(fnmatch(name, want) for want in wanted)])
        yield Path(folder)
