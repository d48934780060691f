"""The HTTP face, put together: `/v1`, webhooks, chat, console, docs, and what watches us."""

import re
import secrets
import time
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from router.telemetry import HTTP_REQUESTS, HTTP_SECONDS
from router.web import api, chat, docs, events, files, readiness, sessions, static, webhooks
from router.web.auth import CALLER, RUNTIME, is_secure
from router.web.bodies import BODY_MAX
from router.web.problems import REQUEST_ID, Serve, answer_problems
from router.web.routes import add_routes

if TYPE_CHECKING:
    from router.runtime import Runtime

REQUEST_ID_HEADER = "X-Request-ID"
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
_QUIET_ROUTES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds by machines; logged at debug."""

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""On every answer; an answer that sets one itself keeps its own (the chat widget is embedded elsewhere)."""

log = structlog.get_logger()


def build_app(runtime: "Runtime") -> web.Application:
    """The application of the `web` role. It starts nothing: the runtime owns Redis, adapters and the listener."""
    app = web.Application(middlewares=[observe, answer_problems], client_max_size=BODY_MAX)
    app[RUNTIME] = runtime
    app.on_response_prepare.append(_set_headers)
    add_routes(app, api.ROUTES)
    for part in (events, files, webhooks, sessions, static, readiness, docs):
        part.add_routes(app)
    chat.add_routes(app, runtime)
    return app


@web.middleware
async def observe(request: web.Request, handler: Serve) -> web.StreamResponse:
    """Give the request its id, count it, and log one line when it is answered: no path, query, body or address."""
    given = request.headers.get(REQUEST_ID_HEADER, "")
    request[REQUEST_ID] = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
    begun = time.perf_counter()
    route = _route_of(request)
    status = 499  # nobody was answered: the caller hung up, or we are stopping
    with structlog.contextvars.bound_contextvars(request=request[REQUEST_ID]):
        try:
            response = await handler(request)
            status = response.status
            return response
        except web.HTTPException as answer:
            status = answer.status
            raise
        finally:
            took_s = time.perf_counter() - begun
            HTTP_REQUESTS.labels(route, _method_of(request), str(status)).inc()
            HTTP_SECONDS.labels(route).observe(took_s)
            say = log.debug if route in _QUIET_ROUTES else log.info
            say(
                "request.answered",
                route=route,
                method=_method_of(request),
                outcome=status,
                caller=request.get(CALLER, ""),
                took_ms=round(took_s * 1000, 1),
            )


async def _set_headers(request: web.Request, response: web.StreamResponse) -> None:
    headers = response.headers
    headers[REQUEST_ID_HEADER] = request.get(REQUEST_ID, "")
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("Cache-Control", "no-store")
    if is_secure(request.app[RUNTIME].settings.public_url):
        headers.setdefault("Strict-Transport-Security", "max-age=31536000")


def _route_of(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unmatched"


def _method_of(request: web.Request) -> str:
    known = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
    return request.method if request.method in known else "other"
