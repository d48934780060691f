"""A replica is promoted that did not have everything: what is lost is noticed, and nothing is said twice unseen."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from channels.messages import Content, Kind
from health.report import EndpointId
from router.domain.conversation import MessageClass, SideName
from router.domain.ids import new_id
from router.rollback import RollbackWatch
from router.runtime import SystemClock
from router.store.asked import LeaseTerms, NewConversation, NewLeg, NewMessage, Settlement
from router.store.connecting import connect
from router.store.redis import REPLICATED_WITHIN_MS, Pipelined, StoreUnavailable
from router.store.store import Store
from tests.topologies import Watched, run_watched, until

MAIL = EndpointId("email/support")
TERMS = LeaseTerms(lease_s=8.0, hold_s={"normal": 60.0}, idempotent=False, attempts_max=3)


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


class People:
    """Everybody who was promised something, and everything that was really said."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.promised: list[str] = []
        self.said: list[tuple[str, bool]] = []

    async def write(self) -> None:
        """One message in a conversation of its own; the same again, under the same key, until it is acknowledged."""
        conversation, message = new_id("v", 0, 1_000), new_id("m", 0, 1_000)
        new = NewMessage(
            message, SideName.CUSTOMER, Kind.MESSAGE, "a0-bob", "Bob", Content(message), MessageClass.NORMAL, 0.0,
            EndpointId(""),
        )  # fmt: skip
        legs = NewLeg("c0-ann", MAIL, f"email:{message}@x.test"), NewLeg("", EndpointId("chat/console"), "chat:console")
        create = NewConversation("c0-ann", message[-5:], "Order", "en", MessageClass.NORMAL, 5, "", *legs)
        while True:
            try:
                await self.store.accept(conversation, new, natural_key=message, create=create)
            except StoreUnavailable:
                await asyncio.sleep(0.05)
                continue
            self.promised.append(message)
            return

    async def say(self) -> int:
        """Whatever is due goes out, and is recorded as sent; how many."""
        leased = await self.store.lease(MAIL, "w1", 50, TERMS)
        self.said += [(one.message_id, one.possible_duplicate) for one in leased]
        rows = [
            Settlement(one.conversation_id, one.side, one.message_id, one.number, one.fence, "sent") for one in leased
        ]
        await self.store.settle(0, rows)
        return len(leased)

    def doubled_unseen(self) -> set[str]:
        """Said again without saying that it may be a repeat."""
        seen: set[str] = set()
        again = set()
        for message, flagged in self.said:
            if message in seen and not flagged:
                again.add(message)
            seen.add(message)
        return again


def cut_off(watched: Watched) -> None:
    """The replica loses its primary, and cannot come back to it: a password that it does not know is not taken."""
    with watched.replica.client as replica, watched.primary.client as primary:
        replica.config_set("masterauth", "wrong")
        primary.execute_command("CLIENT", "KILL", "TYPE", "replica")
        until(lambda: replica.info("replication")["master_link_status"] == "down", "the replica is cut off")


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
        await asyncio.to_thread(until, lambda: _offset(watched) == 0, "the replica has them")
        cut_off(watched)
        assert await people.say() == 20
        lost = len(people.promised)
        for _ in range(10):
            await people.write()
        await promote(watched)
        await people.write()
        with pytest.raises(StoreUnavailable):
            while True:  # connections that broke are made anew first
                await store.lease(MAIL, "w1", 1, TERMS)
        assert await watch.look(0)
        while await people.say():
            pass
        again = [(message, flagged) for message, flagged in people.said[20:] if message in people.promised[:lost]]
        assert len(again) == 20 and all(flagged for _, flagged in again)
        assert not people.doubled_unseen()
        # Ten were acknowledged and are gone: the edge keeps its own copies for that (the spool), and an operator who
        # wants them here asks for a replica's word (the next test).
        assert len({message for message, _ in people.said}) == 21


def _offset(watched: Watched) -> int:
    """How far the replica is behind, in octets."""
    with watched.primary.client as primary, watched.replica.client as replica:
        ours = int(primary.info("replication")["master_repl_offset"])
        return ours - int(replica.info("replication")["slave_repl_offset"])


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
        cut_off(watched)
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
        cut_off(watched)
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
