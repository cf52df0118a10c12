"""TLS of the listener, from the settings."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slidecascade.errors import SettingsError
from slidecascade.settings import Settings


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The context that connections are accepted with; None: they are plain.

    Raises:
        SettingsError: a file cannot be read or is no PEM, the key is not the certificate's, or settings lack one.
    """
    if settings.tls_certificate is None:
        for name, value in (("TLS_KEY", settings.tls_key), ("TLS_CLIENT_CA", settings.tls_client_ca)):
            if value is not None:
                raise SettingsError(
                    f"SLIDECASCADE_{name} needs SLIDECASCADE_TLS_CERTIFICATE: set both, or neither."
                )
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=_no_password)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise _unusable("TLS_CERTIFICATE and SLIDECASCADE_TLS_KEY", error) from error
    if settings.tls_client_ca is not None:
        _require_clients(context, settings.tls_client_ca)
    return context


def certificate_names(certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The common name and the DNS names of a client's certificate, which was verified; none without one.

    `certificate` is what `ssl.SSLSocket.getpeercert` returns.
    """
    if not certificate:
        return ()
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    common = [value for name, value in subject if name == "commonName"]
    return (*common, *(value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"))


def _require_clients(context: ssl.SSLContext, authorities: Path) -> None:
    try:
        context.load_verify_locations(authorities)
    except OSError as error:
        raise _unusable("TLS_CLIENT_CA", error) from error
    context.verify_mode = ssl.CERT_REQUIRED


def _no_password() -> str:
    """Instead of a prompt on the terminal."""
    raise ValueError("the key is encrypted")


def _unusable(names: str, error: Exception) -> SettingsError:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return SettingsError(
        f"SLIDECASCADE_{names} cannot be used ({str(reason).lower().replace('_', ' ')}): name PEM files that "
        "belong together and can be read."
    )
