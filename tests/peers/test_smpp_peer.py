"""The SMPP adapter against the npm package `smpp` as message centre."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from channels.errors import EndpointMisconfigured, Throttled
from channels.messages import (
    Accepted,
    Address,
    Channel,
    Content,
    Event,
    InboundMessage,
    Kind,
    Matter,
    OutboundMessage,
    ReceiptEvent,
    ReceiptState,
)
from channels.sms.smpp import SmppAdapter, SmppSettings
from channels.tools import Tools
from health.report import EndpointId, Report, Status
from router.store.adapter_store import RedisAdapterStore
from router.store.connecting import connect
from router.store.files import Files
from router.store.redis import Pipelined
from tests.clocks import WallClock, until

HERE = Path(__file__).parent
MODULES = Path(os.environ.get("PEERS_FOLDER", HERE / "node_modules"))
ENDPOINT = EndpointId("sms/peer")

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(shutil.which("node") is None, reason="needs Node: apt-get install nodejs npm"),
    pytest.mark.skipif(
        not (MODULES / "smpp").is_dir(), reason=f"needs the npm package smpp in {MODULES}: npm ci --prefix tests/peers"
    ),
]


@dataclass
class Peer:
    """The message centre's process, our adapter, and what each said."""

    process: asyncio.subprocess.Process
    tools: Tools
    said: list[dict[str, Any]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(json.loads(line))

    def order(self, **what: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what).encode() + b"\n")

    async def accept(self, event: Event) -> Accepted:
        self.events.append(event)
        return Accepted()

    async def listen(self, password: str = "secret") -> SmppAdapter:
        await until(lambda: bool(self.said))
        table = {"id": ENDPOINT, "host": "127.0.0.1", "port": self.said[0]["port"], "sender": "+15550199"}
        settings = SmppSettings.model_validate({**table, "system_id": "peer", "password": password})
        adapter = SmppAdapter(settings, self.tools)
        self.tasks.append(asyncio.create_task(adapter.listen(self.accept)))
        await until(lambda: bool(self.reports))
        return adapter

    def all(self, key: str) -> list[Any]:
        return [said for said in self.said if key in said]


@pytest.fixture
async def peer(redis_url: str, tmp_path: Path) -> AsyncIterator[Peer]:
    """The message centre on a free port."""
    process = await asyncio.create_subprocess_exec(
        "node",
        str(HERE / "smsc.js"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "NODE_PATH": str(MODULES)},
    )
    client = connect(redis_url)
    reports: list[Report] = []
    async with aiohttp.ClientSession() as http:
        tools = Tools(
            endpoint=ENDPOINT,
            http=http,
            clock=WallClock(),
            store=RedisAdapterStore(Pipelined(client), ENDPOINT),
            files=Files(tmp_path),
            report=reports.append,
            organisation="Acme",
            public_url="http://127.0.0.1",
        )
        peer = Peer(process, tools, reports=reports)
        reading = asyncio.create_task(peer.read())
        try:
            yield peer
        finally:
            for task in peer.tasks:
                task.cancel()
            await asyncio.gather(*peer.tasks, return_exceptions=True)
            process.kill()
            await process.wait()
            await reading
            await client.aclose()


def say(text: str) -> OutboundMessage:
    """One attempt."""
    return OutboundMessage(
        message_id="m1",
        conversation_id="c1",
        token="t1",
        kind=Kind.MESSAGE,
        to=Address(Channel.SMS, "+15550100"),
        content=Content(text),
        matter=Matter(organisation="Acme", reference="4F2K9", locale="en"),
    )


@pytest.mark.parametrize(
    ("text", "coding", "segments"),
    [("Grüße {€}", 0, 1), ("Привет 😀", 8, 1), ("one two € " * 40, 0, 3), ("раз два " * 20, 8, 3)],
)
async def test_an_independent_centre_reads_our_segments(peer: Peer, text: str, coding: int, segments: int) -> None:
    """Alphabet, header and number of parts, as the package decodes them; its receipts are understood."""
    adapter = await peer.listen()
    receipt = await adapter.send(say(text))
    await until(lambda: len(peer.all("submit")) == segments)
    submits = peer.all("submit")
    assert "".join(submit["message"] for submit in submits) == text
    assert [submit["coding"] for submit in submits] == [coding] * segments
    assert [submit["submit"] for submit in submits] == list(receipt.vendor_ids)
    if segments > 1:
        assert [submit["udh"][0][-4:] for submit in submits] == [
            f"{segments:02x}{n:02x}" for n in range(1, segments + 1)
        ]
    await until(lambda: bool(peer.events))
    (event,) = peer.events
    assert isinstance(event, ReceiptEvent)
    assert (event.state, event.token) == (ReceiptState.DELIVERED, "t1")


@pytest.mark.parametrize(
    ("fields", "body", "text"),
    [
        ({"data_coding": 0}, b"Gr\x7e\x1e".hex(), "Grüß"),
        ({"data_coding": 0xF1}, b"class one".hex(), "class one"),
        ({"data_coding": 8}, "Привет 😀".encode("utf-16-be").hex(), "Привет 😀"),
        ({"data_coding": 3}, "café".encode("latin-1").hex(), "café"),
    ],
)
async def test_customers_are_heard_through_it(peer: Peer, fields: dict[str, int], body: str, text: str) -> None:
    """Also in message class 1, which another library loses; the answer is ESME_ROK, after accept."""
    await peer.listen()
    peer.order(deliver={"source_addr": "15550123", "destination_addr": "15550199", **fields}, body=body)
    await until(lambda: bool(peer.all("answered")))
    (event,) = peer.events
    assert isinstance(event, InboundMessage)
    assert (event.text, str(event.sender)) == (text, "sms:+15550123")
    assert peer.all("answered") == [{"answered": 0}]


async def test_it_is_throttled_parted_from_and_killed(peer: Peer) -> None:
    """ESME_RTHROTTLED asks for patience; after unbind and after a broken connection it is bound again."""
    adapter = await peer.listen()
    peer.order(status=0x58)
    async with asyncio.timeout(5):
        while True:
            try:
                await adapter.send(say("hello"))
            except Throttled:
                break
    peer.order(status=0)
    for order in ("unbind", "kill"):
        peer.reports.clear()
        peer.order(**{order: True})
        await until(lambda: any(report.status is Status.DOWN for report in peer.reports))
        await until(lambda: peer.reports[-1].status is Status.UP)
        await adapter.probe()
    assert (await adapter.send(say("again"))).vendor_ids


async def test_a_wrong_password_is_told_apart(peer: Peer) -> None:
    """The package refuses the bind; a person must act."""
    adapter = await peer.listen(password="wrong")
    with pytest.raises(EndpointMisconfigured):
        await adapter.probe()
