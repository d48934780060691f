"""One adapter on a stage: the vendor it speaks to, what a router would do for it, and everything it let slip."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from pydantic import TypeAdapter

from channels.contract import Adapter, EndpointSettings, Listening
from channels.errors import LocalFault, WebhookRefused
from channels.messages import (
    Accepted,
    Address,
    Content,
    Event,
    InboundMessage,
    Kind,
    Matter,
    OutboundMessage,
    Receipt,
    ReceiptEvent,
    Received,
    Webhook,
)
from channels.registry import CHANNELS, AnyEndpointSettings, build
from channels.sandbox.vendor import Journal
from channels.tools import Tools
from health.report import EndpointId, Report
from router.store.adapter_store import RedisAdapterStore
from router.store.connecting import connect
from router.store.files import Files
from router.store.redis import Pipelined
from tests.clocks import WallClock

if TYPE_CHECKING:
    from tests.channels.suite.rows import Table

WORDS = "Your parcel leaves tomorrow."
TOKEN = "s0.attempt-1"
SETTINGS: TypeAdapter[EndpointSettings] = TypeAdapter(AnyEndpointSettings)


async def until(true: Callable[[], object], what: str, within_s: float = 8.0) -> None:
    """Poll until `true` holds; fail with `what` was waited for after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"in {within_s:g} s it did not happen: {what}"
        await asyncio.sleep(0.005)


@dataclass
class Stage:
    """One adapter, its vendor, and a router that keeps no more than what it was told."""

    table: "Table"
    tools: Tools
    journal: Journal
    public_url: str
    files: Files
    monkeypatch: pytest.MonkeyPatch
    vendor: Any = None
    """The stand-in, of the provider's own class; None where there is none."""
    adapters: list[Adapter] = field(default_factory=list)
    settings: list[EndpointSettings] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    raised: list[BaseException] = field(default_factory=list)
    """Every error that came out of an adapter."""
    fail_before: int = 0
    """How many accepts fail from now on, with nothing kept."""
    fail_after: int = 0
    """How many accepts fail from now on although the event was kept: our answer is lost."""
    tries: int = 0
    """How often an event was to be accepted."""
    answers: list[int] = field(default_factory=list)
    """What we answered the vendor's webhooks."""
    listening: list[asyncio.Task[None]] = field(default_factory=list)
    at_end: AsyncExitStack = field(default_factory=AsyncExitStack)
    """What a case started besides, to be stopped."""

    @property
    def adapter(self) -> Adapter:
        """The latest one."""
        return self.adapters[-1]

    @property
    def words(self) -> list[InboundMessage]:
        """What customers wrote."""
        return [event for event in self.events if isinstance(event, InboundMessage)]

    @property
    def receipts(self) -> list[ReceiptEvent]:
        """What became of attempts."""
        return [event for event in self.events if isinstance(event, ReceiptEvent)]

    def make(self, changes: Mapping[str, object] = {}) -> Adapter:
        """Build an adapter by the registry, from the vendor's table with `changes`."""
        settings = SETTINGS.validate_python({**self.table.settings(self), **changes})
        self.settings.append(settings)
        self.adapters.append(build(settings, self.tools))  # type: ignore[arg-type]  # the union, as validated
        return self.adapter

    async def open(self, changes: Mapping[str, object] = {}) -> Adapter:
        """`make`, then listen where the adapter does, until it said how that went."""
        adapter = self.make(changes)
        if isinstance(adapter, Listening):
            self.listening.append(asyncio.create_task(adapter.listen(self.accept)))
            await until(lambda: self.reports, "the adapter reports that it listens, or why it cannot")
        return adapter

    def message(self, changes: Mapping[str, Any] = {}) -> OutboundMessage:
        """An attempt; besides its own fields, `text`, `content` and `matter` (a mapping each) may be changed."""
        given = dict(changes)
        matter = {"organisation": "Acme", "reference": "4F2K9", "locale": "en", "subject": "Parcel"}
        content = {"text": given.pop("text", WORDS), **given.pop("content", {})}
        to = given.pop("to", self.table.customer)
        fields: dict[str, Any] = {
            "message_id": "m0-1",
            "conversation_id": "c0-1",
            "token": TOKEN,
            "kind": Kind.MESSAGE,
            "to": Address(CHANNELS[self.table.provider], to),
            "content": Content(**content),
            "matter": Matter(**{**matter, **given.pop("matter", {})}),
            "reply_token": "sealed.Token",
            "created_at": 1_700_000_000.0,
        }
        return OutboundMessage(**{**fields, **given})

    async def send(self, message: OutboundMessage) -> Receipt:
        """Send; within `io_s`, whatever comes of it."""
        began = time.monotonic()
        try:
            return await self.adapter.send(message)
        except Exception as error:
            self.raised.append(error)
            raise
        finally:
            took = time.monotonic() - began
            assert took <= self.adapter.capabilities.io_s + SLACK_S, f"a send took {took:.2f} s"

    async def probe(self) -> None:
        """Ask whether a message would be taken now."""
        try:
            await self.adapter.probe()
        except Exception as error:
            self.raised.append(error)
            raise

    async def receive(self, webhook: Webhook) -> Received:
        """Hand the adapter a webhook."""
        try:
            return await self.adapter.receive(webhook)
        except WebhookRefused as error:
            self.raised.append(error)
            raise

    async def accept(self, event: Event) -> Accepted:
        """Make an event durable, unless the case says that this fails."""
        self.tries += 1
        if self.fail_before:
            self.fail_before -= 1
            raise LocalFault("the store is away")
        self.events.append(event)
        if self.fail_after:
            self.fail_after -= 1
            raise LocalFault("the store took it, its answer was lost")
        return Accepted("c0-1", "m0-2")

    async def serve(self, request: web.Request) -> web.Response:
        """Do with a vendor's webhook what the web role does: verify, make durable, only then answer."""
        prefix = f"/hooks/{self.tools.endpoint}"
        webhook = Webhook(
            method=request.method,
            url=self.public_url + request.raw_path,
            path=request.path.removeprefix(prefix).lstrip("/"),
            query=dict(request.query),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=await request.read(),
            received_at=time.time(),
        )
        try:
            received = await self.receive(webhook)
            for event in received.events:
                await self.accept(event)
        except WebhookRefused as refused:
            self.answers.append(refused.status)
            return web.Response(status=refused.status)
        except LocalFault:
            self.answers.append(503)
            return web.Response(status=503)
        reply = self.adapter.answer(received, self.message().matter if received.about else None)
        self.answers.append(reply.status)
        return web.Response(status=reply.status, body=reply.body, headers={"Content-Type": reply.content_type})

    async def close(self) -> None:
        """End what listens, then every adapter."""
        for task in self.listening:
            task.cancel()
        ended = await asyncio.gather(*self.listening, return_exceptions=True)
        self.raised += [error for error in ended if isinstance(error, Exception)]
        for adapter in self.adapters:
            await adapter.close()
        await self.at_end.aclose()


