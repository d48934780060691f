"""Read request bodies: whole, bounded in size and time, never decompressed."""

import asyncio

from aiohttp import web

from router.web.problems import REASONS, Problem

BODY_TIMEOUT_S = 30.0
BODY_MAX = 1_000_000
"""Bytes of a webhook, and of any body that carries no files."""


async def read_body(request: web.Request, limit: int = BODY_MAX) -> bytes:
    """The raw bytes. Raises Problem 413 over `limit` bytes, 408 after 30 s, 415 if compressed."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem(415, "media_type", REASONS["media_type"])
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError as error:
        raise Problem(408, "too_slow", REASONS["too_slow"]) from error
    return bytes(body)


def _too_large(limit: int) -> Problem:
    # The rest of the body stays unread; the connection is of no further use.
    return Problem(413, "too_large", f"The body may have at most {limit:,} bytes.", headers={"Connection": "close"})
