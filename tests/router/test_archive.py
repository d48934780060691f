"""The archive: whole conversations move there once, are found again, and can be erased."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from channels.messages import Content, Kind
from health.board import Board
from health.report import EndpointId
from router.archive import Archive, ArchiveError, archive_conversation
from router.audit.auditor import audit
from router.domain.conversation import MessageClass, SideName
from router.domain.ids import new_id
from router.store.connecting import connect
from router.store.control import Control
from router.store.files import Files
from router.store.redis import Pipelined
from router.store.store import LeaseTerms, NewConversation, NewLeg, NewMessage, Rebind, Settlement, Store

MAIL = EndpointId("email/support")
SMS = EndpointId("sms/acme")
CONSOLE = EndpointId("chat/console")
NOWHERE = EndpointId("")
TERMS = LeaseTerms(lease_s=8.0, hold_s={"normal": 60.0}, idempotent=False, attempts_max=3)
P = "tl:{s0}:"


@dataclass
class Shelf:
    """A store on a virtual clock, and an archive."""

    store: Store
    archive: Archive
    clock: list[int]

    async def accept(
        self, conversation: str, text: str, side: SideName, *, create: str = "", key: str = "", original: str = ""
    ) -> str:
        answer = await self.store.accept(
            conversation,
            NewMessage(
                new_id("m", 0, self.clock[0]),
                side,
                Kind.MESSAGE,
                "somebody",
                "Somebody",
                Content(text, subject="Réponse"),
                MessageClass.NORMAL,
                0,
                NOWHERE,
                original=original,
            ),
            natural_key=key,
            reopen=True,
            create=NewConversation(
                create,
                "4F2K9",
                "Order",
                "fr",
                MessageClass.NORMAL,
                3,
                "billing",
                NewLeg(create, MAIL, "email:ann@example.org"),
                NewLeg("", CONSOLE, "chat:console@chat/console"),
            )
            if create
            else None,
        )
        assert answer.verdict in {"new", "duplicate"}
        return answer.message_id

    async def drain(self) -> None:
        """Say everything that waits, on both sides."""
        while True:
            leased = [*await self.lease(MAIL), *await self.lease(SMS), *await self.lease(CONSOLE)]
            if not leased:
                return
            for one in leased:
                due = self.clock[0] / 1000 + 60
                row = Settlement(one.conversation_id, one.side, one.message_id, one.number, one.fence, "sent")
                await self.store.settle(
                    0, [Settlement(*_values(row), vendor_ids=(f"<{one.token}>",), receipt_due_at=due)]
                )

    async def lease(self, endpoint: EndpointId):
        return await self.store.lease(endpoint, "w1", 50, TERMS)

    async def talk(self, customer: str = "c0-ann", *, words: str = "Où est ma commande?") -> str:
        """A conversation that moved once, said and heard, and closed."""
        identity = new_id("v", 0, self.clock[0])
        await self.accept(identity, words, SideName.AGENT, create=customer, key=f"k{identity}", original="ab" * 32)
        await self.accept(identity, "It left on Monday.", SideName.CUSTOMER)
        await self.drain()
        await self.store.rebind(0, [Rebind(identity, SideName.CUSTOMER, 1, SMS, "sms:+15550100", "failover")])
        await self.accept(identity, "Anything else?", SideName.CUSTOMER)
        await self.drain()
        assert await self.store.close(identity) == "ok"
        return identity

    async def left(self, identity: str) -> list[str]:
        """Keys of Redis that speak of a conversation or its messages."""
        names = [str(name) for name in await self.store.redis.call("KEYS", "*")]
        return sorted(name for name in names if identity in name or name.startswith(f"{P}m:"))


def _values(row: Settlement) -> tuple[object, ...]:
    return row.conversation_id, row.side, row.message_id, row.number, row.fence, row.outcome


@pytest.fixture
async def shelf(redis_url: str, tmp_path: Path) -> AsyncIterator[Shelf]:
    clock = [1_800_000_000_000]
    redis = Pipelined(connect(redis_url))
    shelf = Shelf(Store(redis, now_ms=lambda: clock[0]), Archive(tmp_path / "archive.sqlite3"), clock)
    yield shelf
    await shelf.archive.close()
    await redis.close()


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
    forget, shelf.store.forget = shelf.store.forget, _crash  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        await archive_conversation(shelf.store, shelf.archive, identity)
    shelf.store.forget = forget  # type: ignore[method-assign]
    assert await archive_conversation(shelf.store, shelf.archive, identity) == "ok"
    assert await archive_conversation(shelf.store, shelf.archive, identity) == "missing"
    kept = await shelf.archive.conversation(identity)
    assert kept is not None
    assert len(kept.messages) == 3
    assert len(await shelf.archive.search("monday")) == 1


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
    """Without regard to case and accents; several words must all be there; nothing a person types is an error."""
    identity = await shelf.talk()
    await archive_conversation(shelf.store, shelf.archive, identity)
    assert await shelf.archive.by_reference("4F2K9") == identity
    assert await shelf.archive.by_reference("ZZZZZ") == ""
    assert await shelf.archive.of_customer("c0-ann") == [identity]
    (found,) = await shelf.archive.search("OU commande")
    assert found.conversation_id == identity and "commande" in found.excerpt
    assert await shelf.archive.search("commande monday") == []
    for typed in ('"', "* OR NOT (", "", "  ", "text:x", "a" * 10_000):
        await shelf.archive.search(typed)


async def test_erasure_leaves_no_word_in_the_file(shelf: Shelf, tmp_path: Path) -> None:
    """Nor in the search index, nor in the log beside it; others' conversations stay."""
    secret = "Zweiundvierzigtausend"
    gone = await shelf.talk("c0-ann", words=secret)
    stays = await shelf.talk("c0-bob", words="Bleibt")
    for identity in (gone, stays):
        await archive_conversation(shelf.store, shelf.archive, identity)
    assert await shelf.archive.search(secret)
    assert await shelf.archive.erase("c0-ann") == 1
    assert await shelf.archive.erase("c0-ann") == 0
    assert await shelf.archive.conversation(gone) is None
    assert await shelf.archive.search(secret) == []
    assert await shelf.archive.conversation(stays) is not None
    await shelf.archive.close()
    files = [file.read_bytes().lower() for file in tmp_path.iterdir() if file.is_file()]
    assert any(b"bleibt" in content for content in files)
    assert not any(secret.lower().encode() in content for content in files)
    shelf.archive = Archive(shelf.archive.path)


