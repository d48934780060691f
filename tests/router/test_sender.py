"""One attempt at an adapter whose own store is away: whose fault it is, and what becomes of the message."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from channels.contract import Capabilities
from channels.errors import LocalFault, LocalOutcomeUnknown, RecipientUnreachable
from channels.messages import Address, Channel, OutboundMessage, Receipt
from channels.tools import AdapterStore
from health.report import EndpointId, Verdict
from router.domain.conversation import Binding, Message, MessageState
from router.planner import Planner
from router.sender import Sender
from router.store.adapter_store import RedisAdapterStore
from router.store.connecting import connect
from router.store.redis import Pipelined, StoreUnavailable
from router.store.store import Store
from tests.clocks import StillClock

MAIL, SMS = EndpointId("email/acme"), EndpointId("sms/other")
MAILBOX, NUMBER = Address(Channel.EMAIL, "dana@customer.test"), Address(Channel.SMS, "+12025550123")


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
    clock: StillClock
    vendors: dict[EndpointId, Vendor]
    customer: str = ""
    message: str = ""

    def __post_init__(self) -> None:
        core = self.runtime.core
        self.planner = Planner(core, asyncio.Event())
        self.senders = [
            Sender(core, one, vendor, self.runtime.desk, "dispatch-1", 8) for one, vendor in self.vendors.items()
        ]

    async def open(self, *places: Address) -> str:
        """A conversation with its first message queued."""
        bindings = [Binding(place, verified=True, order=order) for order, place in enumerate(places)]
        made = await self.runtime.switchboard.create_customer(name="Dana", locale="en", bindings=bindings)
        said = {"author": "a0-1", "author_name": "Ada", "idempotency_key": "k1"}
        sent = await self.runtime.switchboard.open_conversation(made.id, subject="Order", text="Hello.", **said)
        self.customer, self.message = made.id, sent.message_id
        return str(sent.conversation_id)

    async def say(self, text: str) -> None:
        """The agent writes."""
        conversation = (await self.said()).conversation_id
        said = {"author": "a0-1", "author_name": "Ada", "idempotency_key": text}
        self.message = (await self.runtime.switchboard.send(conversation, text=text, **said)).message_id

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
        return [one.verdict for _, pieces in await self.runtime.board.read_evidence("0-0", 100) for one in pieces]


@pytest.fixture
async def desk(open_over: Any) -> AsyncIterator[Desk]:
    """A mail and an SMS endpoint."""
    clock = StillClock()
    vendors = {
        MAIL: Vendor(Capabilities(Channel.EMAIL, "acme", 100_000, 5.0)),
        SMS: Vendor(Capabilities(Channel.SMS, "other", 1_000, 5.0)),
    }
    async with open_over(vendors, "dispatch", clock=clock) as runtime:
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


async def test_a_notice_that_finds_nobody_leads_the_conversation_on_as_a_message_does(desk: Desk) -> None:
    """One try at the dead number: the binding is marked, and what waits goes where the customer can be reached."""
    conversation = await desk.open(MAILBOX, NUMBER)
    await desk.pass_time(1)
    desk.vendors[SMS].nobody_there = True
    await desk.runtime.switchboard.move_customer_side(conversation, endpoint=SMS, who="a0-1", why="asked for")
    await desk.say("Are you there?")
    await desk.pass_time(2)
    assert desk.vendors[SMS].tries == 1
    assert [one.content.text for one in desk.vendors[MAIL].taken if one.kind == "message"][1:] == ["Are you there?"]
    customer = await desk.runtime.switchboard.customer(desk.customer)
    marked = {one.address: one.unreachable_until > desk.clock.at for one in customer.bindings}
    assert marked == {MAILBOX: False, NUMBER: True}


async def test_a_notice_that_finds_nobody_anywhere_ends_and_so_does_what_waits(desk: Desk) -> None:
    """No other address is left: the agent is told at once, nothing is tried again and again."""
    conversation = await leave_only_a_dead_number(desk)
    await desk.say("Are you there?")
    await desk.pass_time(5)
    said = await desk.said()
    assert (said.state, said.reason) == (MessageState.FAILED, "unreachable")
    assert desk.vendors[SMS].tries == 1
    side = (await desk.runtime.switchboard.conversation(conversation)).customer_side
    assert (side.queued, side.notice_due) == (0, False)


async def test_a_notice_alone_that_finds_nobody_ends_visibly(desk: Desk) -> None:
    """Nothing waits behind it: it has failed, once."""
    conversation = await leave_only_a_dead_number(desk)
    await desk.pass_time(5)
    side = (await desk.runtime.switchboard.conversation(conversation)).customer_side
    assert not side.notice_due
    told = [one for one in await desk.runtime.switchboard.transcript(conversation) if one.kind == "notice"]
    assert [(one.state, one.reason) for one in told] == [(MessageState.FAILED, "unreachable")]
    assert desk.vendors[SMS].tries == 1


async def leave_only_a_dead_number(desk: Desk) -> str:
    """A conversation that moves from mail, which the customer takes back, to a number that nobody has."""
    conversation = await desk.open(MAILBOX, NUMBER)
    await desk.pass_time(1)
    desk.vendors[SMS].nobody_there = True
    await desk.runtime.switchboard.move_customer_side(conversation, endpoint=SMS, who="a0-1", why="asked for")
    await desk.runtime.switchboard.remove_binding(desk.customer, MAILBOX)
    return conversation


@pytest.mark.parametrize("mail", ["dead", "refused"])
async def test_an_address_is_marked_once_and_not_for_longer_with_each_look(desk: Desk, mail: str) -> None:
    """What waits is looked at again and again; once the customer says that the number is right, it is used."""
    conversation = await desk.open(MAILBOX, NUMBER)
    await desk.pass_time(1)
    for vendor in desk.vendors.values():
        vendor.nobody_there = True
    await desk.runtime.switchboard.move_customer_side(conversation, endpoint=SMS, who="a0-1", why="asked for")
    if mail == "refused":
        refused = Binding(MAILBOX, verified=True, consent=False)
        await desk.runtime.switchboard.set_binding(desk.customer, refused)
    await desk.say("Are you there?")
    await desk.pass_time(2)
    assert (await desk.said()).state is MessageState.PARKED
    first = await marks(desk)
    assert set(first) == {NUMBER, *([MAILBOX] if mail == "dead" else [])}
    await desk.pass_time(70)
    assert await marks(desk) == first
    assert desk.vendors[SMS].tries == 1
    desk.vendors[SMS].nobody_there = False
    await desk.runtime.switchboard.set_binding(desk.customer, Binding(NUMBER, verified=True))
    await desk.pass_time(1)
    heard = [one.content.text for one in desk.vendors[SMS].taken if one.kind == "message"]
    assert len(heard) == 1
    assert heard[0].startswith("Are you there?")


async def marks(desk: Desk) -> dict[Address, float]:
    """Which of the customer's addresses are unreachable, until when."""
    bindings = (await desk.runtime.switchboard.customer(desk.customer)).bindings
    return {one.address: one.unreachable_until for one in bindings if one.unreachable_until > desk.clock.at}


async def test_a_lease_whose_answer_was_lost_is_asked_for_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its message would wait for the end of an attempt that nobody makes: 73 s at a mail server, and a flag."""
    await desk.open(MAILBOX)
    await desk.planner.step(0)
    store, sender, lost = desk.runtime.core.store, desk.senders[0], []
    lease, sender._idle = store.lease, 8

    async def lose_the_first(*arguments: Any, **named: Any) -> Any:
        leased = await lease(*arguments, **named)
        if leased and not lost:
            lost.extend(leased)
            raise StoreUnavailable("its answer was cut off")
        return leased

    monkeypatch.setattr(store, "lease", lose_the_first)
    desk.clock.at += 1.0
    with pytest.raises(StoreUnavailable):
        await sender._lease(0)
    for _ in range(3):
        desk.clock.at += 1.5
        await sender._lease(0)
        while not sender._work.empty():
            await sender._work_on(*sender._work.get_nowait())
    assert [one.message_id for one in lost] == [desk.message]
    said = await desk.said()
    assert (said.state, said.possible_duplicate) == (MessageState.SENT, False)
    assert len(desk.vendors[MAIL].taken) == 1
