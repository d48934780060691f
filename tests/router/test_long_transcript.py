"""A conversation with many messages: each page reads what it shows, from whichever end it is asked."""

from typing import Any

import pytest

from channels.messages import Address, Channel, Content, InboundMessage, Kind
from health.report import EndpointId
from router.domain.conversation import MessageClass, SideName
from router.domain.ids import new_id
from router.runtime import Runtime
from router.store.asked import NewMessage
from router.web.chat_view import LINES_MAX, read_lines

SMS = EndpointId("sms/sandbox")
NUMBER = Address(Channel.SMS, "+12025550177")
COUNT = 900


@pytest.fixture
async def talk(runtime: Runtime) -> str:
    """A conversation of `COUNT` messages, each of which says which one it is."""
    first = InboundMessage(endpoint=SMS, vendor_id="1", sender=NUMBER, text="1", sent_at=runtime.clock.now())
    conversation = (await runtime.switchboard.accept(first)).conversation_id
    author = (await runtime.switchboard.conversation(conversation)).customer.id

    for number in range(2, COUNT + 1):
        content, identity = Content(str(number)), new_id("m", 0, number)
        words: tuple[Any, ...] = (Kind.MESSAGE, author, "Ann", content, MessageClass.NORMAL, 0, SMS)
        await runtime.store.accept(conversation, NewMessage(identity, SideName.AGENT, *words))
    return conversation


@pytest.fixture
def read(runtime: Runtime, talk: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the messages that were read, so far."""
    found: list[str] = []
    call = runtime.store.redis.call

    async def noted(command: str, key: str = "", *more: Any) -> Any:
        if command == "HGETALL" and ":m:" in key.replace("}", ""):
            found.append(key)
        return await call(command, key, *more)

    monkeypatch.setattr(runtime.store.redis, "call", noted)
    return found


async def page(runtime: Runtime, talk: str, **place: int) -> list[int]:
    """What these messages say."""
    return [int(one.content.text) for one in await runtime.switchboard.transcript(talk, **place)]


async def test_a_page_late_in_a_transcript_reads_no_more_than_itself(
    runtime: Runtime, talk: str, read: list[str]
) -> None:
    """Else each page costs as much as all before it, and reading it all the square of that."""
    assert await page(runtime, talk, after_sequence=850, limit=10) == list(range(851, 861))
    assert len(read) == 10
    assert await page(runtime, talk, after_sequence=COUNT - 3, limit=10) == [898, 899, 900]
    assert len(read) == 13
    assert await page(runtime, talk, after_sequence=COUNT) == []
    assert await page(runtime, talk, after_sequence=10**15) == []
    assert await page(runtime, talk, limit=5_000) == list(range(1, COUNT + 1))
    assert await page(runtime, talk, after_sequence=3, limit=450) == list(range(4, 454))


async def test_the_end_is_read_from_the_end(runtime: Runtime, talk: str, read: list[str]) -> None:
    """And what stands before it, page by page, up to the first message."""
    assert await page(runtime, talk, before_sequence=0, limit=10) == list(range(891, 901))
    assert await page(runtime, talk, before_sequence=891, limit=10) == list(range(881, 891))
    assert len(read) == 20
    assert await page(runtime, talk, before_sequence=4, limit=10) == [1, 2, 3]
    assert await page(runtime, talk, before_sequence=1, limit=10) == []
    assert await page(runtime, talk, before_sequence=10**15, limit=2) == [899, 900]
    assert await page(runtime, talk, before_sequence=0, limit=5_000) == list(range(1, COUNT + 1))


async def test_a_chat_is_shown_its_last_lines_without_reading_the_others(
    runtime: Runtime, talk: str, read: list[str]
) -> None:
    """Whoever reloads the page in a conversation of a thousand messages does not have a thousand read."""
    view = await runtime.switchboard.conversation(talk)
    del read[:]
    lines = await read_lines(runtime.switchboard, view, SMS)
    assert [one["text"] for one in lines] == [str(number) for number in range(COUNT - LINES_MAX + 1, COUNT + 1)]
    assert len(read) == 200


async def test_a_message_whose_record_is_lost_ends_no_page(runtime: Runtime, talk: str) -> None:
    """A page that is not full tells whoever reads on that there is no more."""
    lost = await runtime.store.transcript_ids(talk, 852, 854)
    for identity in lost:
        await runtime.store.redis.call("DEL", f"tl:{{s0}}:m:{identity}")
    rest = [number for number in range(1, COUNT + 1) if number not in {853, 854, 855}]
    assert await page(runtime, talk, after_sequence=850, limit=10) == [n for n in rest if n > 850][:10]
    assert await page(runtime, talk, before_sequence=860, limit=10) == [n for n in rest if n < 860][-10:]
