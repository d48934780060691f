"""The archive: whole conversations move there once, are found again, and can be erased, in either database."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from channels.messages import Content, Kind
from health.board import Board
from health.report import EndpointId
from router.archive.archive import Archive
from router.archive.database import ArchiveError
from router.archive.moving import archive_conversation
from router.archive.records import Sought
from router.archive.schema import SCHEMA_VERSION
from router.audit.auditor import audit
from router.domain.conversation import MessageClass, SideName
from router.domain.ids import new_id
from router.store.asked import NewMessage
from router.store.control import Control
from router.store.files import Files

MAIL = EndpointId("email/support")
SMS = EndpointId("sms/acme")
CONSOLE = EndpointId("chat/console")
P = "tl:{s0}:"
Shelf = Any
"""Of conftest.py."""


async def test_a_closed_conversation_moves_whole(shelf: Shelf) -> None:
    """Record, transcript with attempts, legs, originals: the same after as before; in Redis nothing of it is left."""
    identity = await shelf.talk()
    before = await shelf.store.conversation(identity)
    messages = await shelf.store.messages(await shelf.store.transcript_ids(identity, 0, -1))
    assert await archive_conversation(shelf.store, shelf.archive, identity) == "ok"
    kept = await shelf.archive.conversation(identity)
    assert kept is not None
    assert kept.conversation == before
    assert list(kept.messages) == messages
    assert [one.attempts[0].outcome for one in kept.messages] == ["sent"] * 3
    assert [(leg.side, leg.epoch, leg.endpoint) for leg in kept.legs] == [(SideName.CUSTOMER, 2, SMS)]
    assert kept.originals == {messages[0].id: "ab" * 32}
    assert await shelf.left(identity) == [f"{P}nk:k{identity}"]
    assert await shelf.store.redis.call("KEYS", f"{P}pair:*") == []
    assert await shelf.store.redis.call("KEYS", f"{P}aw:*") == [], "nobody waits for its receipts any more"


async def test_natural_keys_keep_their_time(shelf: Shelf) -> None:
    """A late second delivery of what is archived is still known, and adds nothing."""
    identity = await shelf.talk()
    await archive_conversation(shelf.store, shelf.archive, identity)
    ttl = int(await shelf.store.redis.call("TTL", f"{P}nk:k{identity}"))
    assert 0 < ttl <= 7 * 24 * 3600
    answer = await shelf.store.accept(
        new_id("v", 0, shelf.clock[0]),
        NewMessage(new_id("m", 0, 1), SideName.AGENT, Kind.MESSAGE, "", "", Content("x"), MessageClass.NORMAL, 0, MAIL),
        natural_key=f"k{identity}",
    )
    assert answer.verdict == "duplicate"


async def test_nothing_of_what_is_archived_stays_for_ever(shelf: Shelf) -> None:
    """Its reference is free again after a year; closing gave no time to natural keys beyond its first 10,000."""
    identity = await shelf.talk()
    await shelf.store.redis.call("SET", "tl:{r:4F2K9}", identity)
    await shelf.store.redis.call("PERSIST", f"{P}nk:k{identity}")
    await archive_conversation(shelf.store, shelf.archive, identity)
    assert 0 < int(await shelf.store.redis.call("TTL", f"{P}nk:k{identity}")) <= 7 * 24 * 3600
    assert 0 < int(await shelf.store.redis.call("TTL", "tl:{r:4F2K9}")) <= 365 * 24 * 3600


async def test_after_the_move_the_audit_finds_nothing(shelf: Shelf, tmp_path: Path) -> None:
    """What the journal says was accepted went to the archive; that is no loss."""
    identity = await shelf.talk()
    await shelf.talk("c0-bob")
    await archive_conversation(shelf.store, shelf.archive, identity)
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / ("ab" * 32)).write_bytes(b"the raw mail")
    board, control = Board(shelf.store.redis.client), Control(shelf.store.redis)
    assert await audit(shelf.store, control, board, Files(tmp_path), now=shelf.clock[0] / 1000) == []


@pytest.mark.parametrize("why", ["open", "reopened", "queued", "leased"])
async def test_what_is_not_over_stays(shelf: Shelf, why: str) -> None:
    """Open, opened again, something still to be said, something being said: nothing is removed."""
    identity = await shelf.talk()
    if why == "open":
        identity = new_id("v", 0, shelf.clock[0])
        await shelf.accept(identity, "hello", SideName.AGENT, create="c0-ann")
    elif why == "reopened":
        await shelf.accept(identity, "One more question", SideName.AGENT)
    else:
        await shelf.accept(identity, "Bye", SideName.CUSTOMER)
        await shelf.store.close(identity)
        if why == "leased":
            await shelf.lease(SMS)
    before = await shelf.left(identity)
    answer = await archive_conversation(shelf.store, shelf.archive, identity)
    assert answer == ("open" if "open" in why else "busy")
    row = dict(await shelf.store.redis.call("HGETALL", f"{P}v:{identity}"))
    assert await shelf.store.forget(identity, sequence=row["sq"], closed_at=row.get("ca", "")) == answer
    assert await shelf.left(identity) == before
    assert (await shelf.archive.conversation(identity) is None) == (answer in {"open", "busy"})


async def test_what_changed_since_it_was_read_stays(shelf: Shelf) -> None:
    """The script removes what was archived, and nothing newer."""
    identity = await shelf.talk()
    row = dict(await shelf.store.redis.call("HGETALL", f"{P}v:{identity}"))
    await shelf.accept(identity, "Wait", SideName.AGENT)
    await shelf.drain()
    await shelf.store.close(identity)
    before = await shelf.left(identity)
    assert await shelf.store.forget(identity, sequence=row["sq"], closed_at=row["ca"]) == "changed"
    assert await shelf.left(identity) == before


async def test_a_crash_between_archive_and_removal_repeats_harmlessly(shelf: Shelf) -> None:
    """Archived twice is archived once; removed twice is removed once."""
    identity = await shelf.talk()
    forget, shelf.store.forget = shelf.store.forget, _crash
    with pytest.raises(RuntimeError):
        await archive_conversation(shelf.store, shelf.archive, identity)
    shelf.store.forget = forget
    assert await archive_conversation(shelf.store, shelf.archive, identity) == "ok"
    assert await archive_conversation(shelf.store, shelf.archive, identity) == "missing"
    kept = await shelf.archive.conversation(identity)
    assert kept is not None
    assert len(kept.messages) == 3
    assert len(await shelf.archive.find(Sought(text="monday"))) == 1


async def _crash(*_: object, **__: object) -> str:
    raise RuntimeError("the power is gone")


async def test_a_long_conversation_goes_in_parts_and_is_gone_at_once(shelf: Shelf) -> None:
    """700 messages: from the first call on it is nowhere to be found, after the last nothing is left."""
    identity = await shelf.talk()
    for number in range(700):
        await shelf.accept(identity, f"line {number}", SideName.AGENT)
    await shelf.store.redis.call("DEL", f"{P}q:{identity}:a", f"{P}d:{CONSOLE}")
    await shelf.store.redis.call("HSET", f"{P}s:{identity}:a", "dp", "")
    await shelf.store.close(identity)
    row = dict(await shelf.store.redis.call("HGETALL", f"{P}v:{identity}"))
    argument = {"c": identity, "q": row["sq"], "ca": row["ca"]}
    assert await shelf.store._run("forget", 0, argument) == "more"
    assert await shelf.store.conversation(identity) is None
    assert identity in await shelf.store.closed_before(0, shelf.clock[0] / 1000 + 1), "a dead worker's rest is found"
    assert await archive_conversation(shelf.store, shelf.archive, identity) == "ok"
    assert await shelf.left(identity) == [f"{P}nk:k{identity}"]
    assert identity not in await shelf.store.closed_before(0, shelf.clock[0] / 1000 + 1)


async def test_it_is_found_by_reference_customer_and_words(shelf: Shelf) -> None:
    """Without regard to case and accents; one message must have all the words; nothing a person types is an error."""
    identity = await shelf.talk()
    await shelf.talk("c0-bob", words="Ganz anderes")
    for one in await shelf.store.closed_before(0, shelf.clock[0] / 1000 + 1):
        await archive_conversation(shelf.store, shelf.archive, one)

    async def found(**wanted: str) -> list[str]:
        return [head.conversation.id for head in await shelf.archive.find(Sought(**wanted))]

    assert await shelf.archive.by_reference("4F2K9")
    assert await shelf.archive.by_reference("ZZZZZ") == ""
    assert await found(customer_id="c0-ann") == [identity]
    assert await found(customer_id="c0-eve") == []
    assert len(await found(reference="4F2K9")) == 2
    assert await found(text="OU commande") == [identity]
    assert await found(text="commande monday") == []
    assert await found(text="monday", customer_id="c0-ann") == [identity]
    assert await found(assignee="a0-nobody") == []
    for typed in ('"', "* OR NOT (", "  ", "text:x", "%", "a" * 10_000, "'; --"):
        assert await found(text=typed) == []


async def test_pages_meet_without_gap_or_overlap(shelf: Shelf) -> None:
    """Closed last first; the cursor is the last one's, also where several closed in the same moment."""
    for number in range(5):
        shelf.clock[0] += number // 2 * 1000
        await archive_conversation(shelf.store, shelf.archive, await shelf.talk())
    whole = [head.conversation for head in await shelf.archive.find(Sought())]
    assert [one.closed_at for one in whole] == sorted((one.closed_at for one in whole), reverse=True)
    pages, before = [], None
    while page := await shelf.archive.find(Sought(), before=before, limit=2):
        pages += [head.conversation for head in page]
        before = (page[-1].conversation.closed_at, page[-1].conversation.id)
    assert pages == whole and len(whole) == 5


