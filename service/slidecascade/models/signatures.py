"""Signatures of model packages (Ed25519, RFC 8032): who vouches for a ``model.yaml``, and so for its graphs.

A signature is ``<name>/model.sig`` beside ``model.yaml``. It covers that file's bytes, which state the sha256 of
every graph; ``config.pbtxt``, which only a Triton server reads, is not covered. Keys are PEM files, as OpenSSL
makes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from pydantic import Base64Bytes, BaseModel, ConfigDict, ValidationError

from slidecascade.errors import ModelPackageError, SettingsError
from slidecascade.staging import write_file

SIGNATURE_FILE: Final = "model.sig"
TrustedKeys = Mapping[str, Ed25519PublicKey]
"""Public keys by their `key_id`."""

_PURPOSE: Final = b"slidecascade model.yaml\n"
"""Signed before the file, so that a signature of something else is none of a model."""

_PEM_END: Final = b"-----END PUBLIC KEY-----"


class _Signature(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    signature: Base64Bytes


def key_id(key: Ed25519PublicKey) -> str:
    """The first half of the key's SHA-256, as hexadecimal digits."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:32]


def read_trusted(path: Path) -> TrustedKeys:
    """The public keys in a PEM file.

    Raises:
        SettingsError: it cannot be read, holds no key, or one of another kind than Ed25519.
    """
    try:
        blocks = [block + _PEM_END for block in path.read_bytes().split(_PEM_END)[:-1]]
        keys = [load_pem_public_key(block.strip()) for block in blocks]
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(
            "The file of trusted model keys cannot be read: check SLIDECASCADE_MODEL_KEYS."
        ) from error
    found = [key for key in keys if isinstance(key, Ed25519PublicKey)]
    if not found or len(found) < len(keys):
        raise SettingsError(
            "The file of trusted model keys must hold public keys of Ed25519 in PEM: make one with "
            "`openssl pkey -in KEY -pubout`."
        )
    return {key_id(key): key for key in found}


def sign(folder: Path, key_file: Path) -> str:
    """Sign the package in `folder` with the private key in a PEM file; the `key_id`.

    Raises:
        SettingsError: the key cannot be read, or is no private key of Ed25519 without a password.
    """
    try:
        key = load_pem_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(
            "The private key cannot be read: make one with `openssl genpkey -algorithm ed25519 -out KEY`."
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError("The private key is not of Ed25519: `openssl genpkey -algorithm ed25519 -out KEY`.")
    made = key.sign(_PURPOSE + (folder / "model.yaml").read_bytes())
    number = key_id(key.public_key())
    text = _Signature.model_construct(key=number, signature=made)
    write_file(folder / SIGNATURE_FILE, text.model_dump_json().encode())
    return number


def require_signed(document: bytes, folder: Path, trusted: TrustedKeys) -> str:
    """The id of the trusted key that signed `document`, the bytes of the ``model.yaml`` in `folder`.

    Raises:
        ModelPackageError: there is no signature, or none of a trusted key, or the file was changed since.
    """
    name = folder.name
    try:
        found = _Signature.model_validate_json((folder / SIGNATURE_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise ModelPackageError(
            f"Model {name!r} is not signed, and SLIDECASCADE_MODEL_KEYS asks for signatures: sign it with "
            "`slidecascade models sign`, or remove its folder."
        ) from error
    if found.key not in trusted:
        raise ModelPackageError(
            f"Model {name!r} is signed by a key that is not trusted here: add it to the file that "
            "SLIDECASCADE_MODEL_KEYS names, or sign the model again."
        )
    try:
        trusted[found.key].verify(found.signature, _PURPOSE + document)
    except InvalidSignature as error:
        raise ModelPackageError(
            f"Model {name!r} was changed after it was signed: restore its model.yaml, or sign it again."
        ) from error
    return found.key