SLACK_S = 1.0
"""What a busy machine may add to a bound."""


@asynccontextmanager
async def serving(
    handle: Callable[[web.Request], Awaitable[web.Response]],
) -> AsyncIterator[str]:
    """An HTTP server on 127.0.0.1 that answers everything by `handle`; its URL."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.05, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def staged(table: "Table", redis_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    """A stage with its vendor started and no adapter yet."""
    for name, value in table.pace.items():
        monkeypatch.setattr(name, value)
    client = connect(redis_url)
    endpoint = EndpointId(table.endpoint)
    stages: list[Stage] = []

    async def serve(request: web.Request) -> web.Response:
        return await stages[0].serve(request)

    async with serving(serve) as url, aiohttp.ClientSession() as http:
        reports: list[Report] = []
        files = Files(folder)
        store = RedisAdapterStore(Pipelined(client), endpoint)
        tools = Tools(endpoint, http, WallClock(), store, files, reports.append, "Acme", url)
        stage = Stage(table, tools, Journal(), url, files, monkeypatch, reports=reports)
        stages.append(stage)
        stage.vendor = table.vendor(stage)
        if stage.vendor is not None:
            await stage.vendor.start()
        try:
            yield stage
        finally:
            await stage.close()
            if stage.vendor is not None:
                await stage.vendor.stop()
            await client.aclose()


async def raw_server(
    stage: Stage, converse: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> int:
    """A server on 127.0.0.1 that treats each connection by `converse`, until the stage ends; its port."""
    connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections[task] = writer
        try:
            await converse(reader, writer)
        except OSError:
            pass  # the adapter is gone; that is all there is to know
        finally:
            del connections[task]
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)

    async def stop() -> None:
        server.close()
        waiting = tuple(connections)
        for writer in connections.values():
            writer.transport.abort()
        await asyncio.gather(*waiting)
        await server.wait_closed()

    stage.at_end.push_async_callback(stop)
    port: int = server.sockets[0].getsockname()[1]
    return port


async def silent_port(stage: Stage) -> int:
    """A port that takes connections and never says anything."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            pass

    return await raw_server(stage, listen)


async def babbling_port(stage: Stage) -> int:
    """A port at which something answers that speaks none of our protocols."""

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\x01 what do you want?\r\n\r\n" * 4)
        await writer.drain()
        await reader.read(65_536)

    return await raw_server(stage, babble)


async def closed_port(stage: Stage) -> int:
    """A port at which nobody listens, held so that nobody else will."""
    holder = socket.socket()
    stage.at_end.callback(holder.close)
    holder.bind(("127.0.0.1", 0))
    port: int = holder.getsockname()[1]
    return port


def store_at(stage: Stage, port: int) -> None:
    """Put the endpoint's store at this port."""
    client = connect(f"redis://127.0.0.1:{port}")
    stage.at_end.push_async_callback(client.aclose)
    stage.tools = replace(stage.tools, store=RedisAdapterStore(Pipelined(client), stage.tools.endpoint))
