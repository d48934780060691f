"""On a three-node Cluster: every script stays in its shard's slot, and a moved slot or a lost node stops nothing."""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from importlib.resources import files
from pathlib import Path

import pytest
import redis

from channels.messages import Content, Kind
from health.board import Board
from health.report import Direction, EndpointId, Status, Transition
from router.api_keys import ApiKeys, Role
from router.domain.conversation import MessageClass, SideName
from router.domain.ids import new_id
from router.store import keys
from router.store.adapter_store import RedisAdapterStore
from router.store.asked import LeaseTerms, NewConversation, NewLeg, NewMessage, Park, Rebind, Settlement
from router.store.cluster import slot_of
from router.store.codec import Notice
from router.store.connecting import connect, open_primaries
from router.store.control import Control
from router.store.redis import SCRIPTS, Pipelined, StoreUnavailable
from router.store.store import Store
from tests.topologies import Cluster, run_cluster

MAIL, SMS, CONSOLE = EndpointId("email/support"), EndpointId("sms/acme"), EndpointId("chat/console")
TERMS = LeaseTerms(lease_s=8.0, hold_s={"normal": 60.0, "urgent": 15.0}, idempotent=False, attempts_max=3)
SHARDS = 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes of our own."""
    chosen = os.environ.get("TEST_REDIS_SERVER")
    with (
        tempfile.TemporaryDirectory(prefix="tl-") as folder,
        run_cluster(Path(folder), Path(chosen) if chosen else None) as one,
    ):
        yield one


@pytest.fixture
async def store(cluster: Cluster) -> AsyncIterator[Store]:
    """Of three shards, empty."""
    with open_primaries(cluster.url) as servers:
        for server in servers:
            server.flushall()
            server.script_flush()
    pipelined = Pipelined(connect(cluster.url))
    yield Store(pipelined, shards=SHARDS)
    await pipelined.close()


class Story:
    """One conversation in one shard, taken through everything a script does."""

    def __init__(self, store: Store, shard: int) -> None:
        self.store, self.shard = store, shard
        self.conversation = new_id("v", shard, 1_000)

    async def say(self, text: str, side: SideName = SideName.CUSTOMER) -> str:
        message = NewMessage(
            new_id("m", self.shard, 1_000), side, Kind.MESSAGE, "a0-bob", "Bob", Content(text),
            MessageClass.NORMAL, 0.0,
            EndpointId(""),
        )  # fmt: skip
        legs = NewLeg(f"c{self.shard}-ann", MAIL, "email:ann@x.test"), NewLeg("", CONSOLE, "chat:console")
        create = NewConversation(f"c{self.shard}-ann", text[:5], "Order", "en", MessageClass.NORMAL, 5, "", *legs)
        answer = await self.store.accept(self.conversation, message, natural_key=text, create=create)
        assert answer.verdict == "new"
        return answer.message_id

    async def lease(self, endpoint: EndpointId, outcome: str) -> str:
        (leased,) = await self.store.lease(endpoint, "w1", 10, TERMS, shard=self.shard)
        settlement = Settlement(
            leased.conversation_id, leased.side, leased.message_id, leased.number, leased.fence, outcome,
            receipt_within_s=60.0,
        )  # fmt: skip
        assert await self.store.settle(self.shard, [settlement]) == ["ok"]
        return leased.token

    async def tell(self) -> None:
        store, shard, side = self.store, self.shard, SideName.CUSTOMER
        await self.say("first")
        token = await self.lease(MAIL, "sent")
        await store.receipt(token, "delivered")
        await self.say("second")
        await self.lease(MAIL, "rejected")
        (wants,) = await store.plan(shard, 10)
        notice = Notice(new_id("m", shard, 1_000), "failover", MAIL, 1.0)
        move = Rebind(self.conversation, side, wants.epoch, SMS, "sms:+12025550100", "failover", notice)
        assert await store.rebind(shard, [move]) == ["ok"]
        await self.lease(SMS, "sent")
        token = await self.lease(SMS, "sent")
        assert await store.recall(shard, SMS, 0.0) == 1
        assert await store.receipt(token, "delivered") == ("ok", self.conversation, "delivered")
        third = await self.say("third")
        assert await store.doubt(shard, [self.conversation]) == 1
        await store.affected(shard, [f"{self.conversation}:c"])
        asked = await self.say("asked", SideName.AGENT)
        assert await store.cancel(asked, "changed_my_mind") == "ok"
        known = await store.known(shard, "third", SMS, "sms:+12025550100", [f"c{shard}-ann"])
        assert known.accepted
        assert list(known.spoken) == [self.conversation]
        park = Park(self.conversation, side, wants.epoch + 1, 60.0, "all_down")
        assert await store.rebind(shard, [park]) == ["ok"]
        assert await store.wake_parked(shard) == 1
        assert await store.cancel(third, "changed_my_mind") == "ok"
        assert not await store.reconcile(shard, [self.conversation])
        await store.redis.run("canary", keys.shard(shard), None, json.dumps({"ep": MAIL}))
        if "files" in SCRIPTS:
            await store.redis.run("files", keys.shard(shard), None, json.dumps([third]))
        assert await store.close(self.conversation) == "ok"
        page = await store.inspect(self.conversation)
        fields = dict(zip(page[0][::2], page[0][1::2], strict=True))
        assert await store.forget(self.conversation, sequence=fields["sq"], closed_at=fields["ca"]) == "ok"


async def test_every_script_stays_in_its_shards_slot(store: Store, cluster: Cluster) -> None:
    """Seen twice: Redis 7 refuses a script with a shebang that leaves its slot; MONITOR shows every key it touches."""
    assert len({slot_of(keys.shard(shard)) for shard in range(SHARDS)}) == SHARDS
    with open_primaries(cluster.url) as servers:
        strict = int(str(servers[0].info("server")["redis_version"]).split(".")[0]) >= 7
        monitors = [server.monitor() for server in servers]
        for monitor in monitors:
            monitor.__enter__()
        ran = set()
        run = store.redis.run

        async def noted(script: str, prefix: str, now_ms: int | None, argument: str) -> object:
            ran.add(script)
            if strict:
                text = "#!lua\n" + store.redis._sources[script]
                return await store.redis.call("EVAL", text, 1, prefix, "" if now_ms is None else str(now_ms), argument)
            return await run(script, prefix, now_ms, argument)

        store.redis.run = noted
        for shard in range(SHARDS):
            await Story(store, shard).tell()
        assert ran == set(SCRIPTS)
        touched = 0
        for server, monitor in zip(servers, monitors, strict=True):
            server.publish("over", "now")
            for line in iter(monitor.next_command, None):
                if line["client_type"] == "lua":
                    touched += _stays(line["command"], [keys.shard(shard) for shard in range(SHARDS)])
                elif line["command"].startswith("PUBLISH over"):
                    break
            monitor.__exit__(None, None, None)
    assert touched > 500


def _stays(command: str, prefixes: list[str]) -> int:
    """How many keys of ours a command names; each must be of a shard."""
    name, *parts = command.split(" ")
    if name.upper() in {"TIME", "SELECT"}:
        return 0
    assert any(parts[0].startswith(prefix) for prefix in prefixes), command
    if name.upper() in {"DEL", "RENAME"}:
        assert all(part.startswith(parts[0][: parts[0].index("}") + 1]) for part in parts), command
    return 1


async def test_boards_keys_and_adapters_stay_in_theirs(store: Store, cluster: Cluster) -> None:
    """Health, keys and outboxes each have a slot of their own."""
    board, control = Board(store.redis.client), Control(store.redis, SHARDS)
    fence = await board.lease_supervisor("one", 5.0)
    assert fence is not None and await board.lease_supervisor("two", 5.0) is None
    await board.commit(
        transitions=[Transition(MAIL, Direction.OUT, Status.UP, Status.DOWN, 1.0, "refused", "")], fence=fence
    )
    await board.beat("w1", "dispatch", 1.0)
    incident = await board.next_incident_id()
    assert incident == "inc-1" and not await board.open_incidents()
    assert await board.renew_supervisor("one", fence, 5.0) and await board.release_supervisor("one", fence)
    await control.set_gates({MAIL: False})
    assert await control.gates() == {MAIL: False}
    assert not await store.lease(MAIL, "w1", 10, TERMS, shard=2)
    outbox = RedisAdapterStore(store.redis, CONSOLE)
    bell = await store.redis.subscribe("tl:bell:chat/console")
    first, second = [await outbox.append("o", text, 60.0) for text in ("a", "b")]
    assert first < second and await outbox.read_after("o", 0, 10) == [(first, "a"), (second, "b")]
    deadline = asyncio.get_running_loop().time() + 5
    while (heard := await bell.get_message(ignore_subscribe_messages=True, timeout=0.2)) is None:
        assert asyncio.get_running_loop().time() < deadline
    assert heard["data"] == "o"
    await bell.aclose()
    api = ApiKeys(store.redis.client, "tl")
    _, plain = await api.create(Role.OPS, "one")
    found = await api.check(plain)
    assert found is not None and [one.id for one in await api.list()] == [found.id]
    token, _ = await api.begin_session(found)
    assert await api.session(token) is not None and await api.revoke(found.id)


async def test_a_slot_that_moves_under_load_loses_and_doubles_nothing(store: Store, cluster: Cluster) -> None:
    """A shard's slot goes to another node while messages come in; whoever was refused for the moment asks again."""
    slot = slot_of(keys.shard(1))
    at = next(one for one in cluster.servers if _holds(one.client, slot))
    to = next(one for one in cluster.servers if one is not at)
    story = Story(store, 1)
    await story.say("before")

    async def come() -> int:
        refused = 0
        for number in range(150):
            message = NewMessage(
                new_id("m", 1, 1_000), SideName.CUSTOMER, Kind.MESSAGE, "a0-bob", "Bob", Content(f"n{number}"),
                MessageClass.NORMAL, 0.0, EndpointId(""),
            )  # fmt: skip
            while True:
                try:
                    answer = await store.accept(story.conversation, message, natural_key=f"n{number}")
                except StoreUnavailable:
                    refused += 1
                    await asyncio.sleep(0.01)
                    continue
                assert answer.verdict in {"new", "duplicate"}
                break
        return refused

    coming = asyncio.create_task(come())
    await asyncio.sleep(0.05)
    await asyncio.to_thread(_move, at.client, to.client, slot, to.port)
    await coming
    assert _holds(to.client, slot)
    ids = await store.transcript_ids(story.conversation, 0, -1)
    texts = [one.content.text for one in await store.messages(ids)]
    assert texts == ["before", *(f"n{number}" for number in range(150))]
    (leased,) = await store.lease(MAIL, "w1", 10, TERMS, shard=1)
    assert leased.content.text == "before" and not leased.possible_duplicate


