"""API keys: made, revoked and rotated in a file, which a running service reads again when it changes.

A key is ``sc_<id>_<secret>``. The secret has 256 random bits, so that its SHA-256 is enough to keep: nobody can
try them all. The file is replaced as a whole, under a lock, and only its owner can read it.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from slidecascade.access.caller import ADMIN, UNLIMITED, Caller, Limits, Scope
from slidecascade.errors import SettingsError
from slidecascade.slides.visible import SlideFolder, Visible
from slidecascade.staging import write_file

LOG = logging.getLogger(__name__)

NAME: Final = r"^[a-z0-9][a-z0-9._-]{0,63}$"
LOOK_S: Final = 1.0
"""How often a running service looks whether the file has changed, in seconds."""

_SECRET_BYTES: Final = 32
_FORM: Final = re.compile(r"sc_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NOBODY: Final = "0" * 64
"""What the secret of an unknown id is compared with, so that it takes as long as a known one."""


class Key(BaseModel):
    """What is kept of a key: not the secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: Annotated[str, Field(pattern=NAME)]
    sha256: str
    scopes: tuple[Scope, ...] = Field(min_length=1)
    limits: Limits = Limits()
    created_at: AwareDatetime
    certificate: str | None = None
    """The name in a client's certificate that stands for the key's secret."""

    slides: Annotated[tuple[SlideFolder, ...], Field(min_length=1)] | None = None
    """The folders whose slides it may see; None: all slides."""

    expires_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None

    @classmethod
    def make(
        cls,
        name: str,
        scopes: Iterable[Scope],
        *,
        limits: Limits,
        expires_at: datetime | None,
        certificate: str | None = None,
        slides: tuple[str, ...] | None = None,
    ) -> tuple[Self, str]:
        """A new key and its text, which is kept nowhere."""
        number, secret = secrets.token_hex(6), secrets.token_urlsafe(_SECRET_BYTES)
        made = cls(
            id=number,
            name=name,
            sha256=_digest(secret),
            scopes=tuple(dict.fromkeys(scopes)),
            limits=limits,
            created_at=_now(),
            expires_at=expires_at,
            certificate=certificate,
            slides=slides,
        )
        return made, f"sc_{number}_{secret}"

    def caller(self, by: str) -> Caller:
        """Who sends requests with the key, identified `by` it or a certificate."""
        return Caller(self.name, frozenset(self.scopes), f"{by}:{self.id}", self.limits, Visible(self.slides))

    def is_valid(self, now: datetime) -> bool:
        """Whether the key is neither revoked nor expired."""
        ends = [time for time in (self.expires_at, self.revoked_at) if time is not None]
        return all(now < end for end in ends)


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = Field(default=1, ge=1, le=1)
    keys: tuple[Key, ...] = ()