async def test_another_process_reads_while_we_write(shelf: Shelf) -> None:
    """A write-ahead log: a reader blocks no writer, and has its own moment."""
    first = await shelf.talk()
    await archive_conversation(shelf.store, shelf.archive, first)
    reader = sqlite3.connect(shelf.archive.path)
    try:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM conversations").fetchone() == (1,)
        await archive_conversation(shelf.store, shelf.archive, await shelf.talk())
        assert reader.execute("SELECT count(*) FROM conversations").fetchone() == (1,)
    finally:
        reader.close()


async def test_a_broken_archive_removes_nothing(shelf: Shelf) -> None:
    """The error says what to do, and Redis keeps the conversation."""
    identity = await shelf.talk()
    shelf.archive.path.write_bytes(b"this is no database" * 100)
    before = await shelf.left(identity)
    with pytest.raises(ArchiveError, match="Nothing was removed from Redis"):
        await archive_conversation(shelf.store, shelf.archive, identity)
    assert await shelf.left(identity) == before


async def test_a_newer_archive_is_refused(shelf: Shelf) -> None:
    """Rather than half understood."""
    database = sqlite3.connect(shelf.archive.path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(ArchiveError, match="newer version"):
        await shelf.archive.by_reference("4F2K9")


async def test_two_processes_may_archive_at_once(shelf: Shelf) -> None:
    """Both see the same conversations; each ends up there once."""
    other = Archive(shelf.archive.path)
    found = [await shelf.talk() for _ in range(5)]
    answers = await asyncio.gather(
        *(archive_conversation(shelf.store, archive, one) for one in found for archive in (shelf.archive, other))
    )
    await other.close()
    assert set(answers) <= {"ok", "missing"} and answers.count("ok") >= 5
    for identity in found:
        kept = await shelf.archive.conversation(identity)
        assert kept is not None and len(kept.messages) == 3
