"""The records, read: conversations, sides, messages, indexes, the journal."""

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from health.report import EndpointId
from router.domain.conversation import Conversation, Message, Side, SideName
from router.domain.ids import hidden_id, shard_of
from router.store import codec, keys
from router.store.asked import Known
from router.store.clock import server_ms
from router.store.redis import Pipelined

QUEUE_MAX = 1000
"""Messages that may wait on one side; more are refused."""
KNOWN_MAX = 100
"""Customers that one `known` may name, and conversations that it reads."""
SPOKEN_MAX = 50
"""Conversations over one address pair that are looked at, the latest ones."""


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class HeldRecord:
    """What a hidden conversation says of what waits for proof in it."""

    why: str
    candidates: tuple[str, ...]
    """Conversation ids."""
    count: int


class Reading:
    """What may be asked of one deployment's records without changing them."""

    def __init__(self, redis: Pipelined, *, shards: int = 1, now_ms: Callable[[], int] | None = None) -> None:
        self.redis = redis
        self.shards = shards
        self._now_ms = now_ms

    async def conversation(self, conversation_id: str) -> Conversation | None:
        """One conversation, or None."""
        row = await self._hash(f"{self._prefix(conversation_id)}v:{conversation_id}")
        return codec.load_conversation(conversation_id, row) if row else None

    async def side(self, conversation_id: str, name: SideName) -> Side | None:
        """One side with its queue, or None."""
        prefix = self._prefix(conversation_id)
        row = await self._hash(f"{prefix}s:{conversation_id}:{name}")
        if not row:
            return None
        queue = await self.redis.call("LRANGE", f"{prefix}q:{conversation_id}:{name}", 0, QUEUE_MAX)
        due = 0.0
        if row.get("dp"):
            due = await self.redis.call("ZSCORE", f"{prefix}d:{row['dp']}", f"{conversation_id}:{name}") or 0.0
        return codec.load_side(conversation_id, name, row, queue, float(due))

    async def message(self, message_id: str) -> Message | None:
        """One message with its attempts, or None."""
        row = await self._hash(f"{self._prefix(message_id)}m:{message_id}")
        return codec.load_message(message_id, row) if row else None

    async def origin_of(self, message_id: str) -> tuple[str, str]:
        """What a message came as, and under which natural key: the SHA-256 of its raw original on disk, or empty."""
        key = f"{self._prefix(message_id)}m:{message_id}"
        original, natural_key = await self.redis.call("HMGET", key, "og", "nk")
        return original or "", natural_key or ""

    async def transcript_ids(self, conversation_id: str, start: int, stop: int) -> list[str]:
        """Message ids in order, from position `start` to `stop` (both counted from 0, negative from the end)."""
        key = f"{self._prefix(conversation_id)}g:{conversation_id}"
        return list(await self.redis.call("LRANGE", key, start, stop))

    async def transcript_length(self, conversation_id: str) -> int:
        """How many messages its transcript has: the n-th of them has the sequence n, and stands at position n - 1."""
        return int(await self.redis.call("LLEN", f"{self._prefix(conversation_id)}g:{conversation_id}"))

    async def messages(self, message_ids: Sequence[str]) -> list[Message]:
        """These messages, in this order; what is gone is left out."""
        found = await asyncio.gather(*(self.message(identity) for identity in message_ids))
        return [message for message in found if message is not None]

    async def legs(self, conversation_id: str, side: SideName) -> list[dict[str, Any]]:
        """The side's last 50 rebinds, oldest first: ep, ad, at (ms), r, e, context hash before (cb) and after (ca)."""
        key = f"{self._prefix(conversation_id)}lg:{conversation_id}:{side}"
        return [json.loads(row) for row in await self.redis.call("LRANGE", key, 0, -1)]

    async def mail_thread(self, conversation_id: str) -> tuple[str, ...]:
        """The last 20 Message-IDs of the mail thread, oldest first."""
        key = f"{self._prefix(conversation_id)}mt:{conversation_id}"
        return tuple(await self.redis.call("LRANGE", key, 0, -1))

    async def listed(self, shard: int, index: str, *, offset: int, limit: int) -> list[str]:
        """Conversation ids from an index (`open` by age, `wait` longest first, `closed`), a page of them."""
        return list(await self.redis.call("ZRANGE", f"{keys.shard(shard)}{index}", offset, offset + limit - 1))

    async def walk(self, shard: int, index: str, cursor: str, count: int) -> tuple[str, list[str]]:
        """About `count` conversations of an index (`open`, `closed`, `hidden`) and where to go on; `0`: all were seen.

        Whatever stands in the index from the first page to the last is seen at least once.
        """
        answer = await self.redis.call("ZSCAN", f"{keys.shard(shard)}{index}", cursor, "COUNT", count)
        return str(answer[0]), [str(row[0]) for row in _paired(answer[1])]

    async def count(self, shard: int, index: str) -> int:
        """How many conversations stand in an index."""
        return int(await self.redis.call("ZCARD", f"{keys.shard(shard)}{index}"))

    async def open_of_customer(self, customer_id: str) -> list[str]:
        """Ids of a customer's open conversations."""
        return sorted(await self.redis.call("SMEMBERS", f"{self._prefix(customer_id)}op:{customer_id}"))

    async def sides_at(
        self, shard: int, endpoint: EndpointId, *, waiting_only: bool = False, offset: int = 0, limit: int = 1000
    ) -> list[str]:
        """`conversation:side` whose leg is at `endpoint`, longest waiting first where somebody waits."""
        low = "(0" if waiting_only else "-inf"
        key = f"{keys.shard(shard)}at:{endpoint}"
        return list(await self.redis.call("ZRANGEBYSCORE", key, low, "+inf", "LIMIT", offset, limit))

    async def due_at(self, shard: int, endpoint: str, *, offset: int = 0, limit: int = 1000) -> list[str]:
        """`conversation:side` with work at `endpoint` (or `@plan`), soonest first, whenever it is due."""
        key = f"{keys.shard(shard)}d:{endpoint}"
        return list(await self.redis.call("ZRANGE", key, offset, offset + limit - 1))

    async def due_count(self, endpoint: str) -> int:
        """Sides with work at `endpoint`, over all shards."""
        return sum([int(await self.redis.call("ZCARD", f"{keys.shard(n)}d:{endpoint}")) for n in range(self.shards)])

    async def due_since(self, shard: int, endpoint: str) -> float:
        """When the side that is due longest at `endpoint` (or `@plan`) came due, unix seconds; 0: there is none."""
        rows = await self.redis.call("ZRANGE", f"{keys.shard(shard)}d:{endpoint}", 0, 0, "WITHSCORES")
        return codec.seconds(rows[1]) if rows else 0.0

    async def closed_before(self, shard: int, at: float, *, offset: int = 0, limit: int = 50) -> list[str]:
        """Conversations closed before `at` (unix seconds), longest ago first."""
        key = f"{keys.shard(shard)}closed"
        return list(await self.redis.call("ZRANGEBYSCORE", key, "-inf", int(at * 1000), "LIMIT", offset, limit))

    async def hidden_before(self, shard: int, at: float, *, limit: int = 200) -> list[str]:
        """Hidden conversations nobody has written to since `at` (unix seconds), longest ago first."""
        key = f"{keys.shard(shard)}hidden"
        return list(await self.redis.call("ZRANGEBYSCORE", key, "-inf", int(at * 1000), "LIMIT", 0, limit))

    async def held(self, shard: int, limit: int) -> list[tuple[str, float]]:
        """Hidden conversations in which something waits for proof, with since when (unix seconds), oldest first."""
        rows = await self.redis.call("ZRANGE", f"{keys.shard(shard)}held", 0, limit - 1, "WITHSCORES")
        return [(str(row[0]), codec.seconds(row[1])) for row in _paired(rows)]

    async def held_since(self, conversation_id: str) -> float:
        """Since when something waits for proof there, unix seconds; 0: nothing does."""
        key = f"{self._prefix(conversation_id)}held"
        return codec.seconds(await self.redis.call("ZSCORE", key, conversation_id))

    async def held_record(self, conversation_id: str) -> HeldRecord:
        """Why it waits there, what it may belong to, how many messages they are."""
        key = f"{self._prefix(conversation_id)}v:{conversation_id}"
        why, candidates, count = await self.redis.call("HMGET", key, "hw", "hk", "hn")
        return HeldRecord(why or "", tuple(json.loads(candidates or "[]")), int(count or 0))

    async def receipts_overdue(self, shard: int, endpoint: EndpointId, now_ms: int, limit: int) -> list[str]:
        """Tokens of attempts whose receipt should have come by `now_ms` of the store's clock."""
        key = f"{keys.shard(shard)}aw:{endpoint}"
        return list(await self.redis.call("ZRANGEBYSCORE", key, "-inf", now_ms, "LIMIT", 0, limit))

    async def natural_key(self, shard: int, key: str) -> tuple[str, str] | None:
        """(message id, conversation id) accepted under a natural key, or None.

        Raises:
            StoreUnavailable: Redis does not answer, or its replicas have not got it: nothing is promised yet.
        """
        known = await self.redis.call("GET", f"{keys.shard(shard)}nk:{key}")
        if not known:
            return None
        message_id = known.partition(" ")[0]
        row = _pairs(await self.redis.promise("HGETALL", f"{keys.shard(shard)}m:{message_id}"))
        return (message_id, row["c"]) if row else None

    async def known(
        self, shard: int, natural_key: str, endpoint: EndpointId, place: str, customers: Sequence[str]
    ) -> Known:
        """What a shard knows of where a message came from, and of at most 100 customers there."""
        argument = {
            "nk": natural_key,
            "pr": f"{endpoint}|{place}",
            "h": hidden_id(shard, endpoint, place),
            "cu": customers[:KNOWN_MAX],
            "n": SPOKEN_MAX,
        }
        accepted, has_held, spoken, people, conversations = await self._run("known", shard, argument)
        return Known(
            customers=tuple(codec.load_customer(one, _pairs(row), _pairs(bound)) for one, row, bound, _ in people),
            open_of={one: tuple(sorted(open_ids)) for one, _, _, open_ids in people},
            spoken={conversation: codec.seconds(at) for conversation, at in _pairs(spoken).items()},
            conversations={one: codec.load_conversation(one, _pairs(row)) for one, row in conversations},
            accepted=bool(accepted),
            has_held=bool(has_held),
        )

    async def journal_after(self, shard: int, after: str, limit: int) -> list[tuple[str, dict[str, str]]]:
        """Journal entries after a stream id (`0`: from the start), oldest first."""
        rows = await self.redis.call("XRANGE", f"{keys.shard(shard)}jr", f"({after}", "+", "COUNT", limit)
        return [(row[0], _pairs(row[1])) for row in rows]

    async def journal_before(self, shard: int, before: str, limit: int) -> list[tuple[str, dict[str, str]]]:
        """The newest journal entries up to a stream id (`(` before it: without it; `+`: the last), newest first."""
        rows = await self.redis.call("XREVRANGE", f"{keys.shard(shard)}jr", before, "-", "COUNT", limit)
        return [(row[0], _pairs(row[1])) for row in rows]

    async def journal_last(self, shard: int, limit: int) -> list[tuple[str, dict[str, str]]]:
        """The newest journal entries, newest first."""
        return await self.journal_before(shard, "+", limit)

    async def clock_ms(self) -> int:
        """The time that scripts go by, in unix milliseconds."""
        return self._now_ms() if self._now_ms else await server_ms(self.redis)

    async def _run(self, script: str, shard: int, argument: Any) -> Any:
        now = self._now_ms() if self._now_ms else None
        return await self.redis.run(script, keys.shard(shard), now, _json(argument))

    async def _hash(self, key: str) -> dict[str, str]:
        return _pairs(await self.redis.call("HGETALL", key))

    def _prefix(self, identity: str) -> str:
        return keys.shard(shard_of(identity))


def _pairs(answer: Any) -> dict[str, str]:
    if isinstance(answer, dict):
        return answer
    return dict(zip(answer[::2], answer[1::2], strict=True))


def _paired(flat: Any) -> Iterable[Sequence[Any]]:
    """Members with their scores: redis-py pairs them for the commands it knows, and not in every version."""
    if not flat or isinstance(flat[0], (list, tuple)):
        return flat if flat else ()
    return list(zip(flat[::2], flat[1::2], strict=True))
