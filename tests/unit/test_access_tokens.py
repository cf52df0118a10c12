"""Tokens of an issuer, which is a server on loopback."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from issuer import AUDIENCE, Issuer
from slidecascade.access.tokens import OidcConfig, Tokens, read_oidc
from slidecascade.errors import NotReadyError, SettingsError, UnauthenticatedError
from slidecascade.slides.visible import ALL_SLIDES, Visible


class Clock:
    """Advances when the test sets it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as started:
        yield started


@pytest.fixture
def clock() -> Clock:
    return Clock()


def tokens_of(issuer: Issuer, clock: Clock, **more: Any) -> Tokens:
    return Tokens(OidcConfig(issuer=issuer.url, audience=AUDIENCE, **more), clock=clock)


def test_a_token_has_the_scopes_of_its_claim_and_of_its_roles(issuer: Issuer, clock: Clock) -> None:
    """Scopes that do not exist here are left out; the subject owns jobs."""
    accepted = tokens_of(
        issuer,
        clock,
        roles_claim="realm.roles",
        roles={"reader": ["jobs:read", "slides:read"]},
        limits={"queued_jobs": 2},
    )
    caller = accepted.caller(issuer.token(scope="infer openid profile", realm={"roles": ["reader", "x", 7]}))
    assert (caller.name, caller.by, caller.limits.queued_jobs) == ("oidc:jane", "oidc", 2)
    assert caller.scopes == {"infer", "jobs:read", "slides:read"}
    only_roles = tokens_of(issuer, clock, trust_scopes=False, roles_claim="roles")
    assert only_roles.caller(issuer.token(scope="admin", roles="reader")).scopes == frozenset()


def test_the_issuers_keys_are_fetched_once_and_again_when_it_has_a_new_one(issuer: Issuer, clock: Clock) -> None:
    """A key of an unknown id is looked for, but not more often than every ten seconds; a removed key ends."""
    accepted = tokens_of(issuer, clock)
    old = issuer.token()
    for _ in range(5):
        accepted.caller(old)
    assert issuer.asked == 2  # its document and its keys
    issuer.rotate("second", elliptic=True)
    new = issuer.token()
    with pytest.raises(UnauthenticatedError):
        accepted.caller(new)
    assert issuer.asked == 2
    clock.now += 11
    assert accepted.caller_at_once(new) is None
    assert accepted.caller(new).name == "oidc:jane"
    assert accepted.caller_at_once(new) is not None
    with pytest.raises(UnauthenticatedError):
        accepted.caller(old)


def test_an_issuer_that_is_away_is_waited_for(issuer: Issuer, clock: Clock) -> None:
    """Its keys are used for an hour; without any, tokens cannot be verified for now."""
    issuer.is_away = True
    with pytest.raises(NotReadyError):
        tokens_of(issuer, clock).caller(issuer.token())
    issuer.is_away = False
    accepted = tokens_of(issuer, clock)
    accepted.caller(issuer.token())
    issuer.is_away = True
    clock.now += 1800
    accepted.caller(issuer.token())
    clock.now += 1900
    with pytest.raises(NotReadyError):
        accepted.caller(issuer.token())


def test_nobody_else_waits_while_a_slow_issuer_is_asked(issuer: Issuer, clock: Clock) -> None:
    """A token of a known key is verified at once; one of an unknown key is left to a thread that may wait."""
    accepted = tokens_of(issuer, clock)
    known = issuer.token()
    accepted.caller(known)
    issuer.rotate("second")
    new = issuer.token()
    clock.now += 11
    with ThreadPoolExecutor(3) as threads:
        try:
            issuer.hold.clear()
            slow = threads.submit(accepted.caller, new)
            assert issuer.waits.wait(30)
            at_once = [threads.submit(accepted.caller_at_once, token) for token in (known, new)]
            also_known = threads.submit(accepted.caller, known)
            assert [done.result(30) and True for done in at_once] == [True, None]
            assert also_known.result(30).name == "oidc:jane"
            assert not slow.done()
        finally:
            issuer.hold.set()
        assert slow.result(30).name == "oidc:jane"


