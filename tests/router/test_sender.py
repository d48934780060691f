"""One attempt at an adapter whose own store is away: whose fault it is, and what becomes of the message."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from channels.contract import Capabilities
from channels.errors import LocalFault, LocalOutcomeUnknown, RecipientUnreachable
from channels.messages import Address, Channel, OutboundMessage, Receipt
from channels.tools import AdapterStore
from health.report import EndpointId, Verdict
from router.domain.conversation import Binding, Message, MessageState
from router.planner import Planner
from router.runtime import open_runtime
from router.sender import Sender
from router.settings import Settings
from router.store.adapter_store import RedisAdapterStore
from router.store.connecting import connect
from router.store.redis import Pipelined, StoreUnavailable
from router.store.store import Store

START = 1_790_000_000.0
MAIL, SMS = EndpointId("email/acme"), EndpointId("sms/other")
MAILBOX, NUMBER = Address(Channel.EMAIL, "dana@customer.test"), Address(Channel.SMS, "+12025550123")


class VirtualClock:
    """Time that moves only when told to."""

    at = START

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(f"somebody waits {seconds} s on a clock that nobody moves")


@dataclass
class Vendor:
    """An endpoint that keeps something in its store before it speaks, as a call does, or after."""

    capabilities: Capabilities
    store: AdapterStore | None = None
    raises_after: Exception | None = None
    nobody_there: bool = False
    taken: list[OutboundMessage] = field(default_factory=list)
    tries: int = 0

    async def send(self, message: OutboundMessage) -> Receipt:
        self.tries += 1
        if self.nobody_there:
            raise RecipientUnreachable("no_such_user", "nobody has this address")
        if self.store is not None:
            await self.store.put("say", "words", 60.0)
        self.taken.append(message)
        if self.raises_after is not None:
            raise self.raises_after
        return Receipt((f"x{len(self.taken)}",))

    async def probe(self) -> None:
        """Nothing is asked."""

    async def close(self) -> None:
        """Nothing is held."""


@dataclass
class Desk:
    """A dispatcher in steps, and one conversation by mail."""

    runtime: Any
    clock: VirtualClock
    vendors: dict[EndpointId, Vendor]
    customer: str = ""
    message: str = ""

    def __post_init__(self) -> None:
        core = self.runtime.core
        self.planner = Planner(core, asyncio.Event())
        self.senders = [
            Sender(core, one, vendor, self.runtime.desk, "dispatch-1", 8)  # type: ignore[arg-type]
            for one, vendor in self.vendors.items()
        ]

    async def open(self, *places: Address) -> str:
        """A conversation with its first message queued."""
        bindings = [Binding(place, verified=True, order=order) for order, place in enumerate(places)]
        made = await self.runtime.switchboard.create_customer(name="Dana", locale="en", bindings=bindings)
        said = {"author": "a0-1", "author_name": "Ada", "idempotency_key": "k1"}
        sent = await self.runtime.switchboard.open_conversation(made.id, subject="Order", text="Hello.", **said)
        self.customer, self.message = made.id, sent.message_id
        return str(sent.conversation_id)

    async def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            self.clock.at += 0.25
            for sender in self.senders:
                leased = await self.runtime.core.store.lease(sender.endpoint, "dispatch-1", 100, sender.terms)
                await asyncio.gather(*(sender._work_on(one, self.clock.at) for one in leased))
            await self.planner.step(0)

    async def said(self) -> Message:
        found = await self.runtime.switchboard.message(self.message)
        assert isinstance(found, Message)
        return found

    async def verdicts(self) -> list[Verdict]:
        await self.runtime.desk.flush()
        return [one.verdict for _, one in await self.runtime.board.read_evidence("0-0", 100)]


@pytest.fixture
async def desk(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    """A mail and an SMS endpoint."""
    clock = VirtualClock()
    vendors = {
        MAIL: Vendor(Capabilities(Channel.EMAIL, "acme", 100_000, 5.0)),
        SMS: Vendor(Capabilities(Channel.SMS, "other", 1_000, 5.0)),
    }
    monkeypatch.setattr("router.runtime._adapters", lambda *_: vendors)
    settings = Settings(redis_url=redis_url, data_dir=tmp_path, secret="s" * 40)
    async with open_runtime(settings, "dispatch", clock=clock) as runtime:
        runtime.core.store = Store(runtime.core.store.redis, now_ms=lambda: round(clock.at * 1000))
        yield Desk(runtime, clock, vendors)


async def test_a_store_that_is_away_is_our_fault_in_the_adapters_words() -> None:
    """Every call of it; a Redis that nobody runs answers none."""
    store = RedisAdapterStore(Pipelined(connect("redis://127.0.0.1:1")), MAIL)
    calls = (
        *(store.get("k"), store.put("k", "v", 1.0), store.add("k", "v", 1.0), store.delete("k")),
        *(store.collect("k", 1, "v", 1.0), store.append("k", "v", 1.0), store.read_after("k", 0, 1)),
    )
    for call in calls:
        with pytest.raises(LocalFault):
            await call


async def test_what_failed_before_anything_was_said_is_due_again_and_held_against_nobody(desk: Desk) -> None:
    """The adapter's store is away, the vendor was not asked: no failure, no flag, said once when it is back."""
    await desk.open(MAILBOX)
    mail = desk.vendors[MAIL]
    mail.store = RedisAdapterStore(Pipelined(connect("redis://127.0.0.1:1")), MAIL)
    await desk.pass_time(3)
    assert mail.tries > 1
    assert mail.taken == []
    waiting = await desk.said()
    assert (waiting.state, waiting.possible_duplicate, waiting.reason) == (MessageState.QUEUED, False, "local_fault")
    assert await desk.verdicts() == []
    mail.store = None
    await desk.pass_time(2)
    assert len(mail.taken) == 1
    said = await desk.said()
    assert (said.state, said.possible_duplicate) == (MessageState.SENT, False)
    assert await desk.verdicts() == [Verdict.OK]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(LocalOutcomeUnknown("not kept"), "local_fault"), (StoreUnavailable("no answer"), "adapter_fault")],
)
async def test_a_fault_of_ours_when_it_may_have_been_taken_is_unknown(
    desk: Desk, error: Exception, reason: str
) -> None:
    """Flagged before it goes out again, and held against nobody either; so is one that says nothing of when it was."""
    await desk.open(MAILBOX)
    desk.vendors[MAIL].raises_after = error
    await desk.pass_time(1)
    unsure = await desk.said()
    assert (unsure.state, unsure.possible_duplicate) == (MessageState.UNKNOWN, True)
    assert unsure.reason == reason
    assert len(desk.vendors[MAIL].taken) == 1
    assert await desk.verdicts() == []
