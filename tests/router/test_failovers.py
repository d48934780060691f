"""Forced failovers as they are kept: what still holds stays listed, however many there were after it."""

import pytest

from health.report import EndpointId
from router.domain.failover import ForcedFailover
from router.failovers import dump_failover
from router.operations import ACTIVE_MAX
from router.runtime import Runtime
from router.store.control import FAILOVERS_OVER_MAX
from router.switchboard import Conflict

MAIL, SMS = EndpointId("email/sandbox"), EndpointId("sms/sandbox")


async def keep(runtime: Runtime, number: int, *, holds: bool = False) -> None:
    """One that began in the order of its number, and holds or is over."""
    now = runtime.clock.now()
    started_at, expires_at = now - 3600 + number, now + 3600 if holds else now - 1
    one = ForcedFailover(f"f0-{number:04}", frozenset([MAIL]), None, "Olga", "Works", started_at, expires_at)
    await runtime.core.control.save_failover(one.id, dump_failover(one))


async def start(runtime: Runtime) -> ForcedFailover:
    """Lead away from mail for an hour."""
    return await runtime.switchboard.start_failover(
        scope=[MAIL], target=SMS, who="Olga", why="Works", expires_in_s=3600
    )


async def test_the_oldest_stays_listed_while_it_holds_however_many_are_over(runtime: Runtime) -> None:
    """Off the list it would end unseen: traffic would go back, and nobody could stop what is not shown."""
    await keep(runtime, 0, holds=True)
    for number in range(1, FAILOVERS_OVER_MAX + 4):
        await keep(runtime, number)
    for _ in range(2):
        listed = await runtime.switchboard.failovers(active_only=False)
        assert [one.id for one in listed[-2:]] == ["f0-0004", "f0-0000"], "the oldest that are over fall off"
        assert len(listed) == FAILOVERS_OVER_MAX + 1
    assert [one.id for one in await runtime.switchboard.failovers()] == ["f0-0000"]
    assert {one.forced for one in await runtime.switchboard.endpoints() if one.id == MAIL} == {"down"}
    assert (await runtime.switchboard.stop_failover("f0-0000", "Olga")).ended_at


async def test_a_hundred_at_once_are_enough(runtime: Runtime) -> None:
    """The next one is refused, and says so; where one is stopped there is room again."""
    for number in range(ACTIVE_MAX):
        await keep(runtime, number, holds=True)
    with pytest.raises(Conflict, match="100 forced failovers hold already"):
        await start(runtime)
    assert len(await runtime.switchboard.failovers()) == ACTIVE_MAX
    await runtime.switchboard.stop_failover("f0-0000", "Olga")
    assert (await start(runtime)).target == SMS
