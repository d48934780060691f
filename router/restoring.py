"""The end of a restore, and what a frozen store would send: marked, counted, listed, before anybody lets it go."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from router.core import Core
from router.domain.conversation import SideName
from router.rollback import flag_shard
from router.spool import Spool
from router.store import keys
from router.store.codec import SideFacts
from router.store.freezing import read_frozen, write_frozen

LISTED_MAX = 20
"""Messages named for each endpoint; the others are counted."""
COUNTED_MAX = 10_000
"""Sides looked into for each endpoint; of more than that, the others count as sides alone."""
PAGE = 100


@dataclass(frozen=True, slots=True)
class Waits:
    """One message, or notice, that would be sent first of its side."""

    conversation_id: str
    message_id: str
    """Empty: a notice, worded when it is sent."""
    to_customer: bool
    since: float
    """When it was accepted, unix seconds; of a notice: since when the side is due."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What would be sent at one endpoint."""

    endpoint: str
    """Empty: where it goes is yet to be decided."""
    sides: int
    messages: int
    """Of the sides that were looked into."""
    all_counted: bool
    oldest: tuple[Waits, ...]


@dataclass(frozen=True, slots=True)
class Completed:
    """What was done so that nothing goes out twice unseen."""

    flagged: int
    """Messages that say of themselves from now on that they may be a repeat."""
    spools_again: int
    """Files of the edge that are taken once more: what Redis took from them may be younger than the backup."""


async def complete(core: Core) -> Completed:
    """Mark all that waits, and call the restored store whole: from then on it may be let go.

    Raises:
        StoreUnavailable: Redis is away; the store stays frozen and cannot be let go.
        ValueError: this store is not frozen.
    """
    frozen = await read_frozen(core.store.redis)
    if frozen is None:
        raise ValueError("only a frozen store is completed")
    spool = Spool(core.settings.data_dir / "spool", "restore")
    again = spool.take_again() if spool.folder.is_dir() else 0
    flagged = 0
    for shard in range(core.store.shards):
        of_shard = await flag_shard(core.store, shard)
        facts = {"backup_at": frozen.backup_at, "flagged": of_shard, "spools_again": again}
        await core.store.note(shard, "store.restored", facts)
        flagged += of_shard
    await write_frozen(core.store.redis, replace(frozen, whole=True))
    return Completed(flagged, again)


async def what_waits(core: Core) -> list[Waiting]:
    """What would be sent at each endpoint once the store is let go, most first; endpoints without work are left out."""
    found = [await _at(core, place) for place in (*core.capabilities, keys.PLAN)]
    return sorted((one for one in found if one.sides), key=lambda one: (-one.sides, one.endpoint))


async def _at(core: Core, place: str) -> Waiting:
    sides, looked, messages = 0, 0, 0
    oldest: list[Waits] = []
    for shard in range(core.store.shards):
        count = int(await core.store.redis.call("ZCARD", f"{keys.shard(shard)}d:{place}"))
        sides += count
        for offset in range(0, count, PAGE):
            if looked >= COUNTED_MAX:
                break
            members = await core.store.due_at(shard, place, offset=offset, limit=PAGE)
            facts = await core.store.affected(shard, members)
            looked += len(members)
            messages += sum(one.queued + one.notice_due for one in facts)
            oldest = _oldest(oldest, facts)
    endpoint = "" if place == keys.PLAN else place
    return Waiting(endpoint, sides, messages, looked >= sides, tuple(oldest))


def _oldest(known: Sequence[Waits], facts: Sequence[SideFacts]) -> list[Waits]:
    more = [
        Waits(
            conversation_id=one.conversation_id,
            message_id="" if one.notice_due else one.head,
            to_customer=one.side is SideName.CUSTOMER,
            since=one.head_created_at or one.moved_at,
        )
        for one in facts
        if one.queued or one.notice_due
    ]
    return sorted((*known, *more), key=lambda one: one.since)[:LISTED_MAX]
