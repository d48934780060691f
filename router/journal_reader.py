"""Reads the journal: what happened to a conversation, and what happens now."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from channels.tools import Clock
from router.domain.ids import shard_of
from router.store.store import Store

BATCH = 200
POLL_S = 0.25
SEARCHED_MAX = 20_000
"""Newest entries that are searched for one conversation's; what it did before stands in its records."""
PAGE = 500
"""Entries read at once: Redis is held for well under a millisecond, and others come in between."""
BEGINNING = "0"
"""The id of a place before every entry that is still kept."""
OPENED = "conversation.opened"
SLACK_MS = 60_000
"""How much earlier than it opened a conversation's entries may be dated: two clocks write the journal."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One entry; its id is `shard:stream id`, or one of those for each shard with commas between."""

    id: str
    at: float
    kind: str
    conversation_id: str
    message_id: str
    endpoint: str
    facts: Mapping[str, object]


def read_entry(identity: str, row: Mapping[str, str]) -> JournalEntry:
    """An entry as the store has it."""
    return JournalEntry(
        id=identity,
        at=float(row["at"]) / 1000,
        kind=row["k"],
        conversation_id=row["c"],
        message_id=row["m"],
        endpoint=row["ep"],
        facts=json.loads(row["f"]),
    )


async def decisions_of(store: Store, conversation_id: str, limit: int) -> list[JournalEntry]:
    """The newest entries about a conversation, newest first; of the last 20,000, read no further than it is old."""
    shard = shard_of(conversation_id)
    conversation = await store.conversation(conversation_id)
    opened_ms = (conversation.opened_at if conversation else 0.0) * 1000 - SLACK_MS
    found: list[JournalEntry] = []
    before = "+"
    for _ in range(SEARCHED_MAX // PAGE):
        rows = await store.journal_before(shard, before, PAGE)
        own = [(one, row) for one, row in rows if row["c"] == conversation_id]
        found += [read_entry(f"{shard}:{one}", row) for one, row in own]
        began = any(row["k"] == OPENED for _, row in own)
        if len(found) >= limit or began or len(rows) < PAGE or float(rows[-1][1]["at"]) < opened_ms:
            break
        before = f"({rows[-1][0]}"
    return found[:limit]


async def follow(store: Store, clock: Clock, after: str | None, wait_s: float) -> AsyncIterator[JournalEntry | None]:
    """Entries of all shards as they come. An id names a position in every shard, so that one can go on from it;
    `0` is the beginning of what is kept, and no id is now."""
    position = await _position(store, after)
    quiet_since = clock.monotonic()
    while True:
        found = False
        for shard in range(store.shards):
            for identity, row in await store.journal_after(shard, position[shard], BATCH):
                position[shard] = identity
                found = True
                yield read_entry(_write(position), row)
        if found:
            quiet_since = clock.monotonic()
            continue
        if clock.monotonic() - quiet_since >= wait_s:
            quiet_since = clock.monotonic()
            yield None
        await clock.sleep(POLL_S)


async def _position(store: Store, after: str | None) -> list[str]:
    position = []
    given = read_position(after or "", store.shards) or {}
    for shard in range(store.shards):
        if shard in given:
            position.append(given[shard])
        else:
            newest = await store.journal_last(shard, 1)
            position.append(newest[0][0] if newest else "0-0")
    return position


def read_position(text: str, shards: int) -> dict[int, str] | None:
    """The stream id in each shard that an entry's id names; `0`: before all that is kept. None: it is no such id."""
    if text == BEGINNING:
        return dict.fromkeys(range(shards), "0-0")
    found: dict[int, str] = {}
    for part in text.split(","):
        number, _, identity = part.partition(":")
        if not (number.isascii() and number.isdecimal() and len(number) <= 4 and int(number) < shards):
            return None
        if int(number) in found or not _is_stream_id(identity):
            return None
        found[int(number)] = identity
    return found


def _write(position: list[str]) -> str:
    return ",".join(f"{shard}:{identity}" for shard, identity in enumerate(position))


def _is_stream_id(text: str) -> bool:
    head, dash, tail = text.partition("-")
    # Redis keeps both numbers in 64 bits, and refuses what does not fit.
    return bool(dash) and all(
        one.isascii() and one.isdecimal() and len(one) <= 20 and int(one) < 1 << 64 for one in (head, tail)
    )
