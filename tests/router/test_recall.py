"""What an endpoint took and lost is said again, whoever supervises by then."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from channels.contract import Capabilities
from channels.messages import Address, Channel, OutboundMessage, Receipt
from health.records import StatusRecord
from health.report import Direction, EndpointId, Evidence, Status, Transition, Verdict, Witness
from router.domain.conversation import Binding
from router.mover import Mover
from router.pace import Pace
from router.runtime import Runtime
from router.store.asked import LeaseTerms, Settlement
from router.supervisor import Supervisor

SMS = EndpointId("sms/acme")
TERMS = LeaseTerms(lease_s=8.0, hold_s={"normal": 60.0}, idempotent=False, attempts_max=3)


@dataclass
class Vendor:
    """An endpoint that takes everything and promises receipts."""

    capabilities: Capabilities

    async def send(self, message: OutboundMessage) -> Receipt:
        return Receipt(("x1",))

    async def probe(self) -> None:
        """Nothing is asked."""

    async def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
async def runtime(open_over: Any) -> AsyncIterator[Runtime]:
    """One SMS endpoint."""
    vendors = {SMS: Vendor(Capabilities(Channel.SMS, "acme", 1_000, 5.0, receipts=True))}
    async with open_over(vendors, "supervise") as runtime:
        yield runtime


async def sent(runtime: Runtime, name: str) -> str:
    """A message that the endpoint took, and gave no receipt for."""
    binding = Binding(Address(Channel.SMS, "+12025550101"), verified=True)
    customer = await runtime.switchboard.create_customer(name=name, locale="en", bindings=[binding])
    said = {"author": "a0-1", "author_name": "Ada", "idempotency_key": name}
    opened = await runtime.switchboard.open_conversation(customer.id, subject="", text="Hello", **said)
    (leased,) = await runtime.store.lease(SMS, "dispatch-1", 1, TERMS)
    settlement = Settlement(
        leased.conversation_id,
        leased.side,
        leased.message_id,
        leased.number,
        leased.fence,
        "sent",
        receipt_within_s=3600.0,
    )
    assert await runtime.store.settle(0, [settlement]) == ["ok"]
    return opened.message_id


def supervisor(runtime: Runtime, name: str) -> Supervisor:
    return Supervisor(runtime.core, runtime.adapters, runtime.desk, name)


async def test_of_an_older_outage_nothing_is_recalled_again(runtime: Runtime) -> None:
    """What somebody forced through it since then may well arrive: each restart would say it twice."""
    message_id, now = await sent(runtime, "ann"), runtime.clock.now()
    next_one = supervisor(runtime, "supervise-2")
    next_one.make_monitor()
    for hours, state in ((2, "sent"), (0, "unknown")):
        words = "A message that we sent to ourselves did not arrive."
        record = StatusRecord(SMS, Direction.OUT, Status.DOWN, now - hours * 3600, "canary_lost", words)
        await runtime.core.board.commit(statuses=[record])
        await next_one._resume_recalls()
        assert (await runtime.switchboard.message(message_id)).state == state


async def test_whoever_takes_over_recalls_what_was_lost_before(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor that took the endpoint down died before it recalled anything."""

    async def die(_self: Supervisor, transition: Transition) -> None:
        assert (transition.after, transition.reason) == (Status.DOWN, "canary_lost")
        raise RuntimeError("killed")

    message_id, now = await sent(runtime, "ann"), runtime.clock.now()
    lost = Evidence(SMS, Direction.OUT, Verdict.FAILURE, Witness.CANARY, now, reason="canary_lost")
    await runtime.core.board.record([lost, lost])
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(Supervisor, "_on_transition", die)
        await supervisor(runtime, "supervise-1").make_monitor().step(now)
    assert (await runtime.switchboard.message(message_id)).state == "sent"
    supervising = asyncio.create_task(supervisor(runtime, "supervise-2").run())
    try:
        async with asyncio.timeout(8):
            while (await runtime.switchboard.message(message_id)).state == "sent":
                await asyncio.sleep(0.05)
    finally:
        supervising.cancel()
        await asyncio.gather(supervising, return_exceptions=True)
    message = await runtime.switchboard.message(message_id)
    assert message.possible_duplicate, message


async def test_what_was_under_way_when_it_was_recalled_is_recalled_as_well(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sender settled it a moment after the first look: it is lost like the others."""
    longest_s = runtime.core.settings.dispatch.gate_s + runtime.core.capabilities[SMS].io_s
    monkeypatch.setattr("router.supervisor.RECALL_SLACK_S", -longest_s)  # it is settled by now
    master, pace = supervisor(runtime, "supervise-1"), Pace(runtime.core.capabilities)
    await master._recall_lost(SMS, runtime.clock.now())
    message_id = await sent(runtime, "ann")
    await master.step(master.make_monitor(), Mover(runtime.core, pace), pace)
    message = await runtime.switchboard.message(message_id)
    assert (message.state, message.possible_duplicate) == ("unknown", True)
