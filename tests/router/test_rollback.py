"""A Redis that comes back older than it was is noticed, and what may have been said says so when it is said again."""

import asyncio
import contextlib
import errno
import json
import os
import shutil
from unittest.mock import Mock

import pytest

from channels.messages import Content, Kind
from health.report import EndpointId
from router.domain.conversation import MessageClass, SideName
from router.domain.ids import new_id
from router.private_redis import PrivateRedis
from router.rollback import RollbackWatch
from router.runtime import SystemClock
from router.spool import Spool
from router.store.adapter_store import RedisAdapterStore
from router.store.asked import LeaseTerms, NewConversation, NewLeg, NewMessage, Settlement
from router.store.connecting import connect
from router.store.going_back import read_went_back
from router.store.redis import Pipelined, StoreUnavailable
from router.store.store import Store

MAIL = EndpointId("email/support")
TERMS = LeaseTerms(lease_s=8.0, hold_s={"normal": 60.0}, idempotent=False, attempts_max=3)
PREFIX = "tl:{s0}:"


@pytest.fixture
def server(tmp_path):
    one = PrivateRedis(tmp_path / "redis", durable=True)
    one.start()
    yield one
    one.stop()


@pytest.fixture
async def store(server):
    redis = Pipelined(connect(server.url))
    yield Store(redis)
    await redis.close()


class Older:
    """Copies of a Redis' folder, and one put back."""

    def __init__(self, server, folder):
        self.server, self.folder = server, folder

    def keep(self):
        shutil.copytree(self.server.folder, self.folder, ignore=shutil.ignore_patterns("*.sock", "*.log"))

    def put_back(self):
        self.server.stop()
        shutil.rmtree(self.server.folder)
        shutil.copytree(self.folder, self.server.folder)
        self.server.start()


@pytest.fixture
def older(server, tmp_path):
    return Older(server, tmp_path / "older")


async def say(store, text, conversation, identity=""):
    message = NewMessage(
        identity or new_id("m", 0, 1), SideName.CUSTOMER, Kind.MESSAGE, "a0-bob", "Bob", Content(text),
        MessageClass.NORMAL, 0, EndpointId(""),
    )  # fmt: skip
    legs = NewLeg("c0-ann", MAIL, "email:ann@example.org"), NewLeg("", EndpointId("chat/console"), "chat:console")
    create = NewConversation("c0-ann", "4F2K9", "Order", "en", MessageClass.NORMAL, 5, "", *legs)
    return (await store.accept(conversation, message, create=create)).message_id


async def send(store):
    """Everything that is due is said, and recorded as sent."""
    leased = await store.lease(MAIL, "w1", 10, TERMS)
    for one in leased:
        await store.settle(
            0, [Settlement(one.conversation_id, one.side, one.message_id, one.number, one.fence, "sent")]
        )
    return leased


async def returns(server, store):
    """The first calls after a restart may still find the old connection."""
    for _ in range(3):
        with contextlib.suppress(StoreUnavailable):
            return await store.clock_ms()
    raise AssertionError("Redis does not answer")


async def test_what_was_said_in_the_time_that_is_lost_is_flagged_before_it_is_said_again(
    server, store, older, tmp_path
):
    spool = Spool(tmp_path / "spool", "web")
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "1.taken").write_text("")
    conversation = new_id("v", 0, 1)
    message = await say(store, "On its way.", conversation)
    older.keep()
    assert [one.message_id for one in await send(store)] == [message]
    older.put_back()
    await returns(server, store)
    await say(store, "And this.", new_id("v", 0, 2))  # whatever is written meanwhile does not hide what is missing
    with pytest.raises(StoreUnavailable, match="older"):
        await store.lease(MAIL, "w1", 10, TERMS)
    watch = RollbackWatch(store, SystemClock(), spool)
    assert await watch.look(0)
    again = {one.message_id: one.possible_duplicate for one in await store.lease(MAIL, "w1", 10, TERMS)}
    assert again[message]
    (told,) = [row for _, row in await store.journal_last(0, 50) if row["k"] == "store.went_back"]
    assert '"spools_again":1' in told["f"] and (tmp_path / "spool" / "1.spool").exists()
    assert not await watch.look(0), "once"
    shown = await read_went_back(store.redis)
    assert shown is not None and shown.flagged == 2, "what waited, and what was written meanwhile"


async def test_nothing_is_leased_over_a_connection_that_was_made_anew_unseen(server, store, older):
    """It broke while nobody asked for anything: the first question over the new one is the lease itself."""
    message = await say(store, "On its way.", new_id("v", 0, 1))
    older.keep()
    assert [one.message_id for one in await send(store)] == [message]
    older.put_back()
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await store.lease(MAIL, "w1", 10, TERMS)
    assert await RollbackWatch(store, SystemClock()).look(0)
    (leased,) = await store.lease(MAIL, "w1", 10, TERMS)
    assert leased.message_id == message and leased.possible_duplicate


async def test_a_connection_that_was_made_anew_to_the_same_redis_leases_at_once(server, store):
    await say(store, "One.", new_id("v", 0, 1))
    await store.redis.client.connection_pool.disconnect()
    (leased,) = await store.lease(MAIL, "w1", 10, TERMS)
    assert not leased.possible_duplicate


