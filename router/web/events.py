"""`/v1/events`: the journal as server-sent events, resumable, with a bound on everybody who listens."""

import asyncio
import time
from collections.abc import AsyncIterator

import structlog
from aiohttp import web

from router.api_keys import KeysUnavailable
from router.journal_reader import read_position
from router.switchboard import JournalEntry, StoreUnavailable, SwitchboardError
from router.telemetry import EVENT_STREAMS
from router.web.auth import RUNTIME, identify
from router.web.models import JournalItem
from router.web.problems import REASONS, Problem

STREAMS_MAX = 200
"""Open streams a process."""
SLOW_S = 10.0
"""A listener that does not take an event for this long is cut off; it resumes where it was, from the journal."""
QUIET_S = 15.0
"""Silence after which a comment is sent, so that proxies keep the connection."""
CHECK_EVERY_S = 60.0
"""How often an open stream's key is checked again."""
RETRY_MS = 2_000

_STREAMS: web.AppKey[set[asyncio.Task[None]]] = web.AppKey("streams", set[asyncio.Task[None]])

log = structlog.get_logger()


def add_routes(app: web.Application) -> None:
    """Serve the stream; open streams end when the application shuts down."""
    app[_STREAMS] = set()
    app.router.add_get("/v1/events", stream_events)
    app.on_shutdown.append(_end_streams)


async def stream_events(request: web.Request) -> web.StreamResponse:
    """Tell what happens, from after `Last-Event-ID` (or `?after=`), else from now on; `0`: all that is kept.

    `?conversation_id=` tells of one conversation only. Each event's data is one journal entry as JSON; ids only.
    """
    await identify(request)
    after = request.headers.get("Last-Event-ID") or request.query.get("after") or None
    if after is not None and read_position(after, request.app[RUNTIME].settings.shards) is None:
        words = "Last-Event-ID is no id of this stream. Send the id of an event, or 0 for everything that is kept."
        raise Problem(400, "bad_request", words)
    streams = request.app[_STREAMS]
    if len(streams) >= STREAMS_MAX:
        raise Problem(503, "too_many_streams", REASONS["too_many_streams"], headers={"Retry-After": "10"})
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
    )
    await response.prepare(request)
    told = asyncio.create_task(_tell(request, response, after))
    streams.add(told)
    EVENT_STREAMS.inc()
    try:
        await told
    except asyncio.CancelledError:
        told.cancel()
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise
    finally:
        streams.discard(told)
        EVENT_STREAMS.dec()
    return response


async def _tell(request: web.Request, response: web.StreamResponse, after: str | None) -> None:
    only = request.query.get("conversation_id", "")
    checked_at = time.monotonic()
    entries: AsyncIterator[JournalEntry | None] = request.app[RUNTIME].switchboard.events(after=after, wait_s=QUIET_S)
    try:
        await _write(response, f"retry: {RETRY_MS}\n\n")
        async for entry in entries:
            if time.monotonic() - checked_at > CHECK_EVERY_S:
                await identify(request)
                checked_at = time.monotonic()
            if entry is None:
                await _write(response, ": quiet\n\n")
            elif not only or entry.conversation_id == only:
                data = JournalItem.of(entry).model_dump_json()
                await _write(response, f"id: {entry.id}\ndata: {data}\n\n")
    except TimeoutError:
        log.info("stream.cut_off", after_s=SLOW_S)
        if request.transport is not None:
            request.transport.abort()
    except ConnectionResetError:
        return  # the listener went away, which is how streams end
    except (Problem, SwitchboardError) as error:
        # Headers are out: ending the stream is the answer. The listener comes back and is told then.
        log.info("stream.ended", reason=error.reason)
    except (StoreUnavailable, KeysUnavailable):
        log.info("stream.ended", reason="store_unavailable")


async def _write(response: web.StreamResponse, words: str) -> None:
    async with asyncio.timeout(SLOW_S):
        await response.write(words.encode())


async def _end_streams(app: web.Application) -> None:
    streams = app[_STREAMS]
    for stream in list(streams):
        stream.cancel()
