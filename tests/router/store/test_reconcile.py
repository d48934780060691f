"""Whatever takes a side out of its due set, the reconciler puts it back, and leaves what is sound alone."""

import pytest

from health.report import EndpointId
from router.domain.conversation import SideName
from router.reconciler import Reconciler
from router.store.asked import Park

MAIL = EndpointId("email/support")
SMS = EndpointId("sms/acme")


@pytest.fixture
def reconciler(desk):
    """The walk, on the desk's store; the loop around it is not needed."""
    return Reconciler(desk.store, None)


async def repairs(desk):
    return [row for _, row in await desk.store.journal_last(0, 100) if row["k"] == "repair.made"]


async def redis(desk, *command):
    return await desk.store.redis.call(*command)


def side(desk):
    return f"tl:{{s0}}:s:{desk.conversation}:c"


def due(endpoint):
    return f"tl:{{s0}}:d:{endpoint}"


def lose_due_set(desk):
    return [("DEL", due(MAIL))]


def forget_place(desk):
    return [("ZREM", due(MAIL), f"{desk.conversation}:c"), ("HDEL", side(desk), "dp")]


def name_another(desk):
    return [("HSET", side(desk), "dp", SMS)]


def stand_elsewhere(desk):
    member = f"{desk.conversation}:c"
    return [("ZREM", due(MAIL), member), ("ZADD", due(SMS), 0, member), ("HSET", side(desk), "dp", SMS)]


def put_off(desk):
    return [("ZADD", due(MAIL), desk.clock[0] + 3_600_000, f"{desk.conversation}:c")]


@pytest.mark.parametrize("breakage", [lose_due_set, forget_place, name_another, stand_elsewhere, put_off])
async def test_a_side_with_work_is_due_again_whatever_took_it_away(desk, reconciler, breakage):
    await desk.open()
    message = await desk.say("On its way.")
    for command in breakage(desk):
        await redis(desk, *command)
    assert await desk.lease() == [], "nobody finds it"
    assert await reconciler.step() == 1
    (leased,) = await desk.lease()
    assert leased.message_id == message
    assert await repairs(desk)
    assert await desk.lease(SMS) == [] and await redis(desk, "ZCARD", due(SMS)) == 0


async def test_a_parked_side_goes_back_among_those_that_need_a_route(desk, reconciler):
    await desk.open()
    await desk.say("On its way.")
    await desk.store.rebind(0, [Park(desk.conversation, SideName.CUSTOMER, 1, 60, "nothing_up")])
    await redis(desk, "DEL", due("@plan"))
    assert await reconciler.step() == 1
    desk.advance(61)
    assert [facts.why for facts in await desk.store.plan(0, 10)] == ["nothing_up"]


async def test_a_side_that_says_it_is_due_and_has_nothing_to_do_is_let_off(desk, reconciler):
    await desk.open()
    await redis(desk, "HSET", side(desk), "dp", MAIL)
    await redis(desk, "ZADD", due(MAIL), 0, f"{desk.conversation}:c")
    assert await reconciler.step() == 1
    assert await redis(desk, "ZCARD", due(MAIL)) == 0


async def test_an_attempt_is_ended_only_long_after_its_deadline_and_its_message_is_flagged(desk, reconciler):
    await desk.open()
    message = await desk.say("On its way.")
    (leased,) = await desk.lease()
    await redis(desk, "DEL", due(MAIL))
    desk.advance(30)
    assert await reconciler.step() == 1 and await desk.state(message) == "sending", "placed again, not taken away"
    desk.advance(60)
    assert await reconciler.step() == 1
    found = await desk.store.message(message)
    assert (found.state, found.possible_duplicate) == ("unknown", True)
    assert await desk.settle(leased, "sent") == "late"


async def test_closed_conversations_and_those_that_nobody_can_match_are_walked_too(desk, reconciler):
    await desk.open()
    await desk.say("On its way.")
    await desk.store.close(desk.conversation)
    await redis(desk, "DEL", due(MAIL))
    assert await reconciler.step() == 1
    hidden = desk.fresh("h")
    await redis(desk, "ZADD", "tl:{s0}:hidden", 1, hidden)
    await redis(desk, "HSET", f"tl:{{s0}}:s:{hidden}:c", "e", 1, "f", 0, "ep", MAIL, "ad", "email:x@example.org")
    await redis(desk, "RPUSH", f"tl:{{s0}}:q:{hidden}:c", desk.fresh("m"))
    assert await reconciler.step() == 1


async def test_a_round_sees_everybody_a_small_part_at_a_time_while_they_write(desk, reconciler):
    members = []
    for _ in range(300):
        members.append(await desk.open())
        await desk.say("On its way.")
    await redis(desk, "DEL", due(MAIL))
    steps = mended = 0
    while mended < 300:
        before = mended
        mended += await reconciler.step()
        steps += 1
        desk.conversation = members[steps]
        await desk.hear("Hello?")
        assert steps < 100 and mended - before < 150, "in parts, and within a round"
    assert await redis(desk, "ZCARD", due(MAIL)) == 300


async def test_on_a_sound_and_busy_store_nothing_is_repaired(desk, reconciler):
    """Every kind of state a side can be in, looked at after each step."""
    outcomes = ("sent", "unknown", "unavailable", "throttled", "rejected", "delivered", "returned", "unreachable")
    for turn, outcome in enumerate(outcomes):
        await desk.open(place=f"email:customer{turn}@example.org")
        await desk.say("one", expires_in=600)
        await desk.say("two")
        assert await reconciler.step() == 0
        for leased in await desk.lease(count=100):
            assert await reconciler.step() == 0
            await desk.settle(leased, outcome, retry_after_s=7)
            assert await reconciler.step() == 0
        if turn % 2:
            await desk.move()
        if turn % 3 == 0:
            await desk.store.close(desk.conversation)
        await desk.store.plan(0, 100)
        desk.advance(9)
        assert await reconciler.step() == 0
    for _ in range(30):
        for endpoint in (MAIL, SMS):
            for leased in await desk.lease(endpoint, count=3):
                await desk.settle(leased, "unknown" if leased.fence % 3 else "sent")
                assert await reconciler.step() == 0
        await desk.store.plan(0, 100)
        assert await reconciler.step() == 0
        desk.advance(11)
    assert await repairs(desk) == []
