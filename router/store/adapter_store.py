"""The small durable store of each adapter, in Redis."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from channels.errors import LocalFault
from health.report import EndpointId
from router.store import keys
from router.store.redis import Pipelined, StoreUnavailable

KEY_MAX = 200
VALUE_MAX = 1_000_000
TTL_MAX_S = 30 * 24 * 3600
ENTRIES_MAX = 500
"""Entries a list keeps; older ones are dropped."""
APPEND = """
local time = redis.call('TIME')
local number = math.max(redis.call('INCR', KEYS[2]), time[1] * 1000 + math.floor(time[2] / 1000))
local digits = string.format('%.0f', number)
redis.call('SET', KEYS[2], digits)
redis.call('ZADD', KEYS[1], digits, digits .. '|' .. ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -ARGV[4] - 1)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return number
"""
"""Number and entry in one step, so that a reader never sees a later entry before an earlier one.

No number is below the server's time in ms: a Redis that came back older than it was does not give out again those that
readers have seen.
"""


class RedisAdapterStore:
    """Implements `channels.tools.AdapterStore` for one endpoint."""

    def __init__(self, redis: Pipelined, endpoint: EndpointId) -> None:
        self.redis = redis
        self.endpoint = endpoint

    async def get(self, key: str) -> str | None:
        """The value, or None."""
        value = await self._call("GET", self._key(key))
        return None if value is None else str(value)

    async def put(self, key: str, value: str, ttl_s: float) -> None:
        """Set, durably, before returning."""
        await self._call("SET", self._key(key), _bounded(value), "PX", _ttl_ms(ttl_s))

    async def add(self, key: str, value: str, ttl_s: float) -> bool:
        """Set only if absent; whether it was."""
        return bool(await self._call("SET", self._key(key), _bounded(value), "PX", _ttl_ms(ttl_s), "NX"))

    async def delete(self, key: str) -> None:
        """Forget."""
        await self._call("DEL", self._key(key))

    async def collect(self, key: str, part: int, value: str, ttl_s: float) -> dict[int, str]:
        """Put one part of a set under `key` and return all parts so far."""
        where = self._key(key)
        await self._call("HSET", where, part, _bounded(value))
        await self._call("PEXPIRE", where, _ttl_ms(ttl_s))
        parts = await self._call("HGETALL", where)
        return {int(number): text for number, text in parts.items()}

    async def append(self, key: str, value: str, ttl_s: float) -> int:
        """Add to a list; its number, above all before it, never reused. Rings the endpoint's bell with the key."""
        where = self._key(key)
        number = await self._call(
            "EVAL", APPEND, 2, where, f"{where}:n", _bounded(value), _ttl_ms(ttl_s), TTL_MAX_S * 1000, ENTRIES_MAX
        )
        await self._call("PUBLISH", bell(self.endpoint), key)
        return int(number)

    async def read_after(self, key: str, number: int, count: int) -> list[tuple[int, str]]:
        """Up to `count` entries with a number above `number`, in order."""
        rows = await self._call("ZRANGEBYSCORE", self._key(key), f"({number}", "+inf", "LIMIT", 0, count)
        entries = []
        for row in rows:
            head, _, value = row.partition("|")
            entries.append((int(head), value))
        return entries

    async def listen(self) -> AsyncIterator[str]:
        """Keys of lists that grew, as they grow; ends when Redis goes away."""
        pubsub = await self.redis.subscribe(bell(self.endpoint))
        try:
            while True:
                message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=5.0)
                if message is not None:
                    yield str(message["data"])
                else:
                    await asyncio.sleep(0)
        finally:
            await pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped

    async def _call(self, *command: str | int) -> Any:
        """Adapters know nothing of our Redis: that it is away is a fault of ours, in their words."""
        try:
            return await self.redis.call(*command)
        except StoreUnavailable as error:
            raise LocalFault(str(error)) from error

    def _key(self, key: str) -> str:
        if len(key) > KEY_MAX:
            raise ValueError(f"an adapter's key may have {KEY_MAX} characters: {key[:40]!r}...")
        return keys.adapter(self.endpoint, key)


def bell(endpoint: EndpointId) -> str:
    """The publish channel of an endpoint's lists."""
    return f"tl:bell:{endpoint}"


def _bounded(value: str) -> str:
    if len(value) > VALUE_MAX:
        raise ValueError(f"an adapter's value may have {VALUE_MAX} characters, not {len(value)}")
    return value


def _ttl_ms(ttl_s: float) -> int:
    return int(min(max(ttl_s, 0.001), TTL_MAX_S) * 1000)
