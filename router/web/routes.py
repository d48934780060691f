"""One table row a path: from it come routing, authorisation, validation and the OpenAPI document."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from router.api_keys import ApiKey, Role
from router.switchboard import Switchboard
from router.web.auth import EVERYBODY, RUNTIME, identify, require
from router.web.bodies import BODY_MAX, read_body
from router.web.models import SentMessage
from router.web.models_people import Nothing
from router.web.problems import REASONS, Problem, invalid

B = TypeVar("B", bound=BaseModel)
Q = TypeVar("Q", bound=BaseModel)

PARSED_INLINE_MAX = 100_000
"""Bytes of JSON parsed on the event loop; larger bodies are parsed in a thread."""
DEFERRED_STATUS = 202
"""A message that is durable and has no place yet."""
IDEMPOTENCY_HEADER = "Idempotency-Key"
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,100}")


@dataclass(frozen=True, slots=True)
class Call(Generic[B, Q]):
    """One authorised, validated request."""

    switchboard: Switchboard
    key: ApiKey
    path: Mapping[str, str]
    query: Q
    body: B
    idempotency_key: str
    """As the caller chose it; the switchboard keeps each author's apart. Empty where the path takes none."""

    @property
    def private(self) -> bool:
        """Whether what people said, and who they are, must be left out."""
        return self.key.role is Role.OPS


@dataclass(frozen=True, slots=True)
class Route(Generic[B, Q]):
    """One path and method."""

    method: str
    path: str
    summary: str
    serve: Callable[[Call[B, Q]], Awaitable[BaseModel]]
    answer: type[BaseModel]
    body: type[B]
    query: type[Q]
    roles: frozenset[Role] = EVERYBODY
    status: int = 200
    idempotent: bool = False
    """Requires an Idempotency-Key."""
    body_max: int = BODY_MAX


AnyRoute = Route[Any, Any]


def get(
    path: str,
    summary: str,
    serve: Callable[[Call[Nothing, Q]], Awaitable[BaseModel]],
    answer: type[BaseModel],
    query: type[Q],
    *,
    roles: frozenset[Role] = EVERYBODY,
) -> Route[Nothing, Q]:
    """A row that only reads."""
    return Route("GET", path, summary, serve, answer, Nothing, query, roles)


def add_routes(app: web.Application, routes: Sequence[AnyRoute]) -> None:
    """Serve every row of the table."""
    for route in routes:
        app.router.add_route(route.method, route.path, _serve(route))


def _serve(route: AnyRoute) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def serve(request: web.Request) -> web.StreamResponse:
        caller = await identify(request)
        require(caller, route.roles)
        call = Call(
            switchboard=request.app[RUNTIME].switchboard,
            key=caller.key,
            path=dict(request.match_info),
            query=_query(request, route.query),
            body=await _body(request, route),
            idempotency_key=_idempotency_key(request) if route.idempotent else "",
        )
        answer = await route.serve(call)
        deferred = isinstance(answer, SentMessage) and answer.durable == "spool"
        return web.Response(
            status=DEFERRED_STATUS if deferred else route.status,
            body=answer.model_dump_json().encode(),
            content_type="application/json",
            charset="utf-8",
        )

    return serve


def _query(request: web.Request, model: type[Q]) -> Q:
    try:
        return model.model_validate(dict(request.query))
    except ValidationError as error:
        raise invalid(error) from error


async def _body(request: web.Request, route: AnyRoute) -> BaseModel:
    if route.body is Nothing:
        return Nothing()
    if request.content_type != "application/json":
        raise Problem(415, "media_type", REASONS["media_type"])
    raw = await read_body(request, route.body_max)
    model: type[BaseModel] = route.body
    try:
        if len(raw) > PARSED_INLINE_MAX:
            return await asyncio.to_thread(model.model_validate_json, raw)
        return model.model_validate_json(raw)
    except ValidationError as error:
        if any(fault["type"] == "json_invalid" for fault in error.errors(include_input=False)):
            raise Problem(400, "bad_json", REASONS["bad_json"]) from error
        raise invalid(error) from error


def _idempotency_key(request: web.Request) -> str:
    given = request.headers.get(IDEMPOTENCY_HEADER, "")
    if not given:
        raise Problem(400, "idempotency_key_missing", REASONS["idempotency_key_missing"])
    if not _IDEMPOTENCY_KEY.fullmatch(given):
        raise Problem(400, "bad_request", f"{IDEMPOTENCY_HEADER} takes 1 to 100 visible ASCII characters.")
    return given
