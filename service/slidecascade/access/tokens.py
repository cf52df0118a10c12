"""Tokens of an issuer (OpenID Connect): JWTs, verified with the keys that the issuer publishes.

The issuer is named by the operator in a YAML file::

    issuer: https://login.hospital.org/realms/lab
    audience: slidecascade
    algorithms: [RS256]              # optional; these and no other
    jwks_url: https://...            # optional: found below the issuer by default
    roles_claim: realm_access.roles  # optional: a list of roles
    roles:                           # optional: what a role may do
      pathologist: [regions:write, jobs:read, jobs:write, slides:read, models:read]
    slides:                          # optional: whose slides a role may see; without it all see all
      pathologist: [/slides/liver]
    limits: {requests_per_minute: 600}   # optional, for each subject

A token has the scopes of its ``scope`` claim that exist here (unless `trust_scopes` is false), and those of its
roles. With `slides` it sees the folders of all its roles, and no slide where none of them is named; `admin` sees
all slides.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

import httpx
import jwt
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from slidecascade.access.caller import ADMIN, SCOPES, Caller, Limits, Scope
from slidecascade.errors import NotReadyError, SettingsError, UnauthenticatedError
from slidecascade.hosts import is_loopback
from slidecascade.slides.visible import ALL_SLIDES, SlideFolder, Visible

LOG = logging.getLogger(__name__)

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures with a private key of the issuer: a token signed with a shared secret, or not at all, is rejected."""

MAX_TOKEN_CHARS: Final = 8192
_MAX_DOCUMENT_BYTES: Final = 2**20
_TIMEOUT_S: Final = 5.0
_FRESH_S: Final = 300.0
"""How long the issuer's keys are used before they are fetched again."""

_STALE_S: Final = 3600.0
"""How long they are used when the issuer cannot be reached."""

_PAUSE_S: Final = 10.0
"""Least time between two requests to the issuer, whatever tokens arrive."""

_LEEWAY_S: Final = 30.0
_CLAIMS: Final = ("exp", "iss", "aud", "sub")
_REASONS: Final[Mapping[type[Exception], str]] = {
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.InvalidIssuerError: "it is of another issuer",
    jwt.InvalidSignatureError: "its signature is wrong",
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.MissingRequiredClaimError: "it lacks exp, iss, aud or sub",
}


class _KeyId(NamedTuple):
    """A key of the issuer, and the algorithm that it is used with."""

    number: str
    algorithm: str


def _is_safe(url: str) -> str:
    parts = urlsplit(url)
    if parts.hostname is None or not (
        parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))
    ):
        raise ValueError("it must be an https address")
    return url


_Url = Annotated[str, AfterValidator(_is_safe)]


