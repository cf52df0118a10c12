"""The listener's TLS: what it accepts, and settings that cannot be used."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from certificates import write_pair
from slidecascade.errors import SettingsError
from slidecascade.hosting.tls import certificate_names, tls_context
from slidecascade.settings import Settings


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> str | None:
    """The version of TLS that both agree on, in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname="here")
    for _ in range(5):
        for side in (theirs, ours):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ours.version()


def client_of(authority: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority))


def test_it_speaks_tls_and_nothing_old(tmp_path: Path) -> None:
    """TLS 1.2 and 1.3, and no version before."""
    certificate, key = write_pair(tmp_path, "here")
    context = tls_context(Settings(tls_certificate=certificate, tls_key=key))
    assert context is not None
    assert shake_hands(context, client_of(certificate)) == "TLSv1.3"
    old = client_of(certificate)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shake_hands(context, old) == "TLSv1.2"
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert tls_context(Settings()) is None


def test_clients_need_a_certificate_of_the_authority(tmp_path: Path) -> None:
    """Without one, and with one of another authority, there is no connection."""
    certificate, key = write_pair(tmp_path, "here")
    authority, lis_key = write_pair(tmp_path, "lis")
    context = tls_context(Settings(tls_certificate=certificate, tls_key=key, tls_client_ca=authority))
    assert context is not None
    client = client_of(certificate)
    client.maximum_version = ssl.TLSVersion.TLSv1_2  # in 1.3 the client learns of it later
    with pytest.raises(ssl.SSLError):
        shake_hands(context, client)
    client.load_cert_chain(*write_pair(tmp_path, "other"))
    with pytest.raises(ssl.SSLError):
        shake_hands(context, client)
    client.load_cert_chain(authority, lis_key)
    assert shake_hands(context, client) == "TLSv1.2"


def test_files_that_cannot_be_used_are_named_at_start(tmp_path: Path) -> None:
    """Absent ones, others than PEM, a key of another certificate, and half of what is needed."""
    certificate, key = write_pair(tmp_path, "here")
    _, other = write_pair(tmp_path, "other")
    text = tmp_path / "text"
    text.write_text("none")
    for wrong in (
        {"tls_certificate": tmp_path / "absent"},
        {"tls_certificate": text},
        {"tls_certificate": certificate},
        {"tls_certificate": certificate, "tls_key": other},
        {"tls_certificate": certificate, "tls_key": key, "tls_client_ca": text},
        {"tls_key": key},
        {"tls_client_ca": certificate},
    ):
        with pytest.raises(SettingsError, match="SLIDECASCADE_TLS"):
            tls_context(Settings(**wrong))  # type: ignore[arg-type]


def test_a_certificate_has_its_common_name_and_its_dns_names() -> None:
    """In the form that Python's ssl module states them; without a certificate there are none."""
    stated = {
        "subject": ((("organizationName", "Ward"),), (("commonName", "lis"),)),
        "subjectAltName": (("DNS", "lis.example"), ("IP Address", "10.0.0.7")),
    }
    assert certificate_names(stated) == ("lis", "lis.example")
    assert certificate_names({}) == certificate_names(None) == ()
