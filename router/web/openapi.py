"""The OpenAPI 3.1 document, made from the routes table."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from router.web.models import JournalItem, SentMessage
from router.web.models_people import Model, Nothing
from router.web.problems import REASONS
from router.web.routes import DEFERRED_STATUS, IDEMPOTENCY_HEADER, AnyRoute

VERSION = "1"
_PARAMETER = re.compile(r"\{(\w+)\}")
_REFERENCE = "#/components/schemas/{model}"


class ProblemAnswer(Model):
    """RFC 9457: what every error looks like."""

    type: str
    title: str
    status: int
    detail: str
    """For people: what happened, and what to do."""
    reason: str
    """Machine-readable."""
    instance: str
    """`urn:request:` and the id that stands in `X-Request-ID` and in our log."""
    errors: list[dict[str, str]] | None = None
    """Each wrong field with what is wrong."""


def build_openapi(routes: Sequence[AnyRoute], server: str) -> dict[str, Any]:
    """The document for these routes, reached at `server`."""
    bodies: set[type[BaseModel]] = {route.body for route in routes if route.body is not Nothing}
    answers: set[type[BaseModel]] = {ProblemAnswer, JournalItem}
    answers.update(route.answer for route in routes)
    named: list[tuple[type[BaseModel], Any]] = [(model, "validation") for model in _sorted(bodies)]
    named += [(model, "serialization") for model in _sorted(answers)]
    schemas, definitions = models_json_schema(named, ref_template=_REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    paths["/v1/events"] = {"get": _events_operation()}
    paths["/v1/files/{sha256}"] = {"get": _file_operation()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Throughline",
            "version": VERSION,
            "description": "Conversations that outlive their channel. Times are RFC 3339 in UTC. Unknown fields are "
            "refused. Every error is `application/problem+json`.",
        },
        "servers": [{"url": server}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`throughline key create --role agent --name NAME` makes one.",
                }
            },
        },
        "x-problems": dict(REASONS),
    }


def _sorted(models: set[type[BaseModel]]) -> list[type[BaseModel]]:
    return sorted(models, key=lambda model: model.__name__)


def _operation(route: AnyRoute, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    answer = schemas[(route.answer, "serialization")]
    operation: dict[str, Any] = {
        "operationId": getattr(route.serve, "__name__", route.path),
        "summary": route.summary,
        "tags": [route.path.split("/")[2]],
        "x-roles": sorted(role.value for role in route.roles),
        "parameters": _parameters(route),
        "responses": {
            str(route.status): {
                "description": route.answer.__doc__ or "Done.",
                "content": {"application/json": {"schema": answer}},
            },
            "default": _problem(),
        },
    }
    if route.answer is SentMessage:
        words = "The store is away: it is durable on the edge's disk, and gets its place once the store is back."
        content = {"application/json": {"schema": answer}}
        operation["responses"][str(DEFERRED_STATUS)] = {"description": words, "content": content}
    if route.body is not Nothing:
        body = schemas[(route.body, "validation")]
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _parameters(route: AnyRoute) -> list[dict[str, Any]]:
    found = [_path_parameter(name) for name in _PARAMETER.findall(route.path)]
    schema = route.query.model_json_schema(ref_template=_REFERENCE)
    definitions = schema.get("$defs", {})
    for name, facts in schema.get("properties", {}).items():
        inlined = definitions.get(facts["$ref"].rsplit("/", 1)[-1], facts) if "$ref" in facts else facts
        required = name in schema.get("required", ())
        parameter = {"name": name, "in": "query", "required": required, "schema": inlined}
        if "description" in facts:
            parameter["description"] = facts["description"]
        found.append(parameter)
    if route.idempotent:
        found.append(
            {
                "name": IDEMPOTENCY_HEADER,
                "in": "header",
                "required": True,
                "description": "The same key and body again give the same answer; the same key with another body, 409.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 100, "pattern": "^[!-~]+$"},
            }
        )
    return found


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _problem() -> dict[str, Any]:
    reference = _REFERENCE.format(model=ProblemAnswer.__name__)
    return {"description": "A problem.", "content": {"application/problem+json": {"schema": {"$ref": reference}}}}


def _events_operation() -> dict[str, Any]:
    text = {"type": "string"}
    resume = {"name": "Last-Event-ID", "in": "header", "required": False, "schema": text}
    return {
        "operationId": "stream_events",
        "summary": "Listen to what happens: server-sent events, resumable",
        "description": "Each event's `id` resumes the stream in `Last-Event-ID`; `0` begins with the oldest event "
        "that is kept, none begins now, and what is no such id is refused. An event's data is one JournalItem.",
        "tags": ["events"],
        "x-roles": ["admin", "agent", "ops"],
        "parameters": [
            resume,
            {"name": "after", "in": "query", "required": False, "description": "As Last-Event-ID.", "schema": text},
            {"name": "conversation_id", "in": "query", "required": False, "schema": text},
        ],
        "responses": {
            "200": {"description": "The stream.", "content": {"text/event-stream": {"schema": text}}},
            "default": _problem(),
        },
    }


def _file_operation() -> dict[str, Any]:
    return {
        "operationId": "read_file",
        "summary": "Download a stored file",
        "tags": ["files"],
        "x-roles": ["admin", "agent"],
        "parameters": [
            _path_parameter("sha256"),
            {"name": "name", "in": "query", "required": False, "schema": {"type": "string", "maxLength": 200}},
        ],
        "responses": {
            "200": {"description": "The bytes.", "content": {"application/octet-stream": {"schema": {}}}},
            "default": _problem(),
        },
    }
