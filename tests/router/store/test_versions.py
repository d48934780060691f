"""Records of the version before are worked with; of a newer one nothing is touched."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from health.report import EndpointId
from router.audit.conversation import Examination
from router.audit.records import read_page
from router.domain.conversation import SideName
from router.store import codec, keys
from router.store.asked import LeaseTerms, Settlement
from router.store.codec import NewerRecords
from router.store.connecting import connect, open_primaries
from router.store.redis import SCRIPTS, Pipelined, StoreUnavailable, script_sources
from router.store.store import Store
from router.store.versions import begin_version
from router.workers import known_records, tell_records

MAIL, SMS = EndpointId("email/support"), EndpointId("sms/acme")
TERMS = LeaseTerms(lease_s=8.0, hold_s={"normal": 60.0, "urgent": 15.0}, idempotent=False, attempts_max=3)
PREVIOUS = json.loads((Path(__file__).parent / "previous_records.json").read_text())
"""A shard as the first scripts that ran left it: what was added to the records since is not in it."""
TOLD: dict[str, Any] = PREVIOUS["told"]


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    """That shard, a minute later."""
    pipelined = Pipelined(connect(redis_url))
    for key, (kind, value) in PREVIOUS["keys"].items():
        match kind:
            case "hash":
                await pipelined.call("HSET", key, *(part for pair in value.items() for part in pair))
            case "list":
                await pipelined.call("RPUSH", key, *value)
            case "set":
                await pipelined.call("SADD", key, *value)
            case "zset":
                await pipelined.call("ZADD", key, *(part for name, score in value.items() for part in (score, name)))
            case "stream":
                for identity, fields in value:
                    await pipelined.call("XADD", key, identity, *(part for pair in fields.items() for part in pair))
            case "string":
                await pipelined.call("SET", key, value)
    clock = [PREVIOUS["at_ms"] + 61_000]
    one = Store(pipelined, now_ms=lambda: clock[0])
    one.clock = clock
    yield one
    await pipelined.close()


async def say(store: Store, endpoint: EndpointId) -> list[tuple[str, bool]]:
    """Whatever is due there is sent; each message, and whether it said that it may be a repeat."""
    leased = await store.lease(endpoint, "w2", 20, TERMS)
    rows = [Settlement(one.conversation_id, one.side, one.message_id, one.number, one.fence, "sent") for one in leased]
    assert await store.settle(0, rows) == ["ok"] * len(rows)
    return [(one.message_id, one.possible_duplicate) for one in leased]


async def test_a_shard_of_the_version_before_goes_on_where_it_was(store: Store) -> None:
    """Queued, open, unknown, moved, parked, sent, closed: each ends as it would have, marked where it must be."""
    queued, under_way, unknown = TOLD["queued"]["messages"], TOLD["open"]["messages"], TOLD["unknown"]["messages"]
    assert set(await say(store, MAIL)) == {(queued[0], False), (unknown[0], True)}
    assert set(await say(store, MAIL)) == {(queued[1], False)}
    told = await store.lease(SMS, "w2", 20, TERMS)
    assert [one.notice is not None for one in told] == [True]
    notice = told[0]
    done = Settlement(notice.conversation_id, notice.side, notice.message_id, notice.number, notice.fence, "sent")
    assert await store.settle(0, [done]) == ["ok"]
    assert await say(store, SMS) == [(TOLD["moved"]["messages"][0], False)]
    store.clock[0] += 60_000
    assert await say(store, MAIL) == [(under_way[0], True)]
    assert await say(store, MAIL) == [(under_way[1], False)]
    (parked,) = await store.plan(0, 10)
    assert parked.head == TOLD["parked"]["messages"][0]
    sent = TOLD["sent"]
    assert await store.receipt(sent["token"], "delivered") == ("ok", sent["conversation"], "delivered")
    known = await store.natural_key(0, next(key for key in PREVIOUS["keys"] if ":nk:" in key).partition(":nk:")[2])
    assert known is not None
    assert await store.cancel(parked.head, "a test") == "ok"
    closed = TOLD["closed"]["conversation"]
    page = await store.inspect(closed)
    fields = dict(zip(page[0][::2], page[0][1::2], strict=True))
    assert await store.forget(closed, sequence=fields["sq"], closed_at=fields["ca"]) == "ok"
    for one in TOLD.values():
        if (found := await read_page(store, one["conversation"], 0)) is not None:
            examination = Examination(one["conversation"], {})
            examination.see(found)
            assert not examination.findings
    assert not await store.reconcile(0, [one["conversation"] for one in TOLD.values()])
    heard = await store.side(TOLD["heard"]["conversation"], SideName.AGENT)
    assert heard is not None and heard.queued == 1


@pytest.mark.parametrize("script", SCRIPTS)
async def test_a_newer_version_is_refused_before_anything_is_written(store: Store, redis_url: str, script: str) -> None:
    """Every script, whatever it is asked; callers hear that the store cannot take it now."""
    await store.redis.call("SET", f"{keys.shard(0)}rv", codec.RECORDS_VERSION + 1)
    before = dump(redis_url)
    with pytest.raises(StoreUnavailable, match="this process knows 1"):
        await store.redis.run(script, keys.shard(0), PREVIOUS["at_ms"], "{}")
    assert dump(redis_url) == before
    await store.redis.call("SET", f"{keys.shard(0)}rv", codec.RECORDS_VERSION)
    assert await say(store, MAIL)


async def test_a_newer_record_is_not_read_as_if_it_were_ours(store: Store) -> None:
    """Half understood would be worse than not at all."""
    conversation, message = TOLD["queued"]["conversation"], TOLD["queued"]["messages"][0]
    await store.redis.call("HSET", f"{keys.shard(0)}v:{conversation}", "v", codec.RECORDS_VERSION + 1)
    await store.redis.call("HSET", f"{keys.shard(0)}m:{message}", "v", codec.RECORDS_VERSION + 1)
    with pytest.raises(NewerRecords):
        await store.conversation(conversation)
    with pytest.raises(NewerRecords):
        await store.message(message)


@pytest.mark.parametrize(
    ("stands", "known", "after"),
    [
        (None, [2, 2], "2"),
        ("1", [2, 3], "2"),
        (None, [2, 1], None),
        ("1", [1], "1"),
        (None, [], None),
        ("2", [2], "2"),
        ("3", [2], "3"),
    ],
)
async def test_newer_records_begin_only_where_every_living_process_knows_them(
    store: Store, monkeypatch: pytest.MonkeyPatch, stands: str | None, known: list[int], after: str | None
) -> None:
    """And never go back: where a still newer version stands, nothing is changed."""
    monkeypatch.setattr(codec, "RECORDS_VERSION", 2)
    if stands is not None:
        for shard in range(3):
            await store.redis.call("SET", keys.version(shard), stands)
    begun = await begin_version(store.redis, 3, known)
    assert [await store.redis.call("GET", keys.version(shard)) for shard in range(3)] == [after] * 3
    assert begun == (2 if after == "2" and stands != "2" else None)


async def test_a_beginning_that_broke_off_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One shard had begun when the supervisor died."""
    monkeypatch.setattr(codec, "RECORDS_VERSION", 2)
    await store.redis.call("SET", keys.version(0), 2)
    assert await begin_version(store.redis, 2, [2]) == 2
    assert await store.redis.call("GET", keys.version(1)) == "2"


def test_the_first_version_is_told_by_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever knows that version alone reads in beats what it always read."""
    assert tell_records() == {} and known_records(tell_records()) == 1
    monkeypatch.setattr(codec, "RECORDS_VERSION", 2)
    assert known_records({"email/support": [1, 1, 0], **tell_records()}) == 2


def test_scripts_and_readers_speak_of_one_version() -> None:
    """The number stands in two languages."""
    assert f"\nlocal VERSION = {codec.RECORDS_VERSION}\n" in script_sources()["lease"]


def dump(redis_url: str) -> dict[bytes, bytes]:
    with open_primaries(redis_url) as servers:
        return {key: server.dump(key) for server in servers for key in server.keys("*")}
