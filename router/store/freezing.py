"""A frozen store: a restored one, from which nothing is sent until a person says so. The scripts themselves obey it."""

import json
from dataclasses import dataclass

from router.domain.ids import SHARDS_MAX
from router.store import keys
from router.store.redis import Pipelined


@dataclass(frozen=True, slots=True)
class Frozen:
    """Why nothing is sent."""

    since: float
    """When it was restored, unix seconds."""
    backup_at: float
    """The moment the backup shows, unix seconds: what was said after it is not known here."""
    whole: bool
    """Everything is there; a restore that broke off leaves this False, for ever."""


def dump_frozen(frozen: Frozen) -> str:
    """As it stands in each shard."""
    return json.dumps([frozen.since, frozen.backup_at, frozen.whole])


async def read_frozen(redis: Pipelined) -> Frozen | None:
    """Why this store is frozen; None: it is not. Raises StoreUnavailable."""
    text = await redis.call("GET", keys.frozen(0))
    return Frozen(*json.loads(text)) if text else None


async def write_frozen(redis: Pipelined, frozen: Frozen) -> None:
    """Freeze every shard there could be, those that no setting uses yet too. Raises StoreUnavailable."""
    for number in range(SHARDS_MAX):
        await redis.call("SET", keys.frozen(number), dump_frozen(frozen))


async def thaw(redis: Pipelined) -> None:
    """Let it be sent from again. The first shard, which says whether a store is frozen, comes last.

    Raises:
        StoreUnavailable: some shards may still be frozen; ask again.
    """
    for number in reversed(range(SHARDS_MAX)):
        await redis.call("DEL", keys.frozen(number))
