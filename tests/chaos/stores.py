"""The Redis of a chaos run: behind a wire that can lose its answers, with an append-only file that can be cut; or
Sentinel's, whose replica can lag behind and be promoted."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from router.append_only import find_append_only
from router.private_redis import PrivateRedis
from tests.chaos.proxy import Proxy
from tests.topologies import Server, Watched, run_watched


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
        old, new = self.primary, self.replica
        os.kill(new.pid, signal.SIGSTOP)
        await asyncio.sleep(lag_s)
        os.kill(old.pid, signal.SIGKILL)
        os.kill(new.pid, signal.SIGCONT)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while await asyncio.to_thread(self.watched.named) != new.port:
            if loop.time() - begun > 60:
                raise TimeoutError("Sentinel promoted nobody in a minute")
            await asyncio.sleep(0.1)
        took_s = loop.time() - begun
        await asyncio.to_thread(old.stop)
        await asyncio.to_thread(old.start)
        while not await asyncio.to_thread(_follows, old, new):
            if loop.time() - begun > 60:
                raise TimeoutError("the old primary did not become a replica in a minute")
            await asyncio.sleep(0.1)
        return took_s


def _follows(replica: Server, primary: Server) -> bool:
    """Whether Sentinel has made it the other one's replica, and it is in step."""
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
