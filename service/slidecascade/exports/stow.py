"""Storing a DICOM file on a DICOMweb server (STOW-RS, PS3.18 10.5)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx

from slidecascade.errors import InvalidRequestError, UnreadableSlideError
from slidecascade.exports.inputs import Inputs
from slidecascade.outputs.gzipped import READ_BYTES
from slidecascade.slides.dicomweb import JSON, DicomWeb, token_of
from slidecascade_client import RetryPolicy

_FAILED_INSTANCES: Final = "00081198"
_REASON: Final = "00081197"


def store_dicom(path: Path, inputs: Inputs, to: str) -> str:
    """Store a written file on the DICOMweb server at `to`; returns its address. Raises as `store` does."""
    if path.suffix == ".gz":
        raise InvalidRequestError(f"{path} is compressed, which DICOMweb servers do not store: name it otherwise.")
    if "://" not in to:
        raise InvalidRequestError(
            f"{to!r} is not the address of a DICOMweb server: give --to one with http or https."
        )
    url = to.rstrip("/")
    server = DicomWeb(
        name=url, url=url, token=lambda: token_of(inputs.token_file) or inputs.bearer, policy=RetryPolicy()
    )
    try:
        store(path, server)
    finally:
        server.close()
    return url


def store(path: Path, server: DicomWeb) -> None:
    """Store the file; repeating is safe, because a server stores the same instance once.

    Raises:
        NotReadyError: the server is away, after retries.
        InvalidRequestError: it does not store the file, and says why.
    """
    boundary = secrets.token_hex(16)
    begin = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    end = f"\r\n--{boundary}--\r\n".encode()

    def body() -> Iterator[bytes]:
        yield begin
        with path.open("rb") as file:
            while piece := file.read(READ_BYTES):
                yield piece
        yield end

    headers = {
        "Accept": JSON,
        "Content-Length": str(len(begin) + path.stat().st_size + len(end)),
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
    }
    try:
        response = server.send("POST", "studies", headers, body)
    except UnreadableSlideError as error:
        raise InvalidRequestError(
            f"{server.name} rejects the token: check the file or the environment."
        ) from error
    if reason := _rejection(response):
        raise InvalidRequestError(f"{server.name} did not store the file ({reason}): check the server's log.")


def _rejection(response: httpx.Response) -> str | None:
    """Why the instance was not stored; None: it was."""
    try:
        answer: dict[str, Any] = response.json()
        failed = answer.get(_FAILED_INSTANCES, {}).get("Value", [])
        code = failed[0].get(_REASON, {}).get("Value", ["unknown"])[0] if failed else None
    except (ValueError, AttributeError, IndexError, KeyError):
        code = None
    if code is not None:
        return f"failure reason {code}"
    return None if response.status_code in (200, 202) else f"status {response.status_code}"
