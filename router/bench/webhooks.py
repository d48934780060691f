"""Signed webhooks, made beforehand, and a client that costs little beside the server it measures."""

import asyncio
import secrets
from collections.abc import Iterator, Sequence
from typing import cast
from urllib.parse import urlencode

from channels.signatures import sign_twilio
from router.bench.contender import ACCOUNT, AUTH_TOKEN, OUR_NUMBER, PUBLIC_URL
from router.bench.load import HERE, phone

CONNECTIONS = 64
ANSWER_WITHIN_S = 100.0


def sign_webhooks(customers: int, count: int) -> list[bytes]:
    """`count` inbound messages as they go over the wire, each from the next of `customers`, each with its own id."""
    return [_webhook(number % customers) for number in range(count)]


def _webhook(customer: int) -> bytes:
    form = {
        "MessageSid": "SM" + secrets.token_hex(16),
        "AccountSid": ACCOUNT,
        "From": phone(customer),
        "To": OUR_NUMBER,
        "Body": "Thank you, tomorrow suits me well. Please ring twice.",
        "NumMedia": "0",
    }
    path = f"/hooks/{HERE}"
    body = urlencode(form).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        f"X-Twilio-Signature: {sign_twilio(AUTH_TOKEN, PUBLIC_URL + path, form.items())}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Poster(asyncio.Protocol):
    """One connection: posts the next webhook as soon as the last one was answered."""

    def __init__(self, webhooks: Iterator[bytes], done: asyncio.Future[None]) -> None:
        self._webhooks = webhooks
        self._done = done
        self._transport: asyncio.WriteTransport | None = None
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._post()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, rest = self._answer.partition(b"\r\n\r\n")
        if not end:
            return
        lower = head.lower()
        length = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(rest) < length:
            return
        if b" 200 " not in head[:16] and not self._done.done():
            self._done.set_exception(RuntimeError(f"a webhook was answered {head[:40].decode()!r}"))
            return
        self._answer = b""
        self._post()

    def _post(self) -> None:
        webhook = next(self._webhooks, None)
        if webhook is not None and self._transport is not None:
            self._transport.write(webhook)
        elif not self._done.done():
            self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionResetError("the server hung up"))


async def post_webhooks(port: int, webhooks: Sequence[bytes]) -> None:
    """Post them all over 64 connections.

    Raises:
        RuntimeError: one was not answered with 200.
        TimeoutError: they took more than 100 s.
    """
    loop = asyncio.get_running_loop()
    pending = iter(webhooks)
    done = [loop.create_future() for _ in range(CONNECTIONS)]
    transports = [
        (await loop.create_connection(lambda one=one: _Poster(pending, one), "127.0.0.1", port))[0]  # type: ignore[misc]  # mypy knows no type of a lambda with a default
        for one in done
    ]
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            await asyncio.gather(*done)
    finally:
        for transport in transports:
            transport.close()
