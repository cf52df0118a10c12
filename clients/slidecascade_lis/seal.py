"""Encryption at rest: what identifies a patient is sealed before it reaches the database."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from slidecascade.errors import SettingsError

_MARK: Final = "fernet:"


class Seal:
    """Seals texts by Fernet (AES-128-CBC with HMAC-SHA256) with the first of `keys`; all of them open. Without
    keys texts stay as they are. Texts that were stored before there was a key are read as they are.

    Raises:
        SettingsError: a key is malformed.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._cipher: MultiFernet | None = None
        if keys:
            try:
                self._cipher = MultiFernet([Fernet(key) for key in keys])
            except ValueError as error:
                raise SettingsError(
                    "store.key_file has a line that is no key: make keys by `slidecascade lis key`."
                ) from error

    @property
    def is_on(self) -> bool:
        return self._cipher is not None

    def sealed(self, text: str) -> str:
        return text if self._cipher is None else _MARK + self._cipher.encrypt(text.encode()).decode("ascii")

    def opened(self, text: str) -> str:
        """Raises SettingsError: the text was sealed with a key that is not there."""
        if not text.startswith(_MARK):
            return text
        if self._cipher is None:
            raise SettingsError("The store is encrypted: name its key in store.key_file.")
        try:
            return self._cipher.decrypt(text.removeprefix(_MARK)).decode()
        except InvalidToken as error:
            raise SettingsError(
                "The store is encrypted with another key: add that key to store.key_file, below the current one."
            ) from error


def read_seal(path: Path | None) -> Seal:
    """The seal with the keys of a file, one a line, the current one first; that without keys for None.

    Raises:
        SettingsError: the file cannot be read, is empty or has a malformed key.
    """
    if path is None:
        return Seal()
    try:
        keys = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The key file {path} cannot be read: check its path and permissions.") from error
    if not keys:
        raise SettingsError(f"The key file {path} is empty: write a key of `slidecascade lis key` into it.")
    return Seal(keys)


def new_key() -> str:
    return Fernet.generate_key().decode("ascii")