class OidcConfig(BaseModel):
    """The issuer, and what its tokens may do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: _Url
    audience: str = Field(min_length=1)
    algorithms: tuple[Algorithm, ...] = Field(default=("RS256", "ES256"), min_length=1)
    jwks_url: _Url | None = None
    trust_scopes: bool = True
    roles_claim: str | None = None
    roles: dict[str, tuple[Scope, ...]] = {}
    slides: dict[str, tuple[SlideFolder, ...]] | None = None
    limits: Limits = Limits()


def read_oidc(path: Path) -> OidcConfig:
    """The configuration in the YAML file at `path`.

    Raises:
        SettingsError: the file cannot be read or is wrong.
    """
    try:
        return OidcConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise SettingsError(f"SLIDECASCADE_OIDC_FILE cannot be read ({reason}): check the path.") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise SettingsError(f"SLIDECASCADE_OIDC_FILE is wrong at {place}: {first['msg']}.") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise SettingsError("SLIDECASCADE_OIDC_FILE is not YAML in UTF-8: check its form.") from None


class Tokens:
    """Accepts the tokens of one issuer; safe to use from several threads. `caller` may wait for the issuer."""

    def __init__(self, config: OidcConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: Mapping[_KeyId, jwt.PyJWK] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None

    def caller_at_once(self, token: str) -> Caller | None:
        """As `caller`, but None where that would wait for the issuer: for an event loop."""
        wanted = self._key_id(token)
        return None if self._must_wait(wanted) else self._verified(token, wanted)

    def caller(self, token: str) -> Caller:
        """Whose token it is.

        Raises:
            UnauthenticatedError: it is not valid.
            NotReadyError: the issuer's keys are not known and it cannot be reached.
        """
        wanted = self._key_id(token)
        if self._must_wait(wanted):
            self._refresh(wanted)
        return self._verified(token, wanted)

    def _verified(self, token: str, wanted: _KeyId) -> Caller:
        """Whose token it is, by the keys that are here; raises as `caller`."""
        if self._is_stale:
            raise NotReadyError(
                "The issuer of tokens cannot be reached, so that tokens cannot be verified: try again later.",
                retry_after_s=int(_PAUSE_S),
            )
        key = self._keys.get(wanted)
        if key is None:
            raise _invalid("it is not signed with a key of the issuer")
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[wanted.algorithm],
                audience=self._config.audience,
                issuer=self._config.issuer,
                leeway=_LEEWAY_S,
                options={"require": list(_CLAIMS)},
            )
        except jwt.ExpiredSignatureError:
            raise _invalid("it has expired") from None
        except (jwt.InvalidTokenError, jwt.PyJWKError) as error:
            raise _invalid(_REASONS.get(type(error), "its signature or its claims are wrong")) from None
        roles = self._roles(claims)
        scopes = self._scopes(claims, roles)
        return Caller(f"oidc:{claims['sub']}", scopes, "oidc", self._config.limits, self._visible(scopes, roles))

    def _roles(self, claims: Mapping[str, Any]) -> tuple[str, ...]:
        if not self._config.roles_claim:
            return ()
        value: object = claims
        for part in self._config.roles_claim.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return tuple(role for role in value if isinstance(role, str)) if isinstance(value, list) else ()

    def _scopes(self, claims: Mapping[str, Any], roles: tuple[str, ...]) -> frozenset[str]:
        found: set[str] = set()
        stated = claims.get("scope")
        if self._config.trust_scopes and isinstance(stated, str):
            found.update(set(stated.split()) & set(SCOPES))
        for role in roles:
            found.update(self._config.roles.get(role, ()))
        return frozenset(found)

    def _visible(self, scopes: frozenset[str], roles: tuple[str, ...]) -> Visible:
        folders = self._config.slides
        if folders is None or ADMIN in scopes:
            return ALL_SLIDES
        return Visible(tuple(folder for role in roles for folder in folders.get(role, ())))

    def _must_wait(self, wanted: _KeyId) -> bool:
        """Whether the issuer is to be asked, or is being asked for keys without which nothing can be said."""
        is_usable = wanted in self._keys and not self._is_stale
        return self._is_due(wanted) or (self._lock.locked() and not is_usable)

    @property
    def _is_stale(self) -> bool:
        return self._fetched_at is None or self._clock() - self._fetched_at >= _STALE_S

    def _is_due(self, wanted: _KeyId) -> bool:
        now = self._clock()
        if self._tried_at is not None and now - self._tried_at < _PAUSE_S:
            return False
        return self._fetched_at is None or now - self._fetched_at >= _FRESH_S or wanted not in self._keys

    def _key_id(self, token: str) -> _KeyId:
        """The key that a token says it is signed with. Raises UnauthenticatedError."""
        if len(token) > MAX_TOKEN_CHARS:
            raise _invalid("it is too long")
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise _invalid("it is not a JWT") from None
        number, algorithm = header.get("kid"), header.get("alg")
        if algorithm not in self._config.algorithms:
            raise _invalid("its algorithm is not accepted")
        if not isinstance(number, str):
            raise _invalid("it names no key")
        return _KeyId(number, algorithm)

    def _refresh(self, wanted: _KeyId) -> None:
        """Fetch the issuer's keys when they are old, or when `wanted` may be a new one."""
        with self._lock:
            if self._is_due(wanted):
                self._tried_at = self._clock()
                try:
                    self._keys = self._fetch()
                    self._fetched_at = self._clock()
                except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
                    LOG.warning("issuer not reached", extra={"fields": {"reason": type(error).__name__}})

    def _fetch(self) -> Mapping[_KeyId, jwt.PyJWK]:
        with httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False, trust_env=False) as client:
            url = self._config.jwks_url
            if url is None:
                place = f"{self._config.issuer.rstrip('/')}/.well-known/openid-configuration"
                url = _is_safe(str(_document(client, place)["jwks_uri"]))
            return _usable(_document(client, url)["keys"], self._config.algorithms)


def _document(client: httpx.Client, url: str) -> dict[str, Any]:
    """The JSON object at `url`, of at most `_MAX_DOCUMENT_BYTES`."""
    with client.stream("GET", url) as reply:
        if reply.status_code != httpx.codes.OK:
            raise ValueError(f"answered {reply.status_code}")
        content = bytearray()
        for piece in reply.iter_bytes():
            content += piece
            if len(content) > _MAX_DOCUMENT_BYTES:
                raise ValueError("the document is too large")
    found = httpx.Response(200, content=bytes(content)).json()
    if not isinstance(found, dict):
        raise ValueError("not an object")  # what JSON holds is a value
    return found


def _usable(entries: Any, algorithms: Iterable[str]) -> Mapping[_KeyId, jwt.PyJWK]:
    """The keys for signatures with `algorithms`; others in the set are left out."""
    found = {}
    for entry in entries:
        number = entry.get("kid")
        if entry.get("use", "sig") != "sig" or not isinstance(number, str):
            continue
        for algorithm in algorithms:
            if entry.get("alg", algorithm) == algorithm:
                with suppress(jwt.PyJWTError):  # the key is of a type for other algorithms
                    found[_KeyId(number, algorithm)] = jwt.PyJWK(entry, algorithm)
    return found


def _invalid(reason: str) -> UnauthenticatedError:
    return UnauthenticatedError(
        f"The token is not valid ({reason}): ask its issuer for a new one.",
        challenges=('Bearer realm="slidecascade", error="invalid_token"',),
    )
