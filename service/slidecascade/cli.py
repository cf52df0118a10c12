"""The command line: ``slidecascade COMMAND ...``.

Exit codes: 0 done, 1 the work failed, 2 the call was wrong. Errors are one sentence on stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from slidecascade import __version__, errors
from slidecascade.privacy import forbid_telemetry
from slidecascade_client import SlideCascadeClientError

DONE, FAILED, WRONG_CALL = 0, 1, 2

CALLERS_FAULT = (
    errors.InvalidRequestError,
    errors.SettingsError,
    errors.MissingResolutionError,
    errors.RegionOutsideSlideError,
    errors.RegionTooLargeError,
    errors.UndecodableImageError,
    errors.UnknownChannelError,
    errors.UnknownHeatmapError,
    errors.UnknownModelError,
    errors.UnknownPipelineError,
    errors.UnknownSlideError,
    errors.UnreadableSlideError,
    errors.UnusableDataError,
)

REFUSALS = (400, 401, 403, 404, 406, 409, 413, 415, 422)
"""What a served process answers to a request that was wrong."""


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand. Its module has ``add_arguments(parser)`` and ``run(namespace) -> exit code``.

    The module is imported only when its command is called, so that one command's libraries may be missing
    while another runs.
    """

    name: str
    module: str
    summary: str
    extra: str = "service,cpu"


COMMANDS = (
    Command("serve", "serve", "Serve the HTTP API."),
    Command("analyze", "analyze", "Analyse an image or a slide in this process."),
    Command("jobs", "jobs", "Submit, follow and fetch jobs of a server."),
    Command("export", "export", "Write a result in the format of another program."),
    Command("lis", "lis", "Bridge HL7 orders and results of a hospital to a server.", "lis"),
    Command("empaia", "empaia", "Do a job of the EMPAIA platform by a server."),
    Command("worker", "worker", "Work on the jobs of servers that share a database."),
    Command("keys", "keys", "Create, list, revoke and rotate API keys."),
    Command("audit", "audit", "Verify and export the audit log."),
    Command("synthesize", "synthesize", "Synthesize fluorescence images with exact masks."),
    Command("evaluate", "evaluate", "Measure a pipeline on images whose cells are known."),
    Command("compare", "compare", "Rank pipelines on images whose cells are known."),
    Command("dataset", "dataset", "Cut labelled crops from slides and annotations."),
    Command("train", "train", "Train a network on a data set and package it."),
    Command("convert", "convert", "Turn a trained Keras, PyTorch or ONNX file into a served model."),
    Command("try", "tryout", "Show what a model finds in an image."),
    Command("models", "models", "List, show and verify models."),
    Command("bench", "bench", "Measure this machine."),
    Command("demo", "demo", "Serve, analyse a region through the client, and stop."),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code."""
    forbid_telemetry()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = _parser(words).parse_args(words)
        code: int = options.run(options)
    except errors.SlideCascadeError as error:
        sys.stderr.write(f"slidecascade: {error.detail}\n")
        return WRONG_CALL if isinstance(error, CALLERS_FAULT) else FAILED
    except SlideCascadeClientError as error:
        sys.stderr.write(f"slidecascade: {error}\n")
        return WRONG_CALL if error.status in REFUSALS else FAILED
    except KeyboardInterrupt:
        return FAILED
    return code


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slidecascade", description="Open inference server for pathology.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        added = commands.add_parser(command.name, help=command.summary, description=command.summary)
        if command.name in words[:1]:
            module = _import(command)
            module.add_arguments(added)
            added.set_defaults(run=module.run)
    return parser


def _import(command: Command) -> ModuleType:
    try:
        return import_module(f"slidecascade.commands.{command.module}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("slidecascade"):
            raise
        raise errors.MissingExtraError.of(
            error.name, command.extra, f"for `slidecascade {command.name}`"
        ) from error
