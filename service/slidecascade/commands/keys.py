"""``slidecascade keys``: the keys that a service accepts."""

from __future__ import annotations

import argparse
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from slidecascade.access.caller import SCOPES, Limits
from slidecascade.access.keys import NAME, Key, KeyFile
from slidecascade.errors import SettingsError
from slidecascade.settings import read_settings
from slidecascade.slides.visible import SERVER


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", type=Path, help="the file of keys (default: SLIDECASCADE_KEYS_FILE)")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="make a key; it is shown once")
    create.add_argument("--name", type=_name, required=True, help="of whom it is for; owns jobs")
    create.add_argument("--scope", choices=SCOPES, nargs="+", action="extend", required=True)
    create.add_argument("--expires", type=_expiry, metavar="DATE", help="when it ends: 2027-01-31, or days: 90d")
    create.add_argument(
        "--certificate", metavar="NAME", help="a name in a client's certificate (TLS) that stands for the key"
    )
    create.add_argument(
        "--slides",
        metavar="FOLDER",
        nargs="+",
        action="extend",
        help="folders whose slides it may see, or dicomweb:NAME (default: all slides)",
    )
    for name in Limits.model_fields:
        create.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help="limit (default: none)")
    create.set_defaults(act=_create)
    actions.add_parser("list", help="list all keys, without their secrets").set_defaults(act=_list)
    revoke = actions.add_parser("revoke", help="end a key within a second, also in a running service")
    revoke.add_argument("name")
    revoke.set_defaults(act=_revoke)
    rotate = actions.add_parser("rotate", help="make another key of the same name, scopes and limits")
    rotate.add_argument("name")
    rotate.add_argument(
        "--overlap-hours", type=float, default=24.0, help="how long the key before stays valid (default: 24)"
    )
    rotate.set_defaults(act=_rotate)


def run(options: argparse.Namespace) -> int:
    """Run the action; returns the exit code."""
    path = options.file or read_settings().keys_file
    if path is None:
        raise SettingsError("No file of keys is named: give --file, or set SLIDECASCADE_KEYS_FILE.")
    options.act(KeyFile(path), options)
    return 0


def _create(keys: KeyFile, options: argparse.Namespace) -> None:
    limits = _limits(options)
    _show(
        keys.create(
            options.name,
            options.scope,
            limits=limits,
            expires_at=options.expires,
            certificate=options.certificate,
            slides=None if options.slides is None else tuple(map(_folder, options.slides)),
        )
    )


def _limits(options: argparse.Namespace) -> Limits:
    given = {name: getattr(options, name) for name in Limits.model_fields}
    if wrong := next((name for name, value in given.items() if value is not None and value < 1), None):
        raise SettingsError(f"--{wrong.replace('_', '-')} must be at least 1.")
    return Limits(**given)


def _folder(name: str) -> str:
    """A folder as it is kept. Raises SettingsError where there is none: a key that sees nothing is a mistake."""
    if re.fullmatch(SERVER, name):
        return name
    path = Path(name).absolute()
    if not path.is_dir():
        raise SettingsError(
            f"--slides: there is no folder {name!r} here; name a folder of slides, or dicomweb:NAME."
        )
    return os.path.normpath(path)


def _list(keys: KeyFile, _options: argparse.Namespace) -> None:
    for key in keys.list():
        limits = " ".join(f"{name}={value}" for name, value in key.limits if value is not None)
        slides = "all slides" if key.slides is None else " ".join(key.slides)
        fields = (key.name, key.id, _state(key), " ".join(key.scopes), limits, slides)
        sys.stdout.write("\t".join(fields) + "\n")


def _state(key: Key) -> str:
    if key.is_valid(datetime.now(UTC)):
        return "valid" if key.expires_at is None else f"valid until {key.expires_at:%Y-%m-%d %H:%M} UTC"
    return "expired" if key.revoked_at is None else f"revoked {key.revoked_at:%Y-%m-%d %H:%M} UTC"


def _revoke(keys: KeyFile, options: argparse.Namespace) -> None:
    sys.stdout.write(f"{keys.revoke(options.name)} revoked\n")


def _rotate(keys: KeyFile, options: argparse.Namespace) -> None:
    if options.overlap_hours < 0:
        raise SettingsError("--overlap-hours must be at least 0.")
    _show(keys.rotate(options.name, overlap=timedelta(hours=options.overlap_hours)))


def _show(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stderr.write("This key is shown only now: keep it where its user can read it.\n")


def _name(text: str) -> str:
    if not re.fullmatch(NAME, text):
        raise argparse.ArgumentTypeError("a name has 1 to 64 of a-z, 0-9, dot, dash and underscore")
    return text


def _expiry(text: str) -> datetime:
    if re.fullmatch(r"[1-9]\d{0,4}d", text):
        return datetime.now(UTC) + timedelta(days=int(text[:-1]))
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("write a date like 2027-01-31, or days like 90d") from None
    given = given if given.tzinfo is not None else given.replace(tzinfo=UTC)
    if given <= datetime.now(UTC):
        raise argparse.ArgumentTypeError("the date is past")
    return given