async def test_a_glance_shows_where_it_was_and_what_was_said_last(shelf: Shelf) -> None:
    """Both sides with their legs; a transcript can be read from any place on; a message by its id."""
    identity = await shelf.talk()
    sides = [await shelf.store.side(identity, name) for name in SideName]
    await archive_conversation(shelf.store, shelf.archive, identity)
    head = await shelf.archive.head(identity)
    assert head is not None and head.last_text == "Anything else?"
    assert [head.customer_side, head.agent_side] == sides
    (first, second, third) = await shelf.archive.transcript(identity, limit=10)
    assert await shelf.archive.transcript(identity, after_sequence=1, limit=1) == [second]
    assert await shelf.archive.transcript(identity, before_sequence=0, limit=2) == [second, third]
    assert await shelf.archive.transcript(identity, before_sequence=3, limit=1) == [second]
    assert await shelf.archive.transcript(identity, before_sequence=2, limit=9) == [first]
    assert await shelf.archive.transcript(identity, before_sequence=1, limit=9) == []
    assert second.attempts[0].outcome == "sent"
    assert await shelf.archive.message(third.id) == third
    assert await shelf.archive.message("m0-nothing") is None
    assert await shelf.archive.head("v0-nothing") is None
    assert first.sequence == 1


async def test_it_knows_which_files_it_refers_to(shelf: Shelf) -> None:
    """So that nobody takes them away."""
    await archive_conversation(shelf.store, shelf.archive, await shelf.talk())
    assert await shelf.archive.referred(["ab" * 32, "cd" * 32]) == {"ab" * 32}


