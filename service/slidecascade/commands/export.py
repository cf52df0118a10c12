"""``slidecascade export``: a result in the format of another program."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slidecascade import wire
from slidecascade.commands.jobs import DEFAULT_URL, KEY_VARIABLE, URL_VARIABLE
from slidecascade.errors import InvalidRequestError
from slidecascade.exports.folder import SUMMARY, ResultFolder
from slidecascade.exports.inputs import Inputs
from slidecascade.exports.table import FORMATS, Format, write
from slidecascade.staging import write_file, writing_to
from slidecascade_client import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="JOB-OR-FOLDER", help="a job's id, or a folder of `analyze` or `jobs fetch`"
    )
    parser.add_argument("--format", choices=tuple(FORMATS), required=True)
    parser.add_argument("--out", type=Path, metavar="FILE", help="a name that ends in .gz is compressed")
    parser.add_argument(
        "--to", metavar="NAME-OR-URL", help="store it on a server: of fhir, a name of --fhir-config or an address"
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="of --to URL: the bearer token")
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
        "--dicom-source", type=Path, metavar="FILE", help="of dicom-ann: a DICOM file of the slide's base level"
    )


def run(options: argparse.Namespace) -> int:
    """Write the file, and store it where asked for; returns the exit code."""
    form = FORMATS[options.format]
    if options.out is None and options.to is None:
        raise InvalidRequestError("--out or --to is required: name a file, or a server.")
    if options.to is not None and form.send is None:
        raise InvalidRequestError(f"The format {options.format} is not stored on servers: leave --to out.")
    with _scratch(options) as scratch:
        inputs = Inputs(
            fhir_config=options.fhir_config, dicom_source=options.dicom_source, token_file=options.token_file
        )
        target: Path = options.out or scratch / "export"
        write_file(target, write(ResultFolder(_folder(options, form, scratch)), form, inputs, target))
        if options.to is not None and form.send is not None:
            stored = form.send(target, inputs, options.to)
            sys.stdout.write(f"The result is on {stored}.\n")
    if options.out is not None:
        sys.stdout.write(f"The result is in {options.out}. {wire.RESEARCH_USE_ONLY}\n")
    return 0


@contextmanager
def _scratch(options: argparse.Namespace) -> Iterator[Path]:
    """A folder for what is fetched: beside the file, if there is one."""
    if options.out is None:
        with tempfile.TemporaryDirectory() as folder:
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
        wanted = {SUMMARY, *form.needs, *(f"{name}.gz" for name in form.needs)}
        with writing_to(scratch):
            job.fetch(scratch / "job", names=[name for name in job.files() if name in wanted])
    return scratch / "job"
