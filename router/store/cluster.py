"""Which node of a Redis Cluster holds a key: the map of slots, read anew when a node says that it is wrong."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Any

import redis.asyncio
from redis.asyncio.connection import AbstractConnection
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from router.store.connecting import Place

MAP_READ_LEAST_S = 0.1
"""Between two readings of the map, at least: many callers are told of one change at once."""
SCRIPTED = frozenset({"EVAL", "EVALSHA"})
Command = tuple[Any, ...]
Pool = redis.asyncio.ConnectionPool


@lru_cache(maxsize=10_000)
def slot_of(key: str) -> int:
    """The slot of a key."""
    return key_slot(key.encode())


def key_of(command: Command) -> str:
    """What decides where a command goes; empty: any node can answer it.

    Scripts go by their first key, SCAN by its pattern, whose hash tag is that of every key it may match.
    """
    name = command[0]
    if name in SCRIPTED:
        return str(command[3]) if int(command[2]) else ""
    if name == "SCAN":
        return str(command[command.index("MATCH") + 1]) if "MATCH" in command else ""
    return str(command[1]) if len(command) > 1 else ""


class ClusterMap:
    """A pool of connections for each primary, and which of them holds which slot."""

    def __init__(
        self,
        places: Sequence[Place],
        facts: dict[str, Any],
        on_connect: Callable[[AbstractConnection], Awaitable[None]],
    ) -> None:
        self._seeds = tuple(places)
        self._facts = facts
        self._on_connect = on_connect
        self._pools: dict[Place, Pool] = {}
        self._owners: list[Place | None] = []
        self._read_at = -1e9
        self._reading = asyncio.Lock()

    async def pool_of(self, command: Command) -> Pool:
        """Where a command goes. Raises RedisConnectionError: no node could be asked, or nobody holds the slot."""
        if not self._owners:
            await self.read()
        key = key_of(command)
        owner = self._owners[slot_of(key)] if key else self._anybody()
        if owner is None:
            raise RedisConnectionError(f"nobody in the cluster holds what {key} belongs to")
        return self.pool_at(owner)

    def _anybody(self) -> Place | None:
        return next((owner for owner in self._owners if owner is not None), None)

    def pool_at(self, place: Place) -> Pool:
        """The connections to one node."""
        if place not in self._pools:
            facts = self._facts | {"host": place[0], "port": place[1], "redis_connect_func": self._on_connect}
            tls = facts.pop("ssl", False)
            kind = redis.asyncio.SSLConnection if tls else redis.asyncio.Connection
            self._pools[place] = redis.asyncio.ConnectionPool(connection_class=kind, **facts)
        return self._pools[place]

    async def read(self) -> None:
        """Ask the nodes we know, then those of the settings, until one says who holds what.

        Raises:
            RedisConnectionError: none of them could be asked.
        """
        asked_at = time.monotonic()
        async with self._reading:
            if self._owners and (self._read_at > asked_at or asked_at - self._read_at < MAP_READ_LEAST_S):
                return
            fault = "no node was named"
            for place in dict.fromkeys((*self._pools, *self._seeds)):
                try:
                    owners = await self._ask(place)
                except (RedisError, OSError, TimeoutError) as error:
                    self.forget(self.pool_at(place))
                    fault = f"{place[0]}:{place[1]}: {error}"
                    continue
                self._owners = owners
                self._read_at = time.monotonic()
                return
            raise RedisConnectionError(f"no node of the cluster says who holds what: {fault}")

    async def client(self) -> "redis.asyncio.Redis":
        """A client of one of the primaries. Raises RedisConnectionError: no node could be asked."""
        if not self._owners:
            await self.read()
        places = [place for place in dict.fromkeys(self._owners) if place is not None]
        if not places:
            raise RedisConnectionError("nobody in the cluster holds anything")
        return redis.asyncio.Redis(connection_pool=self.pool_at(random.choice(places)))

    def forget(self, silent: Pool) -> None:
        """A node did not answer: look who is there before anything else is asked, and ask that one last."""
        self._owners = []
        for place, pool in list(self._pools.items()):
            if pool is silent:
                self._pools[place] = self._pools.pop(place)

    async def close(self) -> None:
        """Disconnect from every node."""
        for pool in self._pools.values():
            await pool.aclose()

    async def _ask(self, place: Place) -> list[Place | None]:
        client: Any = redis.asyncio.Redis(connection_pool=self.pool_at(place))
        rows = await client.execute_command("CLUSTER SLOTS")
        owners: list[Place | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, holder in _ranges(rows):
            # A node that does not know its own name yet leaves it out: it is the one we asked.
            owner = (holder[0] or place[0], holder[1])
            owners[first : last + 1] = [owner] * (last + 1 - first)
        return owners


def _ranges(rows: Any) -> list[tuple[int, int, Place]]:
    """`CLUSTER SLOTS`, as redis-py hands it out parsed, or as the server wrote it."""
    if isinstance(rows, dict):
        return [(first, last, (str(row["primary"][0]), int(row["primary"][1]))) for (first, last), row in rows.items()]
    return [(int(row[0]), int(row[1]), (str(row[2][0] or ""), int(row[2][1]))) for row in rows]
