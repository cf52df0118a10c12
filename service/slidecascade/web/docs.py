"""The /docs page, from local files, because hospital networks have no access to CDNs."""

from __future__ import annotations

from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import FileResponse, HTMLResponse, Response

OPENAPI_PATH: Final = "/openapi.json"
_SCRIPT, _STYLE = "swagger-ui-bundle.js", "swagger-ui.css"
_POLICY: Final = {"Content-Security-Policy": "default-src 'self' 'unsafe-inline' data:"}
"""Makes the browser block requests to other servers."""


def docs_router(app: FastAPI) -> APIRouter:
    """Routes of the page: BentoML's copy of Swagger UI if it exists, else a plain list of the routes."""
    router = APIRouter(include_in_schema=False)
    folder = _swagger_folder()
    if folder is None:

        @router.get("/docs")
        async def plain() -> Response:
            return HTMLResponse(_plain_page(app.openapi()), headers=_POLICY)

        return router
    router.add_api_route("/docs", _swagger_page(app.title), methods=["GET"])
    for name in (_SCRIPT, _STYLE):
        router.add_api_route(f"/docs/{name}", _file(folder / name), methods=["GET"])
    return router


def _swagger_folder() -> Path | None:
    """The folder of Swagger UI in the installed BentoML, found without importing it."""
    package = find_spec("bentoml")
    for place in (package.submodule_search_locations or ()) if package else ():
        folder = Path(place) / "_internal" / "server" / "static_content"
        if all((folder / name).is_file() for name in (_SCRIPT, _STYLE)):
            return folder
    return None


def _swagger_page(title: str) -> Any:
    page = get_swagger_ui_html(
        openapi_url=OPENAPI_PATH.removeprefix("/"),
        title=title,
        swagger_js_url=f"docs/{_SCRIPT}",
        swagger_css_url=f"docs/{_STYLE}",
        swagger_favicon_url="data:,",
        swagger_ui_parameters={"validatorUrl": None},  # otherwise it sends the document to an external validator
    )
    page.headers.update(_POLICY)

    async def swagger() -> Response:
        return HTMLResponse(bytes(page.body), headers=_POLICY)

    return swagger


def _file(path: Path) -> Any:
    async def file() -> Response:
        return FileResponse(path, headers={"Cache-Control": "max-age=86400"})

    return file


def _plain_page(document: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(method.upper())}</td><td><code>{escape(path)}</code></td>"
        f"<td>{escape(operation.get('summary', ''))}</td></tr>"
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    )
    title = escape(document["info"]["title"])
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        "<style>body{font:16px sans-serif;margin:2rem}td{padding:.2rem 1rem .2rem 0}</style>"
        f"<h1>{title}</h1><table>{rows}</table><p><a href='openapi.json'>openapi.json</a></p></html>"
    )
