"""`/openapi.json`, and the same as a page to read: `/docs`."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from router.web.api import ROUTES
from router.web.auth import RUNTIME
from router.web.openapi import build_openapi

PAGES = Path(__file__).parent / "pages"


def add_routes(app: web.Application) -> None:
    """Serve both; made once, for neither changes while we run."""
    raw, page = _written(app[RUNTIME].settings.public_url)

    async def openapi(_request: web.Request) -> web.Response:
        return web.Response(body=raw, content_type="application/json", headers={"Cache-Control": "no-cache"})

    async def docs(_request: web.Request) -> web.Response:
        return web.Response(text=page, content_type="text/html", headers={"Cache-Control": "no-cache"})

    app.router.add_get("/openapi.json", openapi)
    app.router.add_get("/docs", docs)


@functools.lru_cache(maxsize=4)
def _written(server: str) -> tuple[bytes, str]:
    document = build_openapi(ROUTES, server)
    return json.dumps(document, indent=1, ensure_ascii=False).encode(), render_docs(document)


def render_docs(document: Mapping[str, Any]) -> str:
    """The page, without script and without anything from elsewhere."""
    environment = Environment(
        loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    operations: dict[str, list[dict[str, Any]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for tag in operation["tags"]:
                operations.setdefault(tag, []).append({**operation, "path": path, "method": method.upper()})
    schemas = sorted(document["components"]["schemas"].items())
    return environment.get_template("docs.html").render(
        info=document["info"],
        groups=operations,
        schemas=[{"name": name, "schema": schema, "fields": _fields(schema)} for name, schema in schemas],
        problems=sorted(document["x-problems"].items()),
        body_of=_body_of,
        answer_of=_answer_of,
        type_of=type_of,
    )


def type_of(schema: Mapping[str, Any]) -> str:
    """A schema in few words: `string`, `list of Message`, `Address or null`."""
    kind = schema.get("type")
    words = str(schema.get("format") or kind or "anything")
    if "$ref" in schema:
        words = str(schema["$ref"]).rsplit("/", 1)[-1]
    elif "anyOf" in schema:
        words = " or ".join(type_of(one) for one in schema["anyOf"])
    elif "enum" in schema:
        words = " | ".join(json.dumps(value) for value in schema["enum"])
    elif "const" in schema:
        words = json.dumps(schema["const"])
    elif kind == "array":
        words = f"list of {type_of(schema.get('items', {}))}"
    elif kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        words = f"map of {type_of(schema['additionalProperties'])}"
    return words


def _fields(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    required = schema.get("required", ())
    return [
        {
            "name": name,
            "type": type_of(facts),
            "required": name in required,
            "default": json.dumps(facts["default"]) if "default" in facts else "",
            "limits": _limits(facts),
            "description": facts.get("description", ""),
        }
        for name, facts in schema.get("properties", {}).items()
    ]


def _limits(facts: Mapping[str, Any]) -> str:
    words = {
        "minLength": "at least {} characters",
        "maxLength": "at most {} characters",
        "minItems": "at least {}",
        "maxItems": "at most {}",
        "minimum": "from {}",
        "maximum": "to {}",
        "exclusiveMinimum": "above {}",
    }
    return ", ".join(form.format(facts[name]) for name, form in words.items() if name in facts)


def _body_of(operation: Mapping[str, Any]) -> str:
    body = operation.get("requestBody")
    return type_of(body["content"]["application/json"]["schema"]) if body else ""


def _answer_of(operation: Mapping[str, Any]) -> str:
    for status, response in operation["responses"].items():
        for media, content in response.get("content", {}).items():
            if status != "default":
                return type_of(content["schema"]) if media == "application/json" else media
    return ""
