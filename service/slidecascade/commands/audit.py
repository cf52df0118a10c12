"""``slidecascade audit``: verify and export the audit log."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import orjson

from slidecascade.access.audit import read_lines, verify
from slidecascade.access.auditevent import audit_event
from slidecascade.errors import SettingsError
from slidecascade.settings import read_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, help="folder of the log (default: SLIDECASCADE_AUDIT_DIR)")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    checked = actions.add_parser("verify", help="check that no line was changed, removed or added")
    checked.add_argument("--expect", metavar="HASH", help="a hash that an earlier check printed: it must be there")
    checked.set_defaults(act=_verify)
    exported = actions.add_parser("export", help="write the log as FHIR R4 AuditEvent resources, one a line")
    exported.set_defaults(act=_export)


def run(options: argparse.Namespace) -> int:
    """Run the action; returns the exit code."""
    folder = options.folder or read_settings().audit_dir
    if folder is None:
        raise SettingsError("No audit log is named: give --folder, or set SLIDECASCADE_AUDIT_DIR.")
    if not folder.is_dir():
        raise SettingsError(f"There is no folder {folder}: check --folder or SLIDECASCADE_AUDIT_DIR.")
    options.act(folder, options)
    return 0


def _verify(folder: Path, options: argparse.Namespace) -> None:
    checked = verify(folder, expected=options.expect)
    sys.stdout.write(f"{checked.lines} lines, unbroken; the last hash is {checked.head}\n")


def _export(folder: Path, _options: argparse.Namespace) -> None:
    for line in read_lines(folder):
        sys.stdout.buffer.write(orjson.dumps(audit_event(line)) + b"\n")