async def test_a_doubt_that_comes_while_another_is_cleared_stays(store):
    """Over the one connection all is well, and another has just been made to who knows whom."""
    await say(store, "One.", new_id("v", 0, 1))
    store.redis.doubt_all()
    before = store.redis.doubts
    store.redis.doubt_all()
    store.redis.trust(PREFIX, before)
    assert PREFIX in store.redis._doubted
    (_leased,) = await store.lease(MAIL, "w1", 10, TERMS)
    assert PREFIX not in store.redis._doubted, "a lease looks for itself"


async def test_a_redis_that_comes_back_whole_is_trusted_and_nothing_is_flagged(server, store):
    conversation = new_id("v", 0, 1)
    await say(store, "One.", conversation)
    await send(store)
    await say(store, "Two.", conversation)
    server.stop()
    with pytest.raises(StoreUnavailable):
        await store.clock_ms()
    server.start()
    await returns(server, store)
    assert not await RollbackWatch(store, SystemClock()).look(0)
    (leased,) = await store.lease(MAIL, "w1", 10, TERMS)
    assert not leased.possible_duplicate


async def test_an_emptied_redis_is_noticed(store):
    await say(store, "One.", new_id("v", 0, 1))
    await store.redis.call("FLUSHALL")
    assert await RollbackWatch(store, SystemClock()).look(0)


async def test_who_starts_anew_remembers_what_the_last_process_saw(server, store, older, tmp_path):
    """The whole machine went down, and came back on older files."""
    memory = tmp_path / "journal.position"
    await say(store, "One.", new_id("v", 0, 1))
    older.keep()
    await send(store)
    RollbackWatch(store, SystemClock(), remembered=memory)._remember()
    older.put_back()
    redis = Pipelined(connect(server.url))
    try:
        reborn = RollbackWatch(Store(redis), SystemClock(), remembered=memory)
        reborn._recall()
        assert await reborn.look(0)
        (leased,) = await reborn.store.lease(MAIL, "w1", 10, TERMS)
        assert leased.possible_duplicate
    finally:
        await redis.close()


@pytest.mark.parametrize("damaged", [b"", b"[1]", b'{"tl:{s0}:": 7}', b"\xff"])
async def test_a_memory_that_cannot_be_read_is_none(store, tmp_path, damaged):
    """Whoever starts says so in the log, and goes on with what Redis says."""
    memory = tmp_path / "journal.position"
    memory.write_bytes(damaged)
    RollbackWatch(store, SystemClock(), remembered=memory)._recall()
    assert not store.redis.positions
    await say(store, "One.", new_id("v", 0, 1))
    assert len(await send(store)) == 1


async def test_the_memory_is_on_disk_before_it_has_its_name(store, tmp_path, monkeypatch):
    """A power failure leaves the old one or the new one, and nothing empty."""
    memory, synced = tmp_path / "journal.position", []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append(memory.exists()), sync(number)))
    await say(store, "One.", new_id("v", 0, 1))
    RollbackWatch(store, SystemClock(), remembered=memory, remembers=True)._remember()
    assert synced[:1] == [False] and json.loads(memory.read_text()) == store.redis.positions


async def test_a_memory_that_does_not_fit_leaves_nothing_behind(store, tmp_path, monkeypatch):
    """On a full disk, second by second."""
    monkeypatch.setattr(os, "fsync", fails := Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    watch = RollbackWatch(store, SystemClock(), remembered=tmp_path / "journal.position", remembers=True)
    await say(store, "One.", new_id("v", 0, 1))
    for _ in range(3):
        watch._remember()
    assert fails.call_count == 3 and not [one.name for one in tmp_path.iterdir() if one.name.startswith("journal")]


async def test_an_outbox_gives_no_number_again_that_a_browser_has_seen(server, store, older):
    """Else what comes after the loss would never reach a page that is open and waits for later numbers."""
    outbox = RedisAdapterStore(store.redis, EndpointId("chat/web"))
    await outbox.append("out:s1", "one", 60.0)
    older.keep()
    seen = [await outbox.append("out:s1", text, 60.0) for text in ("two", "three")][-1]
    older.put_back()
    await returns(server, store)
    number = await outbox.append("out:s1", "four", 60.0)
    assert number > seen and await outbox.read_after("out:s1", seen, 10) == [(number, "four")]


async def test_what_a_spool_brings_again_is_flagged_as_well(server, store, older, tmp_path):
    """It came by the spool, was taken, said and lost: nothing in Redis shows that it was ever said."""
    spool, conversation = Spool(tmp_path / "spool", "web"), new_id("v", 0, 1)

    async def take(_kind, fields):
        await say(store, fields["text"], conversation, identity=fields["id"])

    await say(store, "Before.", new_id("v", 0, 2))
    await send(store)
    older.keep()
    message = new_id("m", 0, 1)
    await spool.keep("draft", conversation, {"text": "By the spool.", "id": message})
    emptying = asyncio.create_task(spool.run(take))
    try:
        async with asyncio.timeout(10):
            while not list((tmp_path / "spool").glob("*.taken")):
                await asyncio.sleep(0.01)
        assert [one.message_id for one in await send(store)] == [message]
        older.put_back()
        await returns(server, store)
        assert await RollbackWatch(store, SystemClock(), spool).look(0)
        (leased,) = await store.lease(MAIL, "w1", 10, TERMS)
        assert leased.message_id == message and leased.possible_duplicate
    finally:
        emptying.cancel()
        await asyncio.gather(emptying, return_exceptions=True)