class KeyFile:
    """The file of keys at `path`, as the command line changes it; it need not exist."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def list(self) -> tuple[Key, ...]:
        """All keys, revoked ones included, the oldest first. Raises SettingsError."""
        return read_keys(self._path)

    def create(
        self,
        name: str,
        scopes: Iterable[Scope],
        *,
        limits: Limits = UNLIMITED,
        expires_at: datetime | None = None,
        certificate: str | None = None,
        slides: tuple[str, ...] | None = None,
    ) -> str:
        """Add a key; its text. A client whose verified certificate has the name `certificate` needs no text.

        With `slides` it sees the slides in these folders only, see `SlideFolder`.

        Raises:
            SettingsError: the name is taken by a valid key, the file cannot be used, or `slides` are limited for
                an administrator, who sees the jobs of all.
        """
        if slides is not None and ADMIN in scopes:
            raise SettingsError(
                "The scope admin shows the jobs of all slides: leave out --slides, or name the scopes one by one."
            )
        with self._changing() as keys:
            if any(key.name == name and key.is_valid(_now()) for key in keys.values()):
                raise SettingsError(f"There is a valid key {name!r}: rotate or revoke it, or choose another name.")
            made, text = Key.make(
                name, scopes, limits=limits, expires_at=expires_at, certificate=certificate, slides=slides
            )
            keys[made.id] = made
        return text

    def revoke(self, name: str) -> int:
        """End all valid keys of `name` now; how many. Raises SettingsError."""
        with self._changing() as keys:
            found = _valid(keys, name)
            keys.update({key.id: key.model_copy(update={"revoked_at": _now()}) for key in found})
        return len(found)

    def rotate(self, name: str, *, overlap: timedelta) -> str:
        """A new key with the name, scopes, limits, folders of slides and expiry of the newest valid one.

        The keys before it stay valid for `overlap`. Raises SettingsError.
        """
        with self._changing() as keys:
            found = _valid(keys, name)
            newest = found[-1]
            made, text = Key.make(
                name,
                newest.scopes,
                limits=newest.limits,
                expires_at=newest.expires_at,
                certificate=newest.certificate,
                slides=newest.slides,
            )
            until = _now() + overlap
            for key in found:
                ends_at = until if key.expires_at is None else min(until, key.expires_at)
                keys[key.id] = key.model_copy(update={"expires_at": ends_at})
            keys[made.id] = made
        return text

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Key]]:
        """The keys by id, written when the block succeeds."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._path.with_name(f".{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = {key.id: key for key in (read_keys(self._path) if self._path.exists() else ())}
            yield keys
            mask = os.umask(0o077)  # the temporary file is private from its first byte
            try:
                write_file(self._path, _Document(keys=tuple(keys.values())).model_dump_json(indent=1).encode())
            finally:
                os.umask(mask)
        finally:
            os.close(lock)


class KeyRing:
    """The keys that a service accepts: those of the file at `path` as it is now.

    Raises:
        SettingsError: the file cannot be read, is damaged, or others can write it.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._stamp = _stamp(path)
        self._keys = _by_id(read_keys(path))
        self._looked_at = clock()

    def caller(self, text: str) -> Caller | None:
        """Whose key `text` is; None: it is not valid."""
        self._look()
        form = _FORM.fullmatch(text)
        number, secret = form.groups() if form else ("", "")
        key = self._keys.get(number)
        # The comparison takes as long for an unknown id, and for every wrong secret.
        is_right = hmac.compare_digest(_digest(secret), _NOBODY if key is None else key.sha256)
        if key is None or not is_right or not key.is_valid(_now()):
            return None
        return key.caller("key")

    def caller_of_certificate(self, names: Collection[str]) -> Caller | None:
        """Whose certificate has one of `names`; None: no valid key states one of them."""
        self._look()
        now = _now()
        for key in self._keys.values() if names else ():
            if key.certificate in names and key.is_valid(now):
                return key.caller("certificate")
        return None

    def _look(self) -> None:
        """Read the file again if it has changed; a file that cannot be read has no keys."""
        now = self._clock()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = _by_id(read_keys(self._path))
            LOG.info("keys read", extra={"fields": {"keys": len(self._keys)}})
        except SettingsError as error:
            self._keys = {}
            LOG.error("no key is accepted", extra={"fields": {"reason": str(error)}})  # no traceback


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys in the file at `path`.

    Raises:
        SettingsError: it cannot be read, is damaged, or others than its owner can write it.
    """
    try:
        if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise SettingsError(f"Others can write the file of keys: run chmod 600 {path}.")
        return _Document.model_validate_json(path.read_bytes()).keys
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise SettingsError(
            f"The file of keys cannot be read ({reason}): make one with `slidecascade keys create`, or check "
            "SLIDECASCADE_KEYS_FILE."
        ) from error
    except ValidationError:
        raise SettingsError("The file of keys is damaged: restore it, or make new keys in another file.") from None


def _valid(keys: Mapping[str, Key], name: str) -> list[Key]:
    found = [key for key in keys.values() if key.name == name and key.is_valid(_now())]
    if not found:
        raise SettingsError(f"There is no valid key {name!r}: `slidecascade keys list` shows all keys.")
    return found


def _by_id(keys: Iterable[Key]) -> dict[str, Key]:
    return {key.id: key for key in keys}


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes with every new content, because the file is replaced."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _now() -> datetime:
    return datetime.now(UTC)
