"""Calls of one loop tick go to Redis together, and stay each other's strangers."""

import asyncio

import pytest
from redis.exceptions import DataError

from router.domain.conversation import SideName
from router.settling import Settling
from router.store.asked import Settlement


async def test_what_cannot_be_written_fails_alone(desk):
    """Half a surrogate pair in one caller's words must not lose what the others asked in the same moment."""
    call = desk.store.redis.call
    answers = await asyncio.gather(
        call("SET", "tl:one", "1"),
        call("SET", "tl:half", "\ud800"),
        call("SET", "tl:none", None),
        call("GET", "tl:one"),
        return_exceptions=True,
    )
    assert isinstance(answers[1], UnicodeEncodeError)
    assert isinstance(answers[2], DataError)
    assert bool(answers[0]) is True
    assert answers[3] == "1"


async def test_a_settlement_that_cannot_be_written_fails_alone_and_at_once(desk):
    """Whoever waited for it for ever would say nothing any more."""
    await desk.open()
    message = await desk.say("one")
    (leased,) = await desk.lease()
    settling = Settling(desk.store)

    def came_to(reason: str) -> Settlement:
        return Settlement(desk.conversation, SideName.CUSTOMER, message, leased.number, leased.fence, "sent", reason)

    async with asyncio.timeout(5):
        answers = await asyncio.gather(
            settling.settle(0, came_to("\ud800")), settling.settle(0, came_to("")), return_exceptions=True
        )
    assert isinstance(answers[0], UnicodeEncodeError)
    assert answers[1] == "ok"
    assert await desk.state(message) == "sent"


async def test_nobody_is_left_waiting_by_an_answer_that_is_no_text(desk):
    await desk.store.redis.client.set("tl:octets", b"\xff")
    with pytest.raises(ValueError, match="utf-8"):
        async with asyncio.timeout(5):
            await desk.store.redis.call("GET", "tl:octets")
