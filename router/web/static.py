"""The console's files: read once at start, served from memory, checked by ETag."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from router.web.problems import Problem

FOLDER = Path(__file__).parent / "console"
MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

PAGES = {"/console/": "index.html", "/console/login": "index.html", "/favicon.ico": "icon.svg"}
"""Addresses without a file name of their own."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file."""

    body: bytes
    media_type: str
    etag: str


def read_assets(folder: Path = FOLDER) -> dict[str, Asset]:
    """Every file of a kind that browsers load, by name. Subfolders are not served."""
    assets = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in MEDIA_TYPES:
            body = path.read_bytes()
            etag = hashlib.sha256(body).hexdigest()[:32]
            assets[path.name] = Asset(body, MEDIA_TYPES[path.suffix], etag)
    return assets


def add_routes(app: web.Application) -> None:
    """Serve `/console/`, and lead `/` there."""
    assets = read_assets()

    async def serve(request: web.Request) -> web.Response:
        asset = assets.get(request.match_info.get("file", PAGES.get(request.path, "")))
        if asset is None:
            raise Problem(404, "not_found", "There is no such file.")
        headers = {"ETag": f'"{asset.etag}"', "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == f'"{asset.etag}"':
            return web.Response(status=304, headers=headers)
        return web.Response(body=asset.body, content_type=asset.media_type, charset="utf-8", headers=headers)

    async def lead(_request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/console/"})

    app.router.add_get("/", lead)
    app.router.add_get("/console", lead)
    for path in PAGES:
        app.router.add_get(path, serve)
    app.router.add_get("/console/{file}", serve)