async def test_erasure_takes_one_customer_and_no_other(shelf: Shelf) -> None:
    """With the words of the index; a second time there is nothing left to do."""
    gone = await shelf.talk("c0-ann", words="Zweiundvierzigtausend")
    stays = await shelf.talk("c0-bob", words="Bleibt")
    for identity in (gone, stays):
        await archive_conversation(shelf.store, shelf.archive, identity)
    erased = await shelf.archive.erase("c0-ann")
    assert (erased.conversations, erased.files) == ((gone,), {"ab" * 32})
    assert (await shelf.archive.erase("c0-ann")).conversations == ()
    assert await shelf.archive.conversation(gone) is None
    assert await shelf.archive.find(Sought(text="Zweiundvierzigtausend")) == []
    assert await shelf.archive.conversation(stays) is not None
    assert await shelf.archive.referred(["ab" * 32]) == {"ab" * 32}, "the other one refers to it still"


async def test_what_was_held_from_a_place_is_erased_with_it(shelf: Shelf) -> None:
    """It is nobody's, so only its place says whose it was."""
    identity = await shelf.talk()
    await shelf.store.redis.call("HSET", f"{P}v:{identity}", "cu", "")
    await archive_conversation(shelf.store, shelf.archive, identity)
    assert await shelf.archive.find(Sought()) == []
    assert (await shelf.archive.erase("c0-ann", ["sms:+15550999"])).conversations == ()
    assert (await shelf.archive.erase("c0-ann", ["sms:+15550100"])).conversations == (identity,)


async def test_a_newer_archive_is_refused(shelf: Shelf) -> None:
    """Rather than half understood."""
    connection = shelf.archive.database.open()
    connection.run("UPDATE schema_version SET version = 99")
    if not shelf.archive.database.is_remote:
        connection.run("PRAGMA user_version = 99")
    connection.driver.close()
    with pytest.raises(ArchiveError, match="newer version"):
        await shelf.archive.by_reference("4F2K9")


async def test_opening_it_again_changes_nothing(shelf: Shelf) -> None:
    """Its version stands in a table."""
    await archive_conversation(shelf.store, shelf.archive, await shelf.talk())
    connection = shelf.archive.database.open()
    assert connection.ask("SELECT version FROM schema_version") == [(SCHEMA_VERSION,)]
    assert connection.ask("SELECT count(*) FROM conversations") == [(1,)]
    connection.driver.close()


async def test_a_nul_that_somebody_sent_is_no_fault(shelf: Shelf) -> None:
    """PostgreSQL's text cannot hold it."""
    identity = await shelf.talk()
    await shelf.store.redis.call("HSET", f"{P}v:{identity}", "sj", "Or\x00der")
    assert await archive_conversation(shelf.store, shelf.archive, identity) == "ok"
    assert (await shelf.archive.head(identity)).conversation.subject.replace("\x00", "") == "Order"


async def test_two_processes_may_archive_at_once(shelf: Shelf) -> None:
    """Both see the same conversations; each ends up there once."""
    other = Archive(shelf.archive.database)
    found = [await shelf.talk() for _ in range(5)]
    answers = await asyncio.gather(
        *(archive_conversation(shelf.store, archive, one) for one in found for archive in (shelf.archive, other))
    )
    await other.close()
    assert set(answers) <= {"ok", "missing"} and answers.count("ok") >= 5
    for identity in found:
        kept = await shelf.archive.conversation(identity)
        assert kept is not None and len(kept.messages) == 3
