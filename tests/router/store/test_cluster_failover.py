"""A Cluster's primary dies under load and its replica is promoted: nothing promised is lost or said twice unseen."""

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from router.rollback import RollbackWatch
from router.runtime import SystemClock
from router.store import keys
from router.store.cluster import slot_of
from router.store.connecting import connect
from router.store.redis import REPLICATED_WITHIN_MS, Pipelined, StoreUnavailable
from router.store.store import Store
from tests.promised import HASTY, People
from tests.topologies import Cluster, Server, behind, cut_off, run_cluster, slots_of, until

SHARDS = 3
PROMOTED_WITHIN_S = 30.0
"""It takes some four seconds where nobody else is at work."""
DRAINED_WITHIN_S = 30.0


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three primaries, a replica of each in step."""
    chosen = os.environ.get("TEST_REDIS_SERVER")
    with (
        tempfile.TemporaryDirectory(prefix="tl-") as folder,
        run_cluster(Path(folder), Path(chosen) if chosen else None, replicated=True, durable=True) as one,
    ):
        yield one


@contextlib.asynccontextmanager
async def opened(cluster: Cluster, *, replicas: int) -> AsyncIterator[Store]:
    redis = Pipelined(connect(cluster.url), replicas=replicas)
    try:
        yield Store(redis, shards=SHARDS)
    finally:
        await redis.close()


def pair_of(cluster: Cluster, shard: int) -> tuple[Server, Server]:
    return cluster.pair_of(slot_of(keys.shard(shard)))


async def promote(primary: Server, replica: Server) -> None:
    """The primary is gone without a word; the others notice and let its replica take over."""
    os.kill(primary.pid, signal.SIGKILL)
    primary.stop()
    await asyncio.to_thread(until, lambda: slots_of(replica), "the replica is promoted", PROMOTED_WITHIN_S)


async def speak(people: People, watch: RollbackWatch, over: asyncio.Event) -> None:
    """As a dispatcher does, until it is over and nothing is missing; half a minute more at most."""
    late = float("inf")
    while asyncio.get_running_loop().time() < late:
        try:
            await people.say()
            if over.is_set() and not people.lost():
                return
        except StoreUnavailable:
            with contextlib.suppress(StoreUnavailable):
                await watch.look(people.shard)
        if over.is_set():
            late = min(late, asyncio.get_running_loop().time() + DRAINED_WITHIN_S)
        await asyncio.sleep(0.01)


async def test_a_promotion_under_load_loses_and_reorders_nothing_and_stops_no_other_shard(cluster: Cluster) -> None:
    """The replica lags. Acknowledged is what two nodes have: all of it is said, in its order, none twice unmarked."""
    async with opened(cluster, replicas=1) as store:
        watch = RollbackWatch(store, SystemClock())
        everybody = [People(store, shard, HASTY) for shard in range(SHARDS)]
        enough, over = asyncio.Event(), asyncio.Event()

        async def write(people: People) -> None:
            while not enough.is_set():
                conversation = await people.write()
                for _ in range(20):
                    await people.go_on(conversation)
                    await asyncio.sleep(0.02)

        senders = [asyncio.create_task(speak(people, watch, over)) for people in everybody]
        writers = [asyncio.create_task(write(people)) for people in everybody for _ in range(3)]
        await asyncio.sleep(1.0)
        lost, replica = pair_of(cluster, 0)
        others = [people for people in everybody if slot_of(keys.shard(people.shard)) not in slots_of(lost)]
        await asyncio.to_thread(cut_off, lost, replica)
        await asyncio.sleep(0.2)  # what the replica has already is acknowledged
        before = [len(people.promised) for people in everybody]
        await asyncio.sleep(REPLICATED_WITHIN_MS / 1000 + 0.5)
        assert len(everybody[0].promised) == before[0], "acknowledged, though no replica has it"
        meanwhile = [len(people.promised) for people in others]
        await promote(lost, replica)
        assert others and all(len(people.promised) > count for people, count in zip(others, meanwhile, strict=True)), (
            "the other nodes' shards go on"
        )
        store.redis.replicas = 0  # the new primary has nobody to wait for; the old one comes back below
        with replica.client as client:
            client.config_set("masterauth", "")
        await asyncio.to_thread(lost.start)
        await asyncio.to_thread(until, lambda: behind(replica, lost) >= 0 and _follows(lost), "it follows", 30.0)
        store.redis.replicas = 1
        await asyncio.sleep(1.0)
        enough.set()
        await asyncio.gather(*writers)
        over.set()
        await asyncio.gather(*senders)
    for people, count in zip(everybody, before, strict=True):
        assert len(people.promised) > count, f"shard {people.shard} goes on"
        assert not people.lost() and not people.doubled_unseen() and not people.out_of_order()


def _follows(server: Server) -> bool:
    with server.client as client:
        facts = client.info("replication")
    return facts["role"] == "slave" and facts["master_link_status"] == "up"


async def test_what_a_promoted_replica_did_not_have_is_noticed_in_its_shard_alone(cluster: Cluster) -> None:
    """Sent and recorded where it is lost: it goes out again with a mark. The other shards mark nothing."""
    async with opened(cluster, replicas=0) as store:
        watch = RollbackWatch(store, SystemClock())
        lost, replica = pair_of(cluster, 0)
        ours = People(store, 0)
        other = next(
            People(store, shard) for shard in range(SHARDS) if slot_of(keys.shard(shard)) not in slots_of(lost)
        )
        for people in (ours, other):
            for _ in range(20):
                await people.write()
        await asyncio.to_thread(until, lambda: behind(lost, replica) == 0, "the replica has them")
        cut_off(lost, replica)
        assert await ours.say() == 20
        await promote(lost, replica)
        await ours.write()  # written anew, which hides nothing
        with pytest.raises(StoreUnavailable, match="older"):
            while True:  # the first calls may find a broken connection, or the old map of slots
                try:
                    await ours.lease()
                except StoreUnavailable as error:
                    if "older" in str(error):
                        raise
                    await asyncio.sleep(0.05)
        assert await watch.look(0)
        assert not await watch.look(other.shard)
        while await ours.say():
            pass
        assert len(ours.said) == 41 and not ours.doubled_unseen()
        assert sum(flagged for _, flagged in ours.said[20:]) >= 20
        assert await other.say() == 20
        assert not any(flagged for _, flagged in other.said)
