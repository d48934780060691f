"""What is said over the API while Redis is away: kept, in its order, once; or refused so that one can ask again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from channels.messages import Address, Channel
from router import spool as spools
from router.core import NotFound
from router.domain.conversation import Binding, Customer, MessageState
from router.runtime import Runtime, open_runtime
from router.settings import load_settings
from router.store.redis import StoreUnavailable
from router.switchboard import Sent


@pytest.fixture
async def runtime(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runtime]:
    """A web role's use cases with its spool; nobody empties it until told to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THROUGHLINE_REDIS_URL", redis_url)
    monkeypatch.setattr(spools, "LOOK_S", 0.02)
    async with open_runtime(load_settings(), "web") as opened:
        yield opened


@pytest.fixture
async def ann(runtime: Runtime) -> Customer:
    binding = Binding(Address(Channel.SMS, "+12025550177"), verified=True)
    return await runtime.switchboard.create_customer(name="Ann", locale="en", bindings=[binding])


async def begin(runtime: Runtime, customer_id: str, text: str = "Please look.", key: str = "one") -> Sent:
    return await runtime.switchboard.open_conversation(
        customer_id, subject="Recall", text=text, author="a", author_name="Bo", idempotency_key=key,
        channel=Channel.SMS, team="care",
    )  # fmt: skip


async def say(runtime: Runtime, conversation: str, text: str, key: str) -> Sent:
    return await runtime.switchboard.send(conversation, text=text, author="a", author_name="Bo", idempotency_key=key)


def away(runtime: Runtime) -> Any:
    """Redis took nothing lately."""
    assert runtime.core.spool is not None
    runtime.core.spool.away = True
    return runtime.core.spool


@contextlib.asynccontextmanager
async def emptied(runtime: Runtime) -> AsyncIterator[None]:
    """Redis is back, and everything that waited was taken."""
    task = asyncio.create_task(runtime.switchboard.empty_spool())
    async with asyncio.timeout(10):
        while runtime.core.spool is None or runtime.core.spool.waiting:
            await asyncio.sleep(0.02)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_conversation_begun_while_redis_is_away_begins_once_it_is_back(runtime: Runtime, ann: Customer) -> None:
    """Under the ids that were promised, with what was said in it meanwhile behind its beginning."""
    away(runtime)
    begun = await begin(runtime, ann.id)
    assert begun.spooled and begun.sequence == 0
    for number in range(3):
        assert (await say(runtime, begun.conversation_id, f"More {number}", f"more {number}")).spooled
    async with emptied(runtime):
        view = await runtime.switchboard.conversation(begun.conversation_id)
        texts = [one.content.text for one in await runtime.switchboard.transcript(begun.conversation_id)]
        first = await runtime.switchboard.message(begun.message_id)
    assert texts == ["Please look.", "More 0", "More 1", "More 2"]
    assert (view.conversation.subject, view.conversation.team) == ("Recall", "care")
    assert view.customer_side.leg.endpoint == "sms/sandbox"
    assert first.state is MessageState.QUEUED
    again = await begin(runtime, ann.id)
    assert (again.duplicate, again.conversation_id) == (True, begun.conversation_id), "asked again with the same key"


async def test_what_is_asked_again_while_it_waits_is_the_same_one(runtime: Runtime, ann: Customer) -> None:
    """Whoever did not hear the answer asks again, and must not look for ids that nobody has."""
    spool = away(runtime)
    first, again = await begin(runtime, ann.id), await begin(runtime, ann.id)
    assert (again.conversation_id, again.message_id) == (first.conversation_id, first.message_id)
    other = await begin(runtime, ann.id, key="two")
    assert other.conversation_id != first.conversation_id
    said = [await say(runtime, first.conversation_id, "More", "more") for _ in range(2)]
    assert said[0].message_id == said[1].message_id
    elsewhere = await say(runtime, other.conversation_id, "More", "more")
    assert elsewhere.conversation_id == other.conversation_id
    assert spool.waiting == 4


async def test_what_only_redis_can_tell_is_refused_clearly_while_it_is_away(runtime: Runtime, ann: Customer) -> None:
    """A reference; the face answers 503 and when to ask again."""
    begun = await begin(runtime, ann.id)
    reference = (await runtime.switchboard.conversation(begun.conversation_id)).conversation.reference
    spool = away(runtime)
    with pytest.raises(StoreUnavailable):
        await say(runtime, reference, "More", "more")
    assert spool.waiting == 0


async def test_a_beginning_that_nobody_can_take_is_kept_for_a_person(runtime: Runtime, ann: Customer) -> None:
    """Redis alone knows who is a customer: what was promised and cannot be is put aside, and holds nothing up."""
    away(runtime)
    nobody = await begin(runtime, f"{ann.id[:-3]}000", "To nobody")
    good = await begin(runtime, ann.id, key="two")
    async with emptied(runtime):
        assert (await runtime.switchboard.message(good.message_id)).content.text == "Please look."
        with pytest.raises(NotFound):
            await runtime.switchboard.message(nobody.message_id)
    assert "To nobody" in (runtime.settings.data_dir / "spool" / "aside").read_text()