def with_public_key_as_secret(issuer: Issuer) -> str:
    """HS256 with the text of the public key, which some libraries verify with that key."""
    public = issuer.keys["first"].public_key()
    secret = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    claims = {"iss": issuer.url, "aud": AUDIENCE, "sub": "jane", "exp": time.time() + 60, "scope": "admin"}
    signed = f"{encoded({'alg': 'HS256', 'typ': 'JWT', 'kid': 'first'})}.{encoded(claims)}"
    mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def encoded(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def unsigned(issuer: Issuer) -> str:
    payload = issuer.token(scope="admin").split(".")[1]
    return f"{encoded({'alg': 'none', 'kid': 'first'})}.{payload}."


def of_another_key(issuer: Issuer) -> str:
    claims = jwt.decode(issuer.token(), options={"verify_signature": False})
    return jwt.encode(claims, rsa.generate_private_key(65537, 2048), "RS256", {"kid": "first"})


def changed(issuer: Issuer) -> str:
    head, _, signature = issuer.token().split(".")
    claims = {"iss": issuer.url, "aud": AUDIENCE, "sub": "jim", "exp": time.time() + 60}
    return f"{head}.{encoded(claims)}.{signature}"


WRONG: dict[str, Any] = {
    "unsigned": unsigned,
    "signed with the public key as a secret": with_public_key_as_secret,
    "signed with another key": of_another_key,
    "changed": changed,
    "expired": lambda issuer: issuer.token(exp=time.time() - 60),
    "not valid yet": lambda issuer: issuer.token(nbf=time.time() + 600),
    "for another audience": lambda issuer: issuer.token(aud="other"),
    "without audience": lambda issuer: issuer.token(aud=None),
    "of another issuer": lambda issuer: issuer.token(iss="https://evil.example"),
    "without expiry": lambda issuer: issuer.token(exp=None),
    "without subject": lambda issuer: issuer.token(sub=None),
    "of an unknown key": lambda issuer: issuer.token(header={"kid": "other"}),
    "of a key without id": lambda issuer: issuer.token(header={"kid": None}),
    "of an algorithm that is not allowed": lambda issuer: issuer.token(algorithm="PS256"),
    "with its own key": lambda issuer: issuer.token(header={"kid": "own", "jwk": issuer.public("first")}),
    "with a critical extension": lambda issuer: issuer.token(header={"crit": ["x"], "x": 1}),
    "too long": lambda issuer: issuer.token(note="x" * 10_000),
    "not a token": lambda _issuer: "a.b.c",
    "empty": lambda _issuer: "..",
}


def test_a_token_sees_the_slides_of_its_roles(issuer: Issuer, clock: Clock) -> None:
    """All without `slides`, with it only those of roles that it names, and all as an administrator."""
    roles = {"roles_claim": "roles", "roles": {"reader": ["slides:read"], "chief": ["admin"]}}
    assert tokens_of(issuer, clock, **roles).caller(issuer.token(roles=["reader"])).visible == ALL_SLIDES
    folders = {"reader": ["/s/liver"], "second": ["/s/kidney", "dicomweb:pacs"]}
    limited = tokens_of(issuer, clock, slides=folders, **roles)
    assert limited.caller(issuer.token(roles=["reader"])).visible == Visible(("/s/liver",))
    both = limited.caller(issuer.token(roles=["reader", "second"])).visible
    assert both == Visible(("/s/liver", "/s/kidney", "dicomweb:pacs"))
    assert limited.caller(issuer.token(roles=["none"])).visible == Visible(())
    assert limited.caller(issuer.token(scope="slides:read")).visible == Visible(())
    assert limited.caller(issuer.token(roles=["chief"])).visible == ALL_SLIDES


@pytest.mark.parametrize("how", WRONG)
def test_a_wrong_token_is_rejected(issuer: Issuer, clock: Clock, how: str) -> None:
    """With 401, and a sentence that does not repeat the token."""
    accepted = tokens_of(issuer, clock)
    accepted.caller(issuer.token())
    token = WRONG[how](issuer)
    with pytest.raises(UnauthenticatedError) as caught:
        accepted.caller(token)
    assert 'error="invalid_token"' in caught.value.challenges[0]
    assert "jane" not in caught.value.detail


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("issuer: http://login.example\naudience: a", "issuer"),
        ("issuer: https://login.example", "audience"),
        ("issuer: https://login.example\naudience: a\nalgorithms: [HS256]", "algorithms"),
        ("issuer: https://login.example\naudience: a\nalgorithms: [none]", "algorithms"),
        ("issuer: https://login.example\naudience: a\nroles: {r: [everything]}", "roles"),
        ("issuer: https://login.example\naudience: a\nslides: {r: [liver]}", "slides"),
        ("issuer: https://login.example\naudience: a\nsecret: b", "secret"),
        ("- [", "not YAML"),
    ],
)
def test_a_wrong_configuration_is_rejected_at_start(tmp_path: Path, text: str, wrong: str) -> None:
    """With its place."""
    path = tmp_path / "oidc.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=wrong):
        read_oidc(path)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_oidc(tmp_path / "none.yaml")
