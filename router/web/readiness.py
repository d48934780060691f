"""`/healthz`, `/readyz`, `/metrics`: what machines that watch us ask for."""

import asyncio

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from router.api_keys import KeysUnavailable
from router.gauges import StoreGauges
from router.switchboard import StoreUnavailable, SwitchboardError
from router.telemetry import render_metrics, show_endpoint
from router.web.auth import RUNTIME

REDIS_TIMEOUT_S = 2.0
GAUGES = web.AppKey("gauges", StoreGauges)

log = structlog.get_logger()


def add_routes(app: web.Application) -> None:
    """Serve the three."""
    app[GAUGES] = StoreGauges(app[RUNTIME].store, app[RUNTIME].board)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)


async def healthz(_request: web.Request) -> web.Response:
    """The process runs and its event loop turns; says nothing of Redis or vendors."""
    return web.Response(text="ok\n")


async def readyz(request: web.Request) -> web.Response:
    """200 if requests can be served now: Redis answers and the adapters are built; else 503, naming what is not."""
    runtime = request.app[RUNTIME]
    checks = {"redis": await _redis_answers(request), "adapters": bool(runtime.adapters)}
    return web.json_response(checks, status=200 if all(checks.values()) else 503)


async def metrics(request: web.Request) -> web.Response:
    """Prometheus' text format; the endpoints' gauges are read now."""
    runtime = request.app[RUNTIME]
    try:
        async with asyncio.timeout(REDIS_TIMEOUT_S):
            for state in await runtime.switchboard.endpoints():
                show_endpoint(
                    state.id,
                    out=state.out,
                    in_=state.in_,
                    gate_open=state.gate_open,
                    due=state.due,
                    known=runtime.adapters.keys(),
                )
            await request.app[GAUGES].refresh(runtime.clock.now())
    except (StoreUnavailable, SwitchboardError, TimeoutError):
        # During an outage of Redis the gauges keep their last values, and the counters are still worth having.
        log.info("metrics.gauges_stale")
    return web.Response(body=render_metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _redis_answers(request: web.Request) -> bool:
    try:
        async with asyncio.timeout(REDIS_TIMEOUT_S):
            await request.app[RUNTIME].keys.ping()
    except (KeysUnavailable, TimeoutError):
        return False
    return True
