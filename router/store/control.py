"""What the control plane keeps: gates, forced failovers, the pace of each target."""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from health.report import EndpointId
from router.store import keys
from router.store.clock import server_ms
from router.store.redis import Pipelined

GATE_TTL_S = 60.0
"""A gate lapses unless the supervisor renews it; lapsed, one message at a time may try."""
FAILOVERS_OVER_MAX = 200
"""Forced failovers that are over are kept up to this number, the latest ones; whatever still holds is kept besides."""


@dataclass(frozen=True, slots=True)
class EarlyReceipt:
    """What a vendor said of a message before we knew which attempt its id means."""

    state: str
    reason: str
    permanent: bool
    final: bool


class Control:
    """Written by the supervisor and the command line; read inside `lease` and by the planner."""

    def __init__(self, redis: Pipelined, shards: int = 1, *, now_ms: Callable[[], int] | None = None) -> None:
        self.redis = redis
        self.shards = shards
        self._now_ms = now_ms

    async def set_gates(self, gates: Mapping[EndpointId, bool], ttl_s: float = GATE_TTL_S) -> None:
        """Write gates (True: open) to every shard, for `ttl_s` by Redis' clock; returns when all are acknowledged."""
        until = await self._clock_ms() + int(ttl_s * 1000)
        for number in range(self.shards):
            flat = [part for endpoint, is_open in gates.items() for part in (endpoint, _dump_gate(is_open, until))]
            if flat:
                await self.redis.call("HSET", f"{keys.shard(number)}gate", *flat)

    async def gates(self) -> dict[EndpointId, bool]:
        """Gates that are in force, True for open; an endpoint nobody has spoken of is open."""
        rows, now_ms = await asyncio.gather(self.redis.call("HGETALL", f"{keys.shard(0)}gate"), self._clock_ms())
        found = {}
        for endpoint, text in rows.items():
            state, _, until = text.partition("|")
            found[EndpointId(endpoint)] = state == "open" or int(until) <= now_ms
        return found

    async def _clock_ms(self) -> int:
        return self._now_ms() if self._now_ms else await server_ms(self.redis)

    async def save_failover(self, identity: str, facts: Mapping[str, object]) -> None:
        """Write a forced failover."""
        await self.redis.call("HSET", keys.FAILOVERS, identity, json.dumps(facts))

    async def failovers(self, now: float) -> dict[str, dict[str, Any]]:
        """Every forced failover that is not over at `now` (unix seconds), and the last 200 that are."""
        rows = await self.redis.call("HGETALL", keys.FAILOVERS)
        found = {identity: json.loads(text) for identity, text in sorted(rows.items())}
        over = [identity for identity, row in found.items() if _is_over(row, now)]
        for old in over[:-FAILOVERS_OVER_MAX]:
            await self.redis.call("HDEL", keys.FAILOVERS, old)
            del found[old]
        return found

    async def save_pace(self, rows: Mapping[EndpointId, Mapping[str, float]]) -> None:
        """Write the token buckets of targets."""
        flat = [part for endpoint, row in rows.items() for part in (endpoint, json.dumps(row))]
        if flat:
            await self.redis.call("HSET", "tl:pace", *flat)

    async def pace(self) -> dict[EndpointId, dict[str, float]]:
        """The token buckets of targets."""
        rows = await self.redis.call("HGETALL", "tl:pace")
        return {EndpointId(endpoint): json.loads(text) for endpoint, text in rows.items()}

    async def claim_vendor_id(self, endpoint: EndpointId, vendor_ids: Iterable[str], token: str) -> list[EarlyReceipt]:
        """Say which attempt a vendor's ids mean; the receipts that came first, until `drop_early`."""
        waiting = []
        for identity in vendor_ids:
            key = keys.vendor_id(endpoint, identity)
            # One round trip: what begins in one tick is asked in this order.
            _, _, early = await asyncio.gather(
                self.redis.call("HSET", key, "token", token),
                self.redis.call("EXPIRE", key, 7 * 24 * 3600),
                self.redis.call("HGET", key, "early"),
            )
            if early:
                waiting.append(_load_early(str(early)))
        return waiting

    async def drop_early(self, endpoint: EndpointId, vendor_ids: Iterable[str]) -> None:
        """Forget receipts that came before their attempt was known: it has them now."""
        for identity in vendor_ids:
            await self.redis.call("HDEL", keys.vendor_id(endpoint, identity), "early")

    async def token_of(self, endpoint: EndpointId, vendor_id: str, early: EarlyReceipt | None = None) -> str:
        """The token of the attempt a vendor id means; or '' and `early`, if given, waits there for the claim."""
        key = keys.vendor_id(endpoint, vendor_id)
        token = await self.redis.call("HGET", key, "token")
        if token or early is None:
            return str(token or "")
        await self.redis.call(
            "HSET", key, "early", json.dumps([early.state, early.reason, early.permanent, early.final])
        )
        await self.redis.call("EXPIRE", key, 24 * 3600)
        # The claim may have come between the two calls.
        return str(await self.redis.call("HGET", key, "token") or "")


def _is_over(failover: Mapping[str, Any], now: float) -> bool:
    ended_at = failover["ended_at"]
    return bool(failover["expires_at"] <= now or (ended_at and ended_at <= now))


def _load_early(text: str) -> EarlyReceipt:
    if not text.startswith("["):  # the version before wrote the state alone
        return EarlyReceipt(text, "", permanent=False, final=True)
    state, reason, permanent, final = json.loads(text)
    return EarlyReceipt(state, reason, permanent=permanent, final=final)


def _dump_gate(is_open: bool, until_ms: int) -> str:
    return f"{'open' if is_open else 'closed'}|{until_ms}"
