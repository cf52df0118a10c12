"""The page for people: files that were built from `viewer/src`, from this server alone."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

import slidecascade
from slidecascade import wire
from slidecascade.web.conditional import file_answer
from slidecascade.web.encoding import accepts_gzip
from slidecascade.web.middleware.exchange import Exchange

BUILT: Final = Path(slidecascade.__file__).parent / "viewer" / "built"
"""Where `make viewer` puts the page; not part of the repository."""
_FIRST: Final = "index.html"
_UNBUILT: Final = "The page is not built: run `make viewer` in the checkout, with access to npm's registry."
_HEADERS: Final = {
    # No inline script or style, nothing from other servers; pictures are made of bytes fetched with a key.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def viewer_routes(folder: Path = BUILT) -> APIRouter:
    """The page at ``/viewer/``, from `folder`."""
    router = APIRouter(include_in_schema=False)

    @router.get("/viewer")
    async def redirect() -> Response:
        return RedirectResponse("viewer/")

    @router.get("/viewer/")
    async def page(request: Request) -> Response:
        if not (folder / _FIRST).is_file():
            return _missing(request, _UNBUILT)
        return _answer(request, folder / _FIRST)

    @router.get("/viewer/{name}")
    async def file(name: str, request: Request) -> Response:
        path = folder / name
        return _answer(request, path) if path.is_file() else _missing(request, "The page has no such file.")

    return router


def _answer(request: Request, path: Path) -> Response:
    """A file, as its gzip where there is one and the client takes it."""
    headers, packed = dict(_HEADERS), path.with_name(f"{path.name}.gz")
    media_type, _ = mimetypes.guess_type(path.name)
    if packed.is_file():
        headers["Vary"] = "Accept-Encoding"
        if accepts_gzip(request.headers.get("accept-encoding", "")):
            path = packed
            headers["Content-Encoding"] = "gzip"
    return file_answer(request, path, media_type=media_type or "application/octet-stream", headers=headers)


def _missing(request: Request, detail: str) -> Response:
    problem = wire.Problem(
        type=f"{wire.PROBLEM_PREFIX}not-found",
        title="Not found",
        status=404,
        detail=detail,
        request_id=Exchange.of(request).request_id,
    )
    return Response(problem.model_dump_json(exclude_none=True), 404, media_type=wire.PROBLEM)
