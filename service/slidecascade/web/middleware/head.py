"""HEAD for every route with GET: the same response without content (RFC 9110, section 9.3.2)."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Head:
    """ASGI middleware for an application that implements GET only."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        asked = {**scope, "method": "GET"}
        try:
            await self._app(asked, receive, send)
        finally:
            for name in ("route", "path_params"):  # the logs and the metrics use the scope of this method
                if name in asked:
                    scope[name] = asked[name]


def bodiless(scope: Scope, send: Send) -> Send:
    """`send`, without the content for HEAD, and with HEAD in Allow where GET is in it."""
    is_head = scope["method"] == "HEAD"

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 405:
            headers = MutableHeaders(raw=list(message.get("headers", ())))
            allowed = {name.strip() for name in headers.get("allow", "").split(",")}
            if "GET" in allowed:
                headers["allow"] = ", ".join(sorted(allowed | {"HEAD"}))
                message = {**message, "headers": headers.raw}
        elif is_head and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return sent
