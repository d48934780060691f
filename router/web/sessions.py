"""The console's login: an API key goes in once, a cookie that scripts cannot read comes back."""

from typing import Annotated

from aiohttp import web
from pydantic import Field, ValidationError

from router.api_keys import SESSION_TTL_S
from router.web.auth import HEADER_MAX, RUNTIME, Caller, cookie_name, identify, is_secure
from router.web.bodies import read_body
from router.web.models_people import Model
from router.web.problems import REASONS, Problem, invalid

LOGIN_BODY_MAX = 2_000


class Login(Model):
    """What the login page sends."""

    key: Annotated[str, Field(min_length=1, max_length=HEADER_MAX)]


class Session(Model):
    """Who is logged in; `csrf` goes back in `X-CSRF-Token` with every change."""

    key_id: str
    name: str
    role: str
    csrf: str


def add_routes(app: web.Application) -> None:
    """Serve `/console/session`."""
    app.router.add_post("/console/session", log_in)
    app.router.add_get("/console/session", show_session)
    app.router.add_delete("/console/session", log_out)


async def log_in(request: web.Request) -> web.Response:
    """Begin a session of 12 h. Raises Problem 401 for a key that is none, 415 unless JSON (forms cross sites)."""
    if request.content_type != "application/json":
        raise Problem(415, "media_type", REASONS["media_type"])
    try:
        login = Login.model_validate_json(await read_body(request, LOGIN_BODY_MAX))
    except ValidationError as error:
        raise invalid(error) from error
    runtime = request.app[RUNTIME]
    key = await runtime.keys.check(login.key.strip())
    if key is None:
        raise Problem(401, "unauthenticated", "This key is unknown or was revoked.")
    token, session = await runtime.keys.begin_session(key)
    response = _answer(Caller(key, session.csrf))
    response.set_cookie(
        cookie_name(runtime.settings.public_url),
        token,
        max_age=SESSION_TTL_S,
        path="/",
        secure=is_secure(runtime.settings.public_url),
        httponly=True,
        samesite="Strict",
    )
    return response


async def show_session(request: web.Request) -> web.Response:
    """Who is logged in; a page that was reloaded asks this."""
    return _answer(await identify(request))


async def log_out(request: web.Request) -> web.Response:
    """End the session and forget the cookie."""
    runtime = request.app[RUNTIME]
    await identify(request)
    name = cookie_name(runtime.settings.public_url)
    await runtime.keys.end_session(request.cookies.get(name, ""))
    response = web.Response(status=204)
    response.del_cookie(name, path="/", secure=is_secure(runtime.settings.public_url), httponly=True, samesite="Strict")
    return response


def _answer(caller: Caller) -> web.Response:
    key = caller.key
    session = Session(key_id=key.id, name=key.name, role=key.role.value, csrf=caller.csrf)
    return web.Response(body=session.model_dump_json().encode(), content_type="application/json")
