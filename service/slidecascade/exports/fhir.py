"""The figures of a result as a transaction Bundle of FHIR R4, with its files by size and hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from slidecascade import wire
from slidecascade.errors import InvalidRequestError
from slidecascade.exports.folder import RLE, SUMMARY, ResultFolder, content
from slidecascade.exports.inputs import Inputs
from slidecascade.fhir.bundle import Context, ResultFile, result_bundle
from slidecascade.fhir.config import FhirConfig, FhirServer, read_fhir_config
from slidecascade.fhir.server import FhirClient, deliver

_TRIES: Final = 6
_FIRST_WAIT_S: Final = 1.0

_MEDIA_TYPES: Final = {
    ".gz": "application/gzip",
    ".geojson": wire.GEOJSON,
    ".json": wire.JSON,
    ".csv": wire.CSV,
    ".parquet": "application/vnd.apache.parquet",
}


def fhir(folder: ResultFolder, inputs: Inputs) -> Iterator[bytes]:
    """The Bundle as JSON.

    Raises:
        InvalidRequestError: the configuration cannot be used.
    """
    config = read_fhir_config(inputs.fhir_config)
    found = (folder.path / SUMMARY, folder.geojson, folder.parquet, folder.rle)
    files = [_file(path, config) for path in found if path is not None]
    yield result_bundle(folder.summary, files, config, Context.configured(config))


def store_bundle(path: Path, inputs: Inputs, to: str) -> str:
    """Post a written Bundle to a server, several times if need be; returns the server's address.

    Args:
        to: an address, or the name of a server of the configuration.

    Raises:
        InvalidRequestError: there is no such server.
        FhirUnavailableError, FhirRejectedError, SettingsError: it is not stored.
    """
    server = _server(inputs, to)
    with FhirClient(server) as client:
        deliver(client, b"".join(content(path)), tries=_TRIES, first_wait_s=_FIRST_WAIT_S)
    return server.url


def _server(inputs: Inputs, to: str) -> FhirServer:
    config = read_fhir_config(inputs.fhir_config)
    if to in config.servers:
        return config.servers[to]
    if "://" not in to:
        raise InvalidRequestError(f"There is no server {to!r}: name it under `servers` of --fhir-config.")
    try:
        return FhirServer(url=to, token_file=inputs.token_file)
    except ValidationError as error:
        raise InvalidRequestError(f"--to: {error.errors(include_url=False)[0]['msg']}.") from None


def _file(path: Path, config: FhirConfig) -> ResultFile:
    with path.open("rb") as file:  # FHIR's hash is a SHA-1
        digest = hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).digest()
    return ResultFile(
        path.name,
        _MEDIA_TYPES[path.suffix],
        text="Run lengths" if path.name == RLE else "Analysis result",
        url=None if config.files_url is None else config.files_url.replace("{name}", path.name),
        size=path.stat().st_size,
        sha1=digest,
    )
