"""A dispatcher that is told to stop says what it has begun, begins nothing more, and leaves nothing in doubt."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from channels.contract import Accept, Capabilities
from channels.messages import Address, Channel, OutboundMessage, Receipt
from health.report import EndpointId
from router.dispatcher import Dispatcher
from router.domain.conversation import Binding, Message, MessageState
from router.runtime import Runtime
from tests.clocks import until

MAIL = EndpointId("email/acme")


@dataclass
class Vendor:
    """An endpoint with a connection of its own that answers only when it may."""

    capabilities: Capabilities
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[str] = field(default_factory=list)
    connected: bool = False
    lost: int = 0
    """Sends that were under way when the connection went."""

    async def send(self, message: OutboundMessage) -> Receipt:
        self.asked.append(message.content.text)
        await self.may_answer.wait()
        self.lost += not self.connected
        return Receipt((message.message_id,))

    async def listen(self, accept: Accept) -> None:
        self.connected = True
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.connected = False

    async def probe(self) -> None:
        """Nothing is asked."""

    async def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
async def vendor() -> Vendor:
    return Vendor(Capabilities(Channel.EMAIL, "acme", 100_000, 5.0, listens_in="dispatch"))


@pytest.fixture
async def runtime(open_over: Any, vendor: Vendor) -> AsyncIterator[Runtime]:
    async with open_over({MAIL: vendor}, "dispatch") as opened:
        yield opened


async def write(runtime: Runtime, text: str) -> str:
    """A conversation begun by an agent; its message's id."""
    binding = Binding(Address(Channel.EMAIL, f"{text}@customer.test"), verified=True)
    made = await runtime.switchboard.create_customer(name=text, locale="en", bindings=[binding])
    said = {"author": "a0-1", "author_name": "Ada", "idempotency_key": text}
    return (await runtime.switchboard.open_conversation(made.id, subject="Order", text=text, **said)).message_id


async def said(runtime: Runtime, message_id: str) -> Message:
    found = await runtime.switchboard.message(message_id)
    assert isinstance(found, Message)
    return found


async def test_what_is_being_said_is_said_over_a_connection_that_stays_for_so_long(
    runtime: Runtime, vendor: Vendor
) -> None:
    """A restart would double every message that was on its way, each time."""
    begun = await write(runtime, "one")
    task = asyncio.create_task(Dispatcher(runtime.core, runtime.switchboard, runtime.adapters, runtime.desk, "d").run())
    await until(lambda: vendor.asked == ["one"] and vendor.connected)
    task.cancel()
    later = await write(runtime, "two")
    await asyncio.sleep(0)
    vendor.may_answer.set()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    first, second = await said(runtime, begun), await said(runtime, later)
    assert (first.state, first.possible_duplicate) == (MessageState.SENT, False)
    assert (second.state, second.attempts, vendor.asked) == (MessageState.QUEUED, (), ["one"])
    assert (vendor.lost, vendor.connected) == (0, False)


async def test_a_vendor_that_does_not_answer_holds_up_no_stop(
    runtime: Runtime, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message is in doubt when the lease has run out, as if the process had died."""
    monkeypatch.setattr("router.sender.ENDING_S", 0.2)
    begun = await write(runtime, "one")
    task = asyncio.create_task(Dispatcher(runtime.core, runtime.switchboard, runtime.adapters, runtime.desk, "d").run())
    await until(lambda: vendor.asked == ["one"])
    task.cancel()
    async with asyncio.timeout(4):
        await asyncio.gather(task, return_exceptions=True)
    assert (await said(runtime, begun)).state is MessageState.SENDING
