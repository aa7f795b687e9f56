"""The API reference at `/docs`: Swagger UI from files of this machine, under a policy that lets nothing else load."""

from importlib.resources import files
from typing import Final

from fastapi import FastAPI
from fastapi.responses import Response

_STATIC: Final = files("fastapi_offline") / "static"
_FILES: Final = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>NullSpend API</title>
<link rel="icon" href="/docs/favicon.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START: Final = 'SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true});\n'
_HEADERS: Final = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
_CACHED: Final = {**_HEADERS, "Cache-Control": "public, max-age=86400"}


def install(app: FastAPI) -> None:
    """Adds the page and its files, which are no part of the API's document."""

    async def page() -> Response:
        return Response(_PAGE, media_type="text/html", headers=_HEADERS)

    async def start() -> Response:
        return Response(_START, media_type="text/javascript", headers=_HEADERS)

    app.add_api_route("/docs", page, include_in_schema=False)
    app.add_api_route("/docs/start.js", start, include_in_schema=False)
    for name, kind in _FILES.items():
        _serve(app, name, kind)


def _serve(app: FastAPI, name: str, kind: str) -> None:
    async def asset() -> Response:
        return Response((_STATIC / name).read_bytes(), media_type=kind, headers=_CACHED)

    app.add_api_route(f"/docs/{name}", asset, include_in_schema=False)
