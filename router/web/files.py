"""`/v1/files/{sha256}`: stored files, handed out as downloads and never shown in our origin."""

import re
from typing import Annotated
from urllib.parse import quote

from aiohttp import web
from pydantic import Field, StringConstraints, ValidationError

from router.web.auth import AGENTS, RUNTIME, identify, require
from router.web.models_people import Model
from router.web.problems import Problem, invalid

_SHA256 = re.compile(r"[0-9a-f]{64}")


class FileQuery(Model):
    """What to call the download."""

    name: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f/\\]*$"), Field(max_length=200)] = ""


def add_routes(app: web.Application) -> None:
    """Serve files to agents."""
    app.router.add_get("/v1/files/{sha256}", read_file)


async def read_file(request: web.Request) -> web.Response:
    """The bytes, under a type that no browser runs. Raises Problem 404 for a hash that names nothing."""
    require(await identify(request), AGENTS)
    sha256 = request.match_info["sha256"]
    if not _SHA256.fullmatch(sha256):
        raise Problem(404, "not_found", "There is no such file.")
    try:
        query = FileQuery.model_validate(dict(request.query))
    except ValidationError as error:
        raise invalid(error) from error
    content = await request.app[RUNTIME].switchboard.read_file(sha256)
    return web.Response(
        body=content,
        content_type="application/octet-stream",
        headers={
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(query.name or sha256, safe='')}",
            "Content-Security-Policy": "sandbox; default-src 'none'",
        },
    )
