"""The Redis of a chaos run: behind a wire that loses answers, with a file that can be cut; Sentinel's; a Cluster."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from router.append_only import find_append_only
from router.private_redis import PrivateRedis
from router.settings import default_broker_url
from router.store import keys
from router.store.cluster import slot_of
from tests.chaos.proxy import Proxy
from tests.topologies import Cluster, Server, Watched, run_cluster, run_watched, slots_of

SHARDS = 3
PROMOTED_WITHIN_S = 60.0


class Store(Protocol):
    """Whatever it is made of."""

    @property
    def pid(self) -> int | None:
        """Of the living server that a fault strikes."""

    @property
    def settings(self) -> dict[str, object]:
        """How roles find it."""


class Replicated(Store, Protocol):
    """One whose replica takes over."""

    async def promote_behind(self, lag_s: float) -> float:
        """Let a replica fall behind for a while, then kill its primary under it; seconds until it was promoted."""


class CuttableRedis(PrivateRedis):
    """A private Redis whose files somebody may damage while it is dead."""

    damage: Callable[[], None] | None = None
    """What to do before it starts again; once."""

    def start(self) -> None:
        """As ever, on what is left."""
        damage, self.damage = self.damage, None
        if damage is not None:
            damage()
        super().start()

    @property
    def append_only_file(self) -> Path:
        """The one that is written to."""
        found = find_append_only(self.folder)
        assert found is not None
        return found


@dataclass(slots=True)
class OneRedis:
    """The private Redis of `throughline up`, and the wire that everybody speaks to it over."""

    server: CuttableRedis
    wire: Proxy
    wire_path: Path

    @property
    def pid(self) -> int | None:
        """Of the living server."""
        return self.server.pid

    @property
    def settings(self) -> dict[str, object]:
        """How roles find it."""
        return {"redis_url": f"unix://{self.wire_path}?db=0"}


@asynccontextmanager
async def one_redis(folder: Path) -> AsyncIterator[OneRedis]:
    """A durable one, started; the tree restarts it, and ends it."""
    server = CuttableRedis(folder)
    await asyncio.to_thread(server.start)
    wire, path = Proxy("", 0, path=str(server.socket)), folder.parent / "wire.sock"
    await wire.start(str(path))
    try:
        yield OneRedis(server, wire, path)
    finally:
        await wire.stop()
        server.stop()


@dataclass(slots=True)
class WatchedRedis:
    """Sentinel's pair: a primary and its replica."""

    watched: Watched

    @property
    def pid(self) -> int | None:
        """Of the living primary."""
        process = self.primary.process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def settings(self) -> dict[str, object]:
        """How roles find it."""
        return {"redis_url": self.watched.url}

    @property
    def primary(self) -> Server:
        """As Sentinel sees it."""
        named = self.watched.named()
        return next(one for one in self.both if one.port == named)

    @property
    def replica(self) -> Server:
        """The other one."""
        return next(one for one in self.both if one.port != self.primary.port)

    @property
    def both(self) -> tuple[Server, Server]:
        """Whoever is what at the moment."""
        return self.watched.primary, self.watched.replica

    async def promote_behind(self, lag_s: float) -> float:
        """Let the replica fall behind for a while, then kill the primary under it; seconds until it was promoted.

        The old primary comes back as its replica: until then nothing can be acknowledged.
        """
        return await _promote_behind(
            self.primary, self.replica, lag_s, lambda promoted: self.watched.named() == promoted.port
        )


@dataclass(slots=True)
class ClusteredRedis:
    """Three primaries, each with its replica, and a Redis of its own for Celery, which can use no Cluster."""

    cluster: Cluster
    broker: PrivateRedis

    @property
    def pid(self) -> int | None:
        """Of the living primary of the first shard."""
        try:
            return self.pair[0].pid
        except (LookupError, OSError):
            return None

    @property
    def settings(self) -> dict[str, object]:
        """How roles find it."""
        return {"redis_url": self.cluster.url, "broker_url": default_broker_url(self.broker.url)}

    @property
    def pair(self) -> tuple[Server, Server]:
        """Who holds the first shard, and who would take over."""
        return self.cluster.pair_of(slot_of(keys.shard(0)))

    async def promote_behind(self, lag_s: float) -> float:
        """Let the first shard's replica fall behind, then kill the primary under it; seconds until it was promoted."""
        old, new = await asyncio.to_thread(lambda: self.pair)
        return await _promote_behind(old, new, lag_s, lambda promoted: bool(slots_of(promoted)))


async def _promote_behind(old: Server, new: Server, lag_s: float, is_promoted: Callable[[Server], bool]) -> float:
    """The old primary comes back as a replica: until then nothing can be acknowledged."""
    os.kill(new.pid, signal.SIGSTOP)
    await asyncio.sleep(lag_s)
    os.kill(old.pid, signal.SIGKILL)
    os.kill(new.pid, signal.SIGCONT)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while not await asyncio.to_thread(is_promoted, new):
        if loop.time() - begun > PROMOTED_WITHIN_S:
            raise TimeoutError("nobody was promoted in a minute")
        await asyncio.sleep(0.1)
    took_s = loop.time() - begun
    await asyncio.to_thread(old.stop)
    await asyncio.to_thread(old.start)
    while not await asyncio.to_thread(_follows, old, new):
        if loop.time() - begun > PROMOTED_WITHIN_S:
            raise TimeoutError("the old primary did not become a replica in a minute")
        await asyncio.sleep(0.1)
    return took_s


def _follows(replica: Server, primary: Server) -> bool:
    """Whether it is the other one's replica by now, and in step."""
    with replica.client as client:
        facts = client.info("replication")
    return facts["role"] == "slave" and facts["master_port"] == primary.port and facts["master_link_status"] == "up"


@asynccontextmanager
async def watched_redis(folder: Path) -> AsyncIterator[WatchedRedis]:
    """Two servers that write everything through, and three sentinels."""
    context = run_watched(folder, durable=True)
    watched = await asyncio.to_thread(context.__enter__)
    try:
        yield WatchedRedis(watched)
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


@contextmanager
def _run_clustered(folder: Path) -> Iterator[ClusteredRedis]:
    broker = PrivateRedis(folder / "broker")
    with run_cluster(folder, replicated=True, durable=True) as cluster:
        broker.start()
        try:
            yield ClusteredRedis(cluster, broker)
        finally:
            broker.stop()


@asynccontextmanager
async def clustered_redis(folder: Path) -> AsyncIterator[ClusteredRedis]:
    """Six servers that write everything through, and the broker."""
    context = _run_clustered(folder)
    try:
        yield await asyncio.to_thread(context.__enter__)
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


@dataclass(frozen=True, slots=True)
class Kind:
    """How a run's store is opened."""

    opened: Callable[[Path], AbstractAsyncContextManager[Store]]
    head: str = ""
    """What the settings say of it: nothing is acknowledged that the replica has not."""


STORES = {
    "private": Kind(one_redis),
    "sentinel": Kind(watched_redis, "redis_replicas = 1\n"),
    "cluster": Kind(clustered_redis, f"redis_replicas = 1\nshards = {SHARDS}\n"),
}
"""In the order they are played."""
