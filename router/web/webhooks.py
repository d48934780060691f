"""Vendors call here: verify, make durable, and only then answer."""

import time
from urllib.parse import parse_qsl

import structlog
from aiohttp import web

from channels.contract import Adapter
from channels.errors import LocalFault, WebhookRefused
from channels.messages import Matter, Received, Webhook
from health.report import EndpointId
from router.switchboard import StoreUnavailable, SwitchboardError
from router.telemetry import WEBHOOKS
from router.web.auth import RUNTIME
from router.web.bodies import BODY_MAX, read_body
from router.web.problems import REASONS, Problem

EVENTS_MAX = 1_000
"""Events in one webhook; vendors batch far fewer."""
QUERY_FIELDS_MAX = 200

log = structlog.get_logger()


def add_routes(app: web.Application) -> None:
    """Serve `/hooks/{channel}/{name}` and whatever a vendor appends to it."""
    for path in ("/hooks/{channel}/{name}", "/hooks/{channel}/{name}/{tail:.*}"):
        app.router.add_route("GET", path, take_webhook)
        app.router.add_route("POST", path, take_webhook)


async def take_webhook(request: web.Request) -> web.Response:
    """Answer the vendor as its adapter says, once every event in the webhook is durable.

    Raises:
        Problem: 404 unknown endpoint, 413 too large, or the adapter's refusal; nothing was accepted.
        StoreUnavailable, LocalFault: answered 503; the vendor delivers again, and what it doubles is dropped.
    """
    runtime = request.app[RUNTIME]
    endpoint = EndpointId(f"{request.match_info['channel']}/{request.match_info['name']}")
    adapter = runtime.adapters.get(endpoint)
    if adapter is None:
        WEBHOOKS.labels("unknown", "unknown_endpoint").inc()
        raise Problem(404, "not_found", "There is no such endpoint.")
    webhook = await _read(request, runtime.settings.public_url)
    try:
        received = await _verify(adapter, webhook)
        matter = await _accept(request, endpoint, received)
    except WebhookRefused as refusal:
        WEBHOOKS.labels(endpoint, "refused").inc()
        log.warning("webhook.refused", endpoint=endpoint, reason=refusal.reason, status=refusal.status)
        raise Problem(refusal.status, "webhook_refused", REASONS["webhook_refused"]) from refusal
    except (StoreUnavailable, LocalFault):
        WEBHOOKS.labels(endpoint, "unavailable").inc()
        raise
    except SwitchboardError:
        WEBHOOKS.labels(endpoint, "invalid").inc()
        raise
    WEBHOOKS.labels(endpoint, "accepted").inc()
    reply = adapter.answer(received, matter)
    return web.Response(status=reply.status, body=reply.body, headers={"Content-Type": reply.content_type})


async def _verify(adapter: Adapter, webhook: Webhook) -> Received:
    received = await adapter.receive(webhook)
    if len(received.events) > EVENTS_MAX:
        raise WebhookRefused(413, f"{len(received.events)} events in one webhook")
    return received


async def _accept(request: web.Request, endpoint: EndpointId, received: Received) -> Matter | None:
    switchboard = request.app[RUNTIME].switchboard
    for event in received.events:
        await switchboard.accept(event)
    return None if received.about is None else await switchboard.matter(received.about)


async def _read(request: web.Request, public_url: str) -> Webhook:
    # The target exactly as the vendor sent it: signatures are made over it, and any normalisation would break them.
    target = request.raw_path
    if not target.startswith("/"):
        raise Problem(400, "bad_request", "The request target must be a path.")
    body = await read_body(request, BODY_MAX)
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    try:
        query = dict(parse_qsl(request.query_string, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX))
    except ValueError as error:
        raise Problem(400, "bad_request", "The query has too many fields.") from error
    return Webhook(
        method=request.method,
        url=public_url + target,
        path=request.match_info.get("tail", ""),
        query=query,
        headers=headers,
        body=body,
        received_at=time.time(),
    )
