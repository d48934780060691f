"""A replica is promoted that did not have everything: what is lost is noticed, and nothing is said twice unseen."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from router.rollback import RollbackWatch
from router.runtime import SystemClock
from router.store.connecting import connect
from router.store.redis import REPLICATED_WITHIN_MS, Pipelined, StoreUnavailable
from router.store.store import Store
from tests.promised import People
from tests.topologies import Watched, behind, cut_off, run_watched, until


@pytest.fixture
def watched() -> Iterator[Watched]:
    """A primary, a replica in step, one sentinel."""
    chosen = os.environ.get("TEST_REDIS_SERVER")
    with (
        tempfile.TemporaryDirectory(prefix="tl-") as folder,
        run_watched(Path(folder), Path(chosen) if chosen else None, sentinels=1) as one,
    ):
        yield one


@contextlib.asynccontextmanager
async def opened(url: str, *, replicas: int = 0) -> AsyncIterator[Store]:
    redis = Pipelined(connect(url), replicas=replicas)
    try:
        yield Store(redis)
    finally:
        await redis.close()


async def promote(watched: Watched) -> None:
    """The primary is gone without a word; the sentinel notices and names the replica."""
    old = watched.named()
    watched.primary.stop()
    await asyncio.to_thread(until, lambda: watched.named() != old, "the replica is promoted", 30.0)


async def test_what_a_promoted_replica_did_not_have_is_noticed_and_flagged(watched: Watched) -> None:
    """Sent and recorded where it is lost: it goes out again with a mark. What came later goes out once, without."""
    async with opened(watched.url) as store:
        people = People(store)
        watch = RollbackWatch(store, SystemClock())
        for _ in range(20):
            await people.write()
        await asyncio.to_thread(until, lambda: behind(watched.primary, watched.replica) == 0, "the replica has them")
        cut_off(watched.primary, watched.replica)
        assert await people.say() == 20
        lost = len(people.promised)
        for _ in range(10):
            await people.write()
        await promote(watched)
        await people.write()
        with pytest.raises(StoreUnavailable):
            while True:  # connections that broke are made anew first
                await people.lease()
        assert await watch.look(0)
        while await people.say():
            pass
        again = [(message, flagged) for message, flagged in people.said[20:] if message in people.promised[:lost]]
        assert len(again) == 20 and all(flagged for _, flagged in again)
        assert not people.doubled_unseen()
        # Ten were acknowledged and are gone: the edge keeps its own copies for that (the spool), and an operator who
        # wants them here asks for a replica's word (the next test).
        assert len({message for message, _ in people.said}) == 21


async def test_who_waits_for_a_replica_is_promised_nothing_that_a_promotion_loses(watched: Watched) -> None:
    """Under load: everything acknowledged is there after the promotion, and nothing is said twice without a mark."""
    async with opened(watched.url, replicas=1) as store:
        people = People(store)
        watch = RollbackWatch(store, SystemClock())
        over = asyncio.Event()

        async def write() -> None:
            while not over.is_set():
                await people.write()

        async def say() -> None:
            while True:
                try:
                    if not await people.say() and over.is_set():
                        return
                except StoreUnavailable:
                    with contextlib.suppress(StoreUnavailable):
                        await watch.look(0)
                await asyncio.sleep(0.01)

        writers = [asyncio.create_task(write()) for _ in range(4)]
        sender = asyncio.create_task(say())
        await asyncio.sleep(0.5)
        cut_off(watched.primary, watched.replica)
        await asyncio.sleep(0.2)  # what the replica has already is acknowledged
        before = len(people.promised)
        await asyncio.sleep(REPLICATED_WITHIN_MS / 1000 + 0.5)
        assert len(people.promised) == before, "acknowledged, though no replica has it"
        await promote(watched)
        store.redis.replicas = 0  # nobody is left to wait for
        await asyncio.sleep(1.0)
        over.set()
        await asyncio.gather(*writers)
        await sender
        assert {message for message, _ in people.said} >= set(people.promised)
        assert not people.doubled_unseen()
        assert len(people.promised) > before


async def test_what_only_the_primary_has_is_no_duplicate_yet(watched: Watched) -> None:
    """Who asks again whether it was taken is promised nothing before the replica has it."""
    async with opened(watched.url, replicas=1) as store:
        people = People(store)
        await people.write()
        (taken,) = people.promised
        assert await store.natural_key(0, taken) is not None
        cut_off(watched.primary, watched.replica)
        writing = asyncio.create_task(people.write())
        with watched.primary.client as primary:
            await asyncio.to_thread(
                until, lambda: len(list(primary.scan_iter("tl:{s0}:nk:*"))) == 2, "the primary has it"
            )
            (unsafe,) = {one.removeprefix("tl:{s0}:nk:") for one in primary.scan_iter("tl:{s0}:nk:*")} - {taken}
        with pytest.raises(StoreUnavailable, match="replicas"):
            await store.natural_key(0, unsafe)
        assert people.promised == [taken]
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
