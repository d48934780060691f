"""Leasing ahead: where sends are quick nobody waits for a lease, where they are slow nothing waits leased."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from channels.contract import Capabilities
from channels.messages import Channel, OutboundMessage, Receipt
from router import sender as senders
from router.bench.load import HERE, seed
from router.sender import Sender
from router.store.redis import StoreUnavailable

IN_FLIGHT = 4


@dataclass
class Vendor:
    """Takes what it is sent after a while, or hangs."""

    capabilities: Capabilities
    takes_s: float = 0.002
    hangs_from: int = 10_000
    """The number of the first message that it does not answer."""
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    """Set: it does after all."""
    speaking: int = 0
    most: int = 0
    taken: list[str] = field(default_factory=list)
    begun: int = 0

    async def send(self, message: OutboundMessage) -> Receipt:
        self.begun += 1
        self.speaking += 1
        self.most = max(self.most, self.speaking)
        try:
            if self.begun < self.hangs_from:
                await asyncio.sleep(self.takes_s)
            else:
                await self.answers.wait()
        finally:
            self.speaking -= 1
        self.taken.append(message.message_id)
        return Receipt((f"x{len(self.taken)}",))

    async def probe(self) -> None:
        """Nothing is asked."""

    async def close(self) -> None:
        """Nothing is held."""


@dataclass
class Desk:
    """One endpoint's sender at work, watched."""

    runtime: Any
    vendor: Vendor
    sender: Sender
    most_leased: int = 0

    async def work(self, until: Callable[[], Awaitable[bool]], within_s: float = 20.0) -> None:
        """Feed and send until it holds."""
        running = asyncio.create_task(self.sender.run())
        try:
            async with asyncio.timeout(within_s):
                while not await until():
                    self.most_leased = max(self.most_leased, self.sender._unsent)
                    await asyncio.sleep(0.001)
        finally:
            self.vendor.answers.set()
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    def has_taken(self, count: int) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            return len(self.vendor.taken) >= count

        return look


@pytest.fixture
async def desk(open_over: Any) -> AsyncIterator[Desk]:
    """An SMS endpoint that could send ten thousand a second."""
    vendor = Vendor(Capabilities(Channel.SMS, "here", 1_000, 5.0, rate_per_s=10_000))
    async with open_over({HERE: vendor}, "dispatch") as runtime:
        yield Desk(runtime, vendor, Sender(runtime.core, HERE, vendor, runtime.desk, "dispatch-1", IN_FLIGHT))


async def test_where_sends_are_quick_what_is_next_is_leased_already(desk: Desk) -> None:
    """And no more than the bound is sent at a time; each once."""
    await seed(desk.runtime.store, 120, 1)
    await desk.work(desk.has_taken(120))
    assert len(set(desk.vendor.taken)) == len(desk.vendor.taken) == 120
    assert desk.vendor.most == IN_FLIGHT
    assert IN_FLIGHT < desk.most_leased <= 2 * IN_FLIGHT


async def test_where_sends_are_slow_nothing_is_leased_that_cannot_be_sent(desk: Desk) -> None:
    """It would be too late when its turn came."""
    await seed(desk.runtime.store, 12, 1)
    desk.vendor.takes_s = 0.3
    await desk.work(desk.has_taken(12))
    assert desk.vendor.most == desk.most_leased == IN_FLIGHT


async def test_what_was_never_sent_makes_no_endpoint_quick(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty that go back because Redis stutters take no time, and say nothing of how long a send takes."""
    await seed(desk.runtime.store, 12, 1)
    desk.vendor.takes_s = 0.3
    refused, render = 0, senders.render

    async def stutter(core: Any, leased: Any) -> OutboundMessage:
        nonlocal refused
        if refused < 20:
            refused += 1
            raise StoreUnavailable("away")
        return await render(core, leased)

    monkeypatch.setattr(senders, "render", stutter)
    await desk.work(desk.has_taken(12))
    assert refused == 20 and desk.most_leased == IN_FLIGHT


async def test_what_was_leased_ahead_of_a_hang_is_given_back_in_a_second(desk: Desk) -> None:
    """A leased side cannot be moved: it must not share the fate of those that are being sent."""
    await seed(desk.runtime.store, 200, 1)
    desk.vendor.hangs_from = 100
    waited = quick_still = False

    async def waits_no_longer() -> bool:
        nonlocal waited, quick_still
        hangs = desk.vendor.begun >= 103
        waited = waited or (hangs and desk.sender._unsent > IN_FLIGHT)
        quick_still = desk.sender._is_quick
        return waited and desk.sender._unsent == IN_FLIGHT

    await desk.work(waits_no_longer, 3.0)
    assert not quick_still, "nothing more is leased ahead"
    assert len(desk.vendor.taken) < 200
