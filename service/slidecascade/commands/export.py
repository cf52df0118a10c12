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
from slidecascade.exports.table import FORMATS, Format, write
from slidecascade.staging import write_file, writing_to
from slidecascade_client import Client

BEARER_VARIABLE = "SLIDECASCADE_STOW_TOKEN"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="JOB-OR-FOLDER", help="a job's id, or a folder of `analyze` or `jobs fetch`"
    )
    parser.add_argument("--format", choices=tuple(FORMATS), required=True)
    parser.add_argument("--out", type=Path, metavar="FILE", help="a name that ends in .gz is compressed")
    parser.add_argument(
        "--to",
        metavar="NAME-OR-URL",
        help="store it on a server: DICOM on a DICOMweb server, fhir on a FHIR server or a name of --fhir-config",
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"of --to URL: the bearer token (of DICOMweb also {BEARER_VARIABLE})",
    )
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
    """Write the file, and store it where asked for; returns the exit code."""
    form = FORMATS[options.format]
    if options.out is None and options.to is None:
        raise InvalidRequestError("The export has no target: name a file with --out, or a server with --to.")
    if options.to is not None and form.send is None:
        raise InvalidRequestError(f"The format {options.format} is not stored on servers: leave --to out.")
    with _scratch(options) as scratch:
        inputs = _inputs(options)
        target: Path = options.out or scratch / "export"
        write_file(target, write(ResultFolder(_folder(options, form, scratch)), form, inputs, target))
        if options.out is not None:
            sys.stdout.write(f"The result is in {options.out}. {wire.RESEARCH_USE_ONLY}\n")
        if options.to is not None and form.send is not None:
            stored = form.send(target, inputs, options.to)
            sys.stdout.write(f"The result is stored on {stored}. {wire.RESEARCH_USE_ONLY}\n")
    return 0


def _inputs(options: argparse.Namespace) -> Inputs:
    return Inputs(
        fhir_config=options.fhir_config,
        token_file=options.token_file,
        bearer=os.environ.get(BEARER_VARIABLE),
        dicom_source=options.dicom_source,
        dicom_worklist=options.dicom_worklist,
        dicom_codes=options.dicom_codes,
        heatmap=options.heatmap,
    )


@contextmanager
def _scratch(options: argparse.Namespace) -> Iterator[Path]:
    """A folder for what is fetched: beside the file, if there is one."""
    if options.out is None:
        with tempfile.TemporaryDirectory(prefix="slidecascade-export-") as folder:
            yield Path(folder)
        return
    with writing_to(options.out.parent):
        options.out.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=f".{options.out.name}-", dir=options.out.parent)
    with scratch as folder:
        yield Path(folder)


def _folder(options: argparse.Namespace, form: Format, scratch: Path) -> Path:
    """The folder of results; for a job, what the format needs of it is fetched into `scratch`."""
    if Path(options.source).is_dir():
        return Path(options.source)
    with Client(options.url, api_key=options.api_key) as client:
        job = client.job(options.source)
        job.wait()
        wanted = [SUMMARY, *form.needs, *(f"{name}.gz" for name in form.needs)]
        with writing_to(scratch):
            names = [name for name in job.files() if any(fnmatch(name, want) for want in wanted)]
            job.fetch(scratch / "job", names=names)
    return scratch / "job"