def _holds(client: "redis.Redis", slot: int) -> bool:
    with client:
        mine = client.execute_command("CLUSTER NODES")
    rows = mine.values() if isinstance(mine, dict) else []
    for row in rows:
        if "myself" in row["flags"]:
            return any(int(one[0]) <= slot <= int(one[-1]) for one in row["slots"])
    raise AssertionError(mine)


def _move(source: "redis.Redis", target: "redis.Redis", slot: int, port: int) -> None:
    with source, target:
        here, there = source.execute_command("CLUSTER MYID"), target.execute_command("CLUSTER MYID")
        target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", here)
        source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", there)
        while found := source.execute_command("CLUSTER GETKEYSINSLOT", slot, 20):
            source.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *found)
        for one in (target, source):
            one.execute_command("CLUSTER SETSLOT", slot, "NODE", there)


async def test_a_node_that_dies_takes_only_its_shards_with_it(store: Store, cluster: Cluster) -> None:
    """The others are served meanwhile; it comes back empty here, which is noticed."""
    stories = [Story(store, shard) for shard in range(SHARDS)]
    for story in stories:
        await story.say("before")
    lost = next(one for one in cluster.servers if _holds(one.client, slot_of(keys.shard(0))))
    theirs = [story for story in stories if _holds(lost.client, slot_of(keys.shard(story.shard)))]
    others = [story for story in stories if story not in theirs]
    assert theirs and others
    lost.stop()
    for story in others:
        for tries_left in range(20, -1, -1):  # what was under way when it died may be asked again
            try:
                await story.say(f"meanwhile {tries_left}")
                break
            except StoreUnavailable:
                assert tries_left
                await asyncio.sleep(0.05)
    with pytest.raises(StoreUnavailable):
        await theirs[0].say("to nobody")
    await asyncio.to_thread(lost.start)
    deadline = asyncio.get_running_loop().time() + 10
    while True:
        try:
            assert await store.redis.went_back(keys.shard(theirs[0].shard))
            break
        except StoreUnavailable:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.1)
    with pytest.raises(StoreUnavailable, match="older"):
        await store.lease(MAIL, "w1", 10, TERMS, shard=theirs[0].shard)
    assert await store.lease(MAIL, "w1", 10, TERMS, shard=others[0].shard)


def test_every_script_of_ours_is_among_those_tried() -> None:
    """A new one must be taken through the story, too."""
    folder = files("router.store") / "lua"
    assert {one.name for one in folder.iterdir()} == {f"{name}.lua" for name in (*SCRIPTS, "prelude")}
    assert {one.name for one in (files("health") / "lua").iterdir()} == {
        "commit.lua",
        "keep_lease.lua",
        "take_lease.lua",
    }
