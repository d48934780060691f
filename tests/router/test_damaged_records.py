"""One record that nobody can read: it stays where it is, is told of, and holds up nobody else."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from channels.contract import Capabilities
from channels.messages import Address, Channel, OutboundMessage, Receipt
from health.report import EndpointId
from router.dispatcher import Dispatcher
from router.domain.conversation import Binding, SideName
from router.mover import Mover
from router.pace import Pace
from router.planner import Planner
from router.runtime import Runtime
from router.store.asked import LeaseTerms, Settlement
from router.supervisor import Supervisor
from router.switchboard import Sent

MAIL, SMS = EndpointId("email/acme"), EndpointId("sms/other")
TERMS = LeaseTerms(lease_s=8.0, hold_s={"normal": 60.0}, idempotent=False, attempts_max=3)


@dataclass
class Vendor:
    """An endpoint that takes everything."""

    capabilities: Capabilities
    taken: list[OutboundMessage] = field(default_factory=list)

    async def send(self, message: OutboundMessage) -> Receipt:
        self.taken.append(message)
        return Receipt((f"x{len(self.taken)}",))

    async def probe(self) -> None:
        """Nothing is asked."""

    async def close(self) -> None:
        """Nothing is held."""


@dataclass
class Desk:
    """A router over two vendors."""

    runtime: Runtime
    vendors: dict[EndpointId, Vendor]

    async def open(self, name: str, *places: Address) -> Sent:
        """A conversation with somebody, its first message queued."""
        bindings = [Binding(place, verified=True, order=order) for order, place in enumerate(places)]
        made = await self.runtime.switchboard.create_customer(name=name, locale="en", bindings=bindings)
        said = {"author": "a0-1", "author_name": "Ada", "idempotency_key": name}
        return await self.runtime.switchboard.open_conversation(made.id, subject="Order", text=name, **said)

    async def damage(self, kind: str, identity: str, name: str, value: str) -> None:
        """Write into a record what no version of ours writes."""
        await self.runtime.store.redis.call("HSET", f"tl:{{s0}}:{kind}:{identity}", name, value)

    async def customer_of(self, sent: Sent) -> str:
        found = await self.runtime.store.conversation(sent.conversation_id)
        assert found is not None
        return found.customer_id

    async def endpoint_of(self, sent: Sent) -> str:
        side = await self.runtime.store.side(sent.conversation_id, SideName.CUSTOMER)
        assert side is not None
        return side.leg.endpoint


@pytest.fixture
async def desk(open_over: Any) -> AsyncIterator[Desk]:
    """A mail and an SMS endpoint, and the real clock."""
    vendors = {
        MAIL: Vendor(Capabilities(Channel.EMAIL, "acme", 100_000, 5.0)),
        SMS: Vendor(Capabilities(Channel.SMS, "other", 1_000, 5.0)),
    }
    async with open_over(vendors, "dispatch") as runtime:
        yield Desk(runtime, vendors)


@contextlib.asynccontextmanager
async def running(work: Awaitable[None]) -> AsyncIterator[asyncio.Future[None]]:
    """Something that runs until it is told to stop."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def becomes_true(fact: Callable[[], bool], task: "asyncio.Future[None]") -> None:
    async with asyncio.timeout(8):
        while not fact():
            assert not task.done(), task
            await asyncio.sleep(0.02)


def mailbox(name: str) -> Address:
    return Address(Channel.EMAIL, f"{name}@customer.test")


def number(last: int) -> Address:
    return Address(Channel.SMS, f"+1202555010{last}")


async def test_what_was_leased_with_a_message_nobody_can_read_is_said_all_the_same(desk: Desk) -> None:
    """Or all of it would be in doubt when the lease runs out, again and again."""
    broken = await desk.open("broken", mailbox("ann"))
    await desk.open("sound", mailbox("bob"))
    await desk.damage("m", broken.message_id, "cl", "whispered")
    leased = await desk.runtime.store.lease(MAIL, "w", 10, TERMS)
    assert [one.content.text for one in leased] == ["sound"]


async def test_a_side_that_a_script_stumbles_over_stops_no_other_endpoint(desk: Desk) -> None:
    """The dispatcher lives on: whatever its other endpoints have to say is said."""
    broken = await desk.open("broken", mailbox("ann"))
    await desk.damage("s", f"{broken.conversation_id}:c", "nd", "{")
    dispatcher = Dispatcher(desk.runtime.core, desk.runtime.switchboard, desk.vendors, desk.runtime.desk, "dispatch-1")
    async with running(dispatcher.run()) as task:
        await desk.open("one", number(1))
        await becomes_true(lambda: len(desk.vendors[SMS].taken) == 1, task)
        await desk.open("two", number(2))
        await becomes_true(lambda: len(desk.vendors[SMS].taken) == 2, task)


