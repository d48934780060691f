"""The planner: what rings is looked at, and whoever moves is told why."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest

from channels.contract import Capabilities
from channels.messages import Address, Channel
from health.records import StatusRecord
from health.report import Direction, EndpointId, Status
from router import planner as planners
from router.domain.conversation import Binding, SideName
from router.planner import Planner
from router.store.asked import Park

MAIL, SMS = EndpointId("email/support"), EndpointId("sms/acme")
ANN = [
    Binding(Address(Channel.EMAIL, "ann@example.org"), verified=True),
    Binding(Address(Channel.SMS, "+12025550101"), verified=True, order=1),
]


@dataclass
class Vendor:
    """An endpoint that nobody speaks to here."""

    capabilities: Capabilities

    async def close(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize(
    ("down", "why", "told"),
    [
        ({Direction.OUT}, "paced", "failover"),
        ({Direction.IN}, "no_route", "inbound_down"),
        ({Direction.OUT}, "undelivered", "undelivered"),
        (set(), "paced", None),
    ],
)
async def test_what_waited_for_its_turn_moves_for_what_it_waited_to_leave(
    open_over: Callable[..., Any],
    down: set[Direction],
    why: str,
    told: str | None,
) -> None:
    """The customer is told what happened to the channel, not what happened in our queue; back home, nothing."""
    vendors = {
        MAIL: Vendor(Capabilities(Channel.EMAIL, "acme", 100_000, 5.0)),
        SMS: Vendor(Capabilities(Channel.SMS, "other", 1_000, 5.0)),
    }
    clock = [int(time.time() * 1000)]
    async with open_over(vendors, "dispatch") as runtime:
        core = runtime.core
        customer = await runtime.switchboard.create_customer(name="Ann", locale="en", bindings=ANN)
        said = {"author": "a0-1", "author_name": "Ada", "idempotency_key": "one"}
        opened = await runtime.switchboard.open_conversation(customer.id, subject="", text="Hello", **said)
        side = await core.store.side(opened.conversation_id, SideName.CUSTOMER)
        assert side is not None and side.leg.endpoint == MAIL
        now = core.clock.now()
        statuses = [
            StatusRecord(MAIL, direction, Status.DOWN, now, "refused", "", written_at=now) for direction in down
        ]
        await core.board.commit(statuses=statuses)
        core.forget_views()
        core.store._now_ms = lambda: clock[0]
        park = Park(opened.conversation_id, SideName.CUSTOMER, side.epoch, 1.0, why)
        assert await core.store.rebind(0, [park]) == ["ok"]
        clock[0] += 2_000
        assert await Planner(core, asyncio.Event()).step(0) == 1
        legs = await core.store.legs(opened.conversation_id, SideName.CUSTOMER)
        moved = next((leg["r"] for leg in legs if leg["ep"] == SMS), None)
        assert moved == told


async def test_a_bell_that_rings_while_it_looks_is_looked_at_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """What became due after the look, and before its answer, does not wait for the next time it looks by itself."""
    monkeypatch.setattr(planners, "POLL_S", 60.0)
    bell, looks, again = asyncio.Event(), 0, asyncio.Event()

    async def look(_self: Planner, _shard: int) -> int:
        nonlocal looks
        looks += 1
        if looks == 1:
            bell.set()
        else:
            again.set()
        return 0

    monkeypatch.setattr(Planner, "step", look)
    running = asyncio.create_task(Planner(cast(Any, SimpleNamespace(store=SimpleNamespace(shards=1))), bell).run())
    try:
        async with asyncio.timeout(1):
            await again.wait()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
