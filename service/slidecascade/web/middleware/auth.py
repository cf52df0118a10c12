"""Who sent a request, and whether that caller may."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from contextlib import AbstractContextManager
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import Scope

from slidecascade.access.caller import ANYONE, Caller
from slidecascade.access.keys import KeyRing
from slidecascade.access.limits import Usage
from slidecascade.access.tokens import Tokens, read_oidc
from slidecascade.errors import ForbiddenError, UnauthenticatedError
from slidecascade.settings import Settings
from slidecascade.slides.visible import Visible
from slidecascade.web.pool import Pool
from slidecascade.web.routescopes import PAGES, READ, needed

CERTIFICATE_NAMES: Final = "certificate_names"
"""In the state of a request: the names in the client's certificate, which the listener has verified."""

KEY_HEADER: Final = "x-api-key"
BEARER: Final = 'Bearer realm="slidecascade"'
BASIC: Final = 'Basic realm="slidecascade: any name, and a key as the password", charset="UTF-8"'


_WAITING_THREADS: Final = 2
"""For tokens that wait for their issuer: one asks it, and all others of unknown keys wait for the same answer."""


class Auth:
    """Identifies callers by the keys and tokens that the settings name; with neither, everybody is `ANYONE`.

    Raises:
        SettingsError: a file that the settings name cannot be read or is wrong.
    """

    def __init__(self, settings: Settings) -> None:
        self._keys = None if settings.keys_file is None else KeyRing(settings.keys_file)
        self._tokens = None if settings.oidc_file is None else Tokens(read_oidc(settings.oidc_file))
        self._allow_anonymous = settings.allow_anonymous
        self._retry_after_s = settings.retry_after_s
        self._usage = Usage()
        self._waiting = Pool(_WAITING_THREADS, name="issuer")

    @property
    def is_on(self) -> bool:
        """Whether there are keys or tokens."""
        return self._keys is not None or self._tokens is not None

    def close(self) -> None:
        """Begin to ask the issuer for nothing more."""
        self._waiting.close()

    async def admit(self, scope: Scope) -> None:
        """Let a request in, and keep its caller in its state.

        Raises:
            UnauthenticatedError: it has no valid key or token.
            ForbiddenError: its caller lacks the scope that the address needs.
            LimitExceededError: its caller has sent too many.
            NotReadyError: the issuer of its token cannot be reached.
        """
        wanted = needed(scope["method"], scope["path"])
        if wanted is None:
            return
        caller = await self._identify(scope)
        scope["state"] |= {"caller": caller, "auth": self}
        self._usage.request(caller)
        if not caller.may(wanted):
            raise ForbiddenError(
                f"This needs the scope {wanted}, which the key or token does not have: ask the operator for one "
                "that has it."
            )

    async def holds(self, scope: Scope) -> bool:
        """Whether the key or token of a request that was let in is valid still."""
        before: Caller = scope["state"]["caller"]
        try:
            return (await self._identify(scope)).name == before.name
        except UnauthenticatedError:
            return False

    def region(self, scope: Scope) -> AbstractContextManager[None]:
        """Count a region of the request's caller. Raises LimitExceededError when it has as many as it may."""
        return self._usage.region(scope["state"]["caller"], retry_after_s=self._retry_after_s)

    async def _identify(self, scope: Scope) -> Caller:
        if not self.is_on:
            return self._anyone(scope)
        text = _credential(scope)
        if text is None and (named := self._of_certificate(scope)) is not None:
            return named
        if text is None:
            raise UnauthenticatedError(
                "This needs a key: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
                challenges=(BEARER, BASIC) if _is_page(scope) else (BEARER,),
            )
        caller = None if self._keys is None else self._keys.caller(text)
        if caller is None and self._tokens is not None and text.count(".") == 2:  # a JWT
            known = self._tokens.caller_at_once(text)
            return known if known is not None else await self._waiting.run(self._tokens.caller, text)
        if caller is None:
            raise UnauthenticatedError(
                "The key is not valid: it is wrong, revoked or expired. Ask the operator for another.",
                challenges=(f'{BEARER}, error="invalid_token"', *((BASIC,) if _is_page(scope) else ())),
            )
        return caller

    def _of_certificate(self, scope: Scope) -> Caller | None:
        names = scope["state"].get(CERTIFICATE_NAMES, ())
        return None if self._keys is None else self._keys.caller_of_certificate(names)

    def _anyone(self, scope: Scope) -> Caller:
        """Without authentication only this machine is let in, unless the operator allows others."""
        if not self._allow_anonymous and _is_beyond_loopback(scope):
            raise UnauthenticatedError(
                "This server has no keys and is for its own machine only: its operator can make keys, or set "
                "SLIDECASCADE_ALLOW_ANONYMOUS=1."
            )
        return ANYONE


def caller_of(connection: HTTPConnection) -> Caller:
    """The caller of a request that was let in.

    A request that did not pass `Auth`, as in an application without the boundary, has none and may nothing.
    """
    found = getattr(connection.state, "caller", None)
    return found if isinstance(found, Caller) else _NOBODY


async def is_still_valid(connection: HTTPConnection) -> bool:
    """Whether the key or token of a request that takes long is valid still."""
    auth = getattr(connection.state, "auth", None)
    return isinstance(auth, Auth) and await auth.holds(connection.scope)


_NOBODY: Final = Caller("", frozenset(), visible=Visible(()))


def _credential(scope: Scope) -> str | None:
    """The key or token of a request, from one of its headers.

    Browsers ask for a name and a password and send them with every request to this server, also with those that
    other sites start: such a key is only good for reading.
    """
    headers = Headers(scope=scope)
    kind, _, value = headers.get("authorization", "").partition(" ")
    match kind.lower():
        case "bearer":
            return value.strip() or None
        case "basic" if scope["method"] in READ:
            try:
                return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2] or None
            except (binascii.Error, UnicodeDecodeError):
                return None
        case _:
            return headers.get(KEY_HEADER, "").strip() or None


def _is_page(scope: Scope) -> bool:
    return scope["method"] in READ and PAGES.fullmatch(scope["path"]) is not None


def _is_beyond_loopback(scope: Scope) -> bool:
    """Whether the request arrived at an IP address that other machines reach."""
    host = (scope.get("server") or ("", None))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False  # a socket file
    mapped = getattr(address, "ipv4_mapped", None)
    return not (mapped or address).is_loopback