async def test_one_side_without_a_readable_person_does_not_keep_the_others_from_a_route(desk: Desk) -> None:
    planned = [await desk.open(name, mailbox(name), number(last)) for last, name in enumerate(("ann", "bob"))]
    for one in await desk.runtime.store.lease(MAIL, "w", 10, TERMS):
        refused = Settlement(one.conversation_id, one.side, one.message_id, one.number, one.fence, "rejected")
        await desk.runtime.store.settle(0, [refused])
    await desk.damage("bd", await desk.customer_of(planned[0]), str(mailbox("ann")), "{")
    await Planner(desk.runtime.core, asyncio.Event()).step(0)
    assert [await desk.endpoint_of(one) for one in planned] == [MAIL, SMS]


async def test_one_side_without_a_readable_person_does_not_keep_the_others_where_nothing_works(desk: Desk) -> None:
    moved = [await desk.open(name, mailbox(name), number(last)) for last, name in enumerate(("ann", "bob"))]
    await desk.damage("bd", await desk.customer_of(moved[0]), str(mailbox("ann")), "{")
    await desk.runtime.switchboard.start_failover(scope=[MAIL], target=None, who="ops", why="test", expires_in_s=60)
    mover = Mover(desk.runtime.core, Pace(desk.runtime.core.capabilities))
    await mover.lead_away(MAIL, await desk.runtime.core.views(), evidence="test", inbound_only=False)
    assert [await desk.endpoint_of(one) for one in moved] == [MAIL, SMS]


async def test_a_step_that_breaks_does_not_end_the_supervisor(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on writing gates, and steps again."""
    supervisor = Supervisor(desk.runtime.core, desk.vendors, desk.runtime.desk, "supervise-1")
    steps = 0

    async def break_first(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps < 3:
            raise KeyError("nobody thought of this")

    monkeypatch.setattr(Supervisor, "step", break_first)
    async with running(supervisor.run()) as task:
        await becomes_true(lambda: steps > 3, task)


async def test_a_side_that_a_script_stumbles_over_keeps_no_other_where_nothing_works(desk: Desk) -> None:
    moved = [await desk.open(name, mailbox(name), number(last)) for last, name in enumerate(("ann", "bob"))]
    await desk.damage("s", f"{moved[0].conversation_id}:c", "nd", "{")
    await desk.runtime.switchboard.start_failover(scope=[MAIL], target=None, who="ops", why="test", expires_in_s=60)
    mover = Mover(desk.runtime.core, Pace(desk.runtime.core.capabilities))
    await mover.lead_away(MAIL, await desk.runtime.core.views(), evidence="test", inbound_only=False)
    assert [await desk.endpoint_of(one) for one in moved] == [MAIL, SMS]


async def test_a_side_that_a_script_stumbles_over_waits_alone(desk: Desk) -> None:
    """At its own endpoint, and among those that wait for a route."""
    broken, sound = [await desk.open(name, mailbox(name), number(last)) for last, name in enumerate(("ann", "bob"))]
    await desk.damage("s", f"{broken.conversation_id}:c", "nd", "{")
    (leased,) = await desk.runtime.store.lease(MAIL, "w", 10, TERMS)
    assert leased.message_id == sound.message_id
    refused = Settlement(leased.conversation_id, leased.side, leased.message_id, 1, leased.fence, "rejected")
    await desk.runtime.store.settle(0, [refused])
    await desk.runtime.store.redis.call("ZADD", "tl:{s0}:d:@plan", 1, f"{broken.conversation_id}:c")
    await Planner(desk.runtime.core, asyncio.Event()).step(0)
    assert await desk.endpoint_of(sound) == SMS


async def test_where_it_would_go_is_not_told_of_whom_nobody_can_read(desk: Desk) -> None:
    """The agents' screen shows the conversation all the same."""
    opened = await desk.open("ann", mailbox("ann"))
    view = await desk.runtime.switchboard.conversation(opened.conversation_id)
    assert await desk.runtime.switchboard.next_leg(view) is not None
    await desk.damage("bd", await desk.customer_of(opened), str(mailbox("ann")), "{")
    assert await desk.runtime.switchboard.next_leg(view) is None
