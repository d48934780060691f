"""What every row of the bench stands on: a Redis that syncs every write, a provider, a contender, and their figures."""

import asyncio
import json
import statistics
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

from router.bench.child import Child, Cores, child, choose_cores, pin
from router.bench.load import Verified, verify, whose
from router.private_redis import PrivateRedis
from router.store.connecting import connect
from router.store.people import People
from router.store.redis import Pipelined
from router.store.store import Store

PROVIDER = "router.bench.provider"
CONTENDER = "router.bench.contender"
LOOK_EVERY_S = 0.005
TAKEN_WITHIN_S = 100.0


class NotVerified(Exception):
    """The provider's journal does not hold what was sent: the figure would be worthless, so there is none."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Repeated measurements of one thing."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one; 0 where there are none."""
        return statistics.median(self.values) if self.values else 0.0

    def show(self, digits: int = 2) -> str:
        """`median [least..most]`."""
        if not self.values:
            return "-"
        return f"{self.median:,.{digits}f} [{min(self.values):,.{digits}f}..{max(self.values):,.{digits}f}]"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    ours: str
    beside: str
    ratio: str
    reach: str
    reached: bool | None = None
    """None: nothing was promised."""


def ratios(ours: Sequence[float], beside: Sequence[float]) -> Spread:
    """Each repetition's own ratio: what disturbed one side of it most likely disturbed the other."""
    return Spread(tuple(one / other for one, other in zip(ours, beside, strict=True)))


@dataclass(slots=True)
class Stage:
    """Everything a row needs. Redis, provider and this process run on one core, the contender on another."""

    folder: Path
    server: PrivateRedis
    provider_url: str
    redis: Pipelined
    store: Store
    people: People
    cores: Cores
    _http: aiohttp.ClientSession
    strangers: Iterator[int] = field(default_factory=lambda: count(5_000_000))
    """Numbers of people nobody else uses."""
    _contender: Child | None = None

    @property
    def contender(self) -> Child:
        """The contender of this part of the bench."""
        if self._contender is None:
            raise RuntimeError("no part of the bench has begun")
        return self._contender

    @asynccontextmanager
    async def part(self) -> AsyncIterator[None]:
        """One part of the bench: an empty Redis, an empty journal and a contender that knows of nothing before.

        A living router takes a Redis that lost everything for one that came back older than it was, and is right.
        """
        await self.redis.call("FLUSHALL")
        await self.journal()
        async with self.another(0, self.cores.own) as one:
            self._contender = one
            try:
                yield
            finally:
                self._contender = None

    async def journal(self) -> list[tuple[int, str]]:
        """What the provider took since it was last asked: when, in monotonic nanoseconds, and the text."""
        async with self._http.get(f"{self.provider_url}/journal") as response:
            found: list[tuple[int, str]] = [(at, text) for at, text in json.loads(await response.read())]
            return found

    async def arrivals(self) -> dict[int, int]:
        """When each conversation's message came, by its number, in monotonic nanoseconds."""
        return {conversation: at for at, text in await self.journal() if (conversation := whose(text)) is not None}

    async def taken(self, wanted: int) -> None:
        """Return when the provider has taken that many messages.

        Raises:
            TimeoutError: it did not within 100 s.
        """
        async with asyncio.timeout(TAKEN_WITHIN_S):
            while True:
                async with self._http.get(f"{self.provider_url}/count") as response:
                    if int(await response.read()) >= wanted:
                        return
                await asyncio.sleep(LOOK_EVERY_S)

    async def check(self, conversations: int, each: int, *, ordered: bool = True) -> Verified:
        """Read the journal back.

        Raises:
            NotVerified: something was lost, doubled or out of order.
        """
        found = verify([text for _, text in await self.journal()], conversations, each, ordered=ordered)
        if not found.clean:
            raise NotVerified(f"the provider's journal is not what was sent: {found}")
        return found

    async def info(self, section: str) -> dict[str, Any]:
        """Redis about itself."""
        found: dict[str, Any] = await self.redis.client.info(section)
        return found

    async def redis_cpu_s(self) -> float:
        """Seconds of CPU that Redis has used."""
        found = await self.info("cpu")
        return float(found["used_cpu_sys"]) + float(found["used_cpu_user"])

    @asynccontextmanager
    async def another(self, number: int, cores: frozenset[int]) -> AsyncIterator[Child]:
        """A further contender on these cores, ready."""
        arguments = (str(self.folder), self.server.url, self.provider_url)
        async with child(self.folder, CONTENDER, *arguments, name=f"contender-{number}", cores=cores) as one:
            await one.ask(do="stop")  # answered once it has started
            yield one


@asynccontextmanager
async def set_stage() -> AsyncIterator[Stage]:
    """Start everything in a temporary folder; everything is gone at the end."""
    cores = choose_cores()
    pin(cores.shared)
    try:
        with tempfile.TemporaryDirectory(prefix="throughline-bench-") as name:
            folder = Path(name)
            # Its file is rewritten on whatever core is free, as where nobody pins it.
            everywhere = ",".join(str(core) for core in sorted(cores.every))
            more = ("--aof_rewrite_cpulist", everywhere) if everywhere else ()
            server = PrivateRedis(folder / "redis", more=more)
            server.start()
            try:
                async with _staged(folder, server, cores) as stage:
                    yield stage
            finally:
                server.stop()
    finally:
        pin(cores.every)


@asynccontextmanager
async def _staged(folder: Path, server: PrivateRedis, cores: Cores) -> AsyncIterator[Stage]:
    async with child(folder, PROVIDER, cores=cores.shared) as provider, aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{(await provider.heard())['port']}"
        redis = Pipelined(connect(server.url))
        try:
            yield Stage(folder, server, url, redis, Store(redis), People(redis), cores, http)
        finally:
            await redis.close()
