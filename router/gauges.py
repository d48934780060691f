"""Metrics that any one process can fill from Redis when it is asked for metrics: who works, what waits."""

import json
from collections import Counter as Tally
from collections.abc import Mapping

from prometheus_client import Counter, Gauge
from redis.exceptions import RedisError

from health.board import Board
from router.domain.conversation import MessageState
from router.store import keys
from router.store.going_back import read_went_back
from router.store.redis import StoreUnavailable
from router.store.store import Store
from router.telemetry import REBINDS, REPAIRS, TRANSITIONS

ALIVE_WITHIN_S = 10.0
"""A loop that gave no sign of life for this long is not counted; the supervisor itself judges far sooner."""
ROLES = ("dispatch", "supervise", "web", "clockwork")
"""The label's bound."""
REBIND_REASONS = frozenset(
    {"failover", "forced", "failback", "inbound_down", "wrote_here", "unreachable", "rejected", "undelivered"}
    | {"no_consent", "misconfigured", "throttled", "routed"}
)
"""The label's bound; what a person chose says why in the journal."""
JOURNAL_MAX = 5_000
"""Entries read at one scrape, each shard; what is beyond is read at the next."""

WORKERS = Gauge(
    "throughline_workers", "Loops that gave a sign of life lately.", ["role"], multiprocess_mode="mostrecent"
)
PARKED = Gauge(
    "throughline_parked", "Sides that wait for a way to the customer or agent.", multiprocess_mode="mostrecent"
)
HELD = Gauge(
    "throughline_held",
    "Addresses whose messages match no conversation and wait for proof of where they belong.",
    multiprocess_mode="mostrecent",
)
HELD_SINCE = Gauge(
    "throughline_held_since_timestamp_seconds",
    "Since when the longest of them waits, Unix seconds; 0: none waits.",
    multiprocess_mode="mostrecent",
)
MOVES_FROZEN = Gauge(
    "throughline_moves_frozen",
    "1 while nothing is moved because it seems to be us that are broken.",
    multiprocess_mode="mostrecent",
)
WENT_BACK = Gauge(
    "throughline_store_went_back_timestamp_seconds",
    "When Redis came back older than it was, Unix seconds; 0: not within a day.",
    multiprocess_mode="mostrecent",
)
TICKED = Gauge(
    "throughline_clockwork_ticked_timestamp_seconds",
    "When the clockwork's jobs last went through, Unix seconds; 0: never.",
    multiprocess_mode="mostrecent",
)
NEEDS_HUMAN = Counter("throughline_needs_human", "Messages that began to wait for a person's decision.")


class StoreGauges:
    """Sets them. Made once a process: it remembers how far it read the journal."""

    def __init__(self, store: Store, board: Board) -> None:
        self._store = store
        self._board = board
        self._read: dict[int, str] = {}

    async def refresh(self, now: float) -> None:
        """Read Redis once and set them all; `now` in Unix seconds. Raises StoreUnavailable."""
        try:
            await self._refresh(now)
        except RedisError as error:
            raise StoreUnavailable(str(error)) from error

    async def _refresh(self, now: float) -> None:
        alive = Tally(beat.role for beat in await self._board.beats() if now - beat.at < ALIVE_WITHIN_S)
        if await self._board.supervisor() is not None:
            alive["supervise"] = max(1, alive["supervise"])
        for role in ROLES:
            WORKERS.labels(role).set(alive[role])
        MOVES_FROZEN.set(await self._board.freeze() is not None)
        went_back = await read_went_back(self._store.redis)
        WENT_BACK.set(went_back.at if went_back else 0.0)
        TICKED.set(float(await self._store.redis.call("GET", keys.BEAT) or 0))
        PARKED.set(await self._store.due_count(keys.PLAN))
        held, since = 0, 0.0
        for shard in range(self._store.shards):
            held += await self._store.count(shard, "held")
            oldest = [at for _, at in await self._store.held(shard, 1)]
            since = min([*oldest, since] if since else oldest, default=since)
            await self._read_journal(shard)
        HELD.set(held)
        HELD_SINCE.set(since)

    async def _read_journal(self, shard: int) -> None:
        after = self._read.get(shard)
        if after is None:
            last = await self._store.journal_last(shard, 1)
            self._read[shard] = last[0][0] if last else "0"
            return
        entries = await self._store.journal_after(shard, after, JOURNAL_MAX)
        if entries:
            self._read[shard] = entries[-1][0]
        for _, entry in entries:
            _count(entry)


def _count(entry: Mapping[str, str]) -> None:
    match entry.get("k"):
        case "message.changed":
            NEEDS_HUMAN.inc(_asks_for_a_person(entry))
        case "side.rebound":
            reason = str(json.loads(entry["f"]).get("r", ""))
            REBINDS.labels(entry["ep"], reason if reason in REBIND_REASONS else "other").inc()
        case "endpoint.changed":
            facts = json.loads(entry["f"])
            TRANSITIONS.labels(entry["ep"], facts["direction"], facts["after"]).inc()
        case "repair.made":
            REPAIRS.inc()
        case _:
            return


def _asks_for_a_person(entry: Mapping[str, str]) -> bool:
    return entry.get("k") == "message.changed" and f'"{MessageState.NEEDS_HUMAN}"' in entry.get("f", "")
