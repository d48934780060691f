"""Settles many attempts in one script call: what ends while a call is under way goes with the next one."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from router.store.asked import Settlement
from router.store.redis import StoreUnavailable
from router.store.store import BATCH_MAX, Store

Waiting = tuple[Settlement, asyncio.Future[str]]


@dataclass(slots=True)
class Settling:
    """What one process has to settle, by shard. A cancelled caller does not take its settlement back."""

    store: Store
    _waiting: dict[int, deque[Waiting]] = field(default_factory=dict)
    _under_way: dict[int, asyncio.Task[None]] = field(default_factory=dict)

    async def settle(self, shard: int, settlement: Settlement) -> str:
        """Record what came of an attempt; see `Store.settle`.

        Raises:
            StoreUnavailable: Redis did not answer; ask again, the fence sees to it.
        """
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(shard, deque()).append((settlement, future))
        if shard not in self._under_way:
            self._under_way[shard] = asyncio.create_task(self._settle_all(shard))
        return await future

    async def _settle_all(self, shard: int) -> None:
        waiting = self._waiting[shard]
        try:
            while waiting:
                batch = [waiting.popleft() for _ in range(min(len(waiting), BATCH_MAX))]
                await self._settle_batch(shard, batch)
        finally:
            del self._under_way[shard]

    async def _settle_batch(self, shard: int, batch: list[Waiting]) -> None:
        try:
            answers = await self.store.settle(shard, [settlement for settlement, _ in batch])
        except StoreUnavailable as error:
            for _, future in batch:
                _fail(future, error)
        except (RedisError, ValueError) as error:
            # One that cannot be written, or that a script stumbles over, must not keep the others from being settled.
            if len(batch) == 1:
                _fail(batch[0][1], error)
                return
            for one in batch:
                await self._settle_batch(shard, [one])
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)


def _fail(future: asyncio.Future[str], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # retrieved: a caller that is gone must not make a warning of it
