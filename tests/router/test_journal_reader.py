"""What was decided about one conversation is found without reading what everybody else's journal says."""

from collections.abc import AsyncIterator

import pytest

from channels.messages import Content, Kind
from health.report import EndpointId
from router import journal_reader
from router.domain.conversation import MessageClass, SideName
from router.domain.ids import new_id
from router.journal_reader import decisions_of
from router.store.asked import NewConversation, NewLeg, NewMessage
from router.store.connecting import connect
from router.store.redis import Pipelined
from router.store.store import Store

SMS = EndpointId("sms/acme")


class Counted(Store):
    """The store, counting the journal's entries that are read."""

    read = 0

    async def journal_before(self, shard: int, before: str, limit: int) -> list[tuple[str, dict[str, str]]]:
        rows = await super().journal_before(shard, before, limit)
        self.read += len(rows)
        return rows


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Counted]:
    client = connect(redis_url)
    yield Counted(Pipelined(client))
    await client.aclose()


async def others(store: Store, count: int, at_ms: int) -> None:
    """What other conversations did."""
    async with store.redis.client.pipeline(transaction=False) as pipe:
        for number in range(count):
            entry = {"k": "message.accepted", "c": f"v0-{number}", "m": "", "ep": SMS, "at": at_ms, "f": "{}"}
            pipe.xadd("tl:{s0}:jr", entry)
        await pipe.execute()


async def opened(store: Store, messages: int) -> str:
    """A conversation of some messages."""
    conversation = ""
    for number in range(messages):
        now = await store.clock_ms()
        identity = conversation or new_id("v", 0, now)
        create = NewConversation(
            new_id("c", 0, now), "", "", "en", MessageClass.NORMAL, 5, "",
            NewLeg("", SMS, "sms:+12025550100"), NewLeg("", EndpointId(""), ""),
        )  # fmt: skip
        message = NewMessage(
            new_id("m", 0, now), SideName.AGENT, Kind.MESSAGE, "", "", Content(str(number)), MessageClass.NORMAL, 0, SMS
        )
        await store.accept(identity, message, create=create)
        conversation = identity
    await store.note(0, "decision.made", {"d": "{}"}, conversation_id=conversation)
    return conversation


async def by_hand(store: Store, conversation: str, limit: int) -> list[str]:
    """The same, by reading everything."""
    rows = await Store.journal_before(store, 0, "+", 100_000)
    return [f"0:{one}" for one, row in rows if row["c"] == conversation][:limit]


async def test_no_more_is_read_than_was_written_since_it_opened(store: Counted) -> None:
    """However long the journal is: beneath its first entry nothing is about it."""
    await others(store, 5_000, await store.clock_ms() - 1_000)
    conversation = await opened(store, 3)
    await others(store, 700, await store.clock_ms())
    entries = await decisions_of(store, conversation, 100)
    assert [one.id for one in entries] == await by_hand(store, conversation, 100)
    assert [one.kind for one in entries][::4] == ["decision.made", "conversation.opened"]
    assert store.read == 2 * journal_reader.PAGE


async def test_what_lost_its_first_entry_ends_where_it_opened(store: Counted) -> None:
    conversation = await opened(store, 1)
    opened_ms = (await store.clock_ms()) - 7_200_000
    await store.redis.call("HSET", f"tl:{{s0}}:v:{conversation}", "oa", opened_ms + 3_600_000)
    await store.redis.call("XTRIM", "tl:{s0}:jr", "MAXLEN", 0)
    await others(store, 3_000, opened_ms)
    await store.note(0, "decision.made", {"d": "{}"}, conversation_id=conversation)
    assert len(await decisions_of(store, conversation, 100)) == 1
    assert store.read == journal_reader.PAGE


async def test_enough_is_enough(store: Counted) -> None:
    """The newest ones, as many as were asked for."""
    conversation = await opened(store, 12)
    await others(store, 600, await store.clock_ms())
    entries = await decisions_of(store, conversation, 5)
    assert [one.id for one in entries] == await by_hand(store, conversation, 5)


async def test_a_search_has_an_end(store: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is buried too deep is not looked for."""
    monkeypatch.setattr(journal_reader, "SEARCHED_MAX", 1_000)
    conversation = await opened(store, 1)
    await others(store, 1_500, await store.clock_ms())
    assert await decisions_of(store, conversation, 100) == []
    assert store.read == 1_000
