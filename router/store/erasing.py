"""What Redis holds of one conversation outside its own records, and how all of it is erased."""

import asyncio
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from channels.messages import Channel
from channels.traces import PARTIALS, entries_of, entries_of_attempts, entries_of_partial
from health.report import EndpointId
from router.domain.conversation import Message, SideName
from router.domain.ids import shard_of
from router.store import keys
from router.store.codec import read_place
from router.store.store import Store

MAIL, PHONE = "email/", "phone/"
CODES_MAX = 3
"""Codes that one conversation gets in an hour (`router/holding.py`)."""
TOGETHER = 500
"""Keys of one command, messages of one script call."""


@dataclass(slots=True)
class Traces:
    """Ids and places under which something of one conversation stands elsewhere."""

    conversation_id: str
    places: set[str] = field(default_factory=set)
    """Of the customer's side."""
    tokens: set[tuple[EndpointId, str]] = field(default_factory=set)
    vendor_ids: set[tuple[EndpointId, str]] = field(default_factory=set)
    natural_keys: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    """SHA-256."""

    def add_message(self, message: Message, natural_key: str, original: str) -> None:
        """What it came in under, what vendors call our attempts, where those to the customer went, its files."""
        for attempt in message.attempts:
            self.tokens.add((attempt.endpoint, attempt.token))
            self.vendor_ids |= {(attempt.endpoint, identity) for identity in attempt.vendor_ids}
            if message.side is SideName.CUSTOMER:
                bound = attempt.endpoint if attempt.address.channel is Channel.CHAT else None
                self.places.add(keys.place(attempt.address, bound))
        self.files |= {file.sha256 for file in message.content.files} | ({original} if original else set())
        if natural_key:
            self.natural_keys.add(natural_key)

    @property
    def mails(self) -> set[tuple[EndpointId, str]]:
        """Message-IDs of mails that came in: the end of their natural keys (see `inbound.natural_key`)."""
        found: set[tuple[EndpointId, str]] = set()
        for key in self.natural_keys:
            endpoint, _, rest = key.partition(":")
            if endpoint.startswith(MAIL):
                found |= {(EndpointId(endpoint), one) for one in (rest, rest.partition(":")[2]) if one}
        return found


async def erase_traces(store: Store, traces: Traces, endpoints: Iterable[EndpointId]) -> None:
    """Remove what stands under these ids, except files. Raises StoreUnavailable; again, it does no harm."""
    identity = traces.conversation_id
    prefix = keys.shard(shard_of(identity))
    commands: list[tuple[Any, ...]] = [("DEL", keys.vendor_id(*one)) for one in traces.vendor_ids]
    commands += [("DEL", f"{prefix}nk:{key}") for key in traces.natural_keys]
    commands += [("DEL", f"tl:codes:{{{identity}}}:{number}") for number in range(CODES_MAX)]
    commands += [("SREM", f"tl:{{mi:{one[0]}|{one[1]}}}", identity) for one in traces.mails]
    commands += [
        ("HDEL", f"{prefix}pair:{endpoint}|{place}", identity) for endpoint in endpoints for place in traces.places
    ]
    if identity.startswith("h"):
        claim = f"tl:claim:{{{identity}}}"
        commands += [("DEL", name) for name in (claim, f"{claim}:tries", f"tl:asked:{{{identity}}}")]
    await _run_all(store, commands)


async def erase_entries(
    store: Store, place: str, tokens: Iterable[tuple[EndpointId, str]], sms: Iterable[EndpointId]
) -> None:
    """Remove what adapters' own stores hold of a place, and of attempts; `sms`: endpoints that texts come in by."""
    address, bound = read_place(place)
    commands: list[tuple[Any, ...]] = []
    if bound is not None:
        for name in (keys.adapter(bound, entry) for entry in entries_of(address)):
            commands += [("DEL", name), ("DEL", f"{name}:n")]  # a list, and how far it has counted
    for endpoint, token in tokens:
        if endpoint.startswith(PHONE):
            commands += [("DEL", keys.adapter(endpoint, entry)) for entry in entries_of_attempts([token])]
    for endpoint in sms if address.channel is Channel.SMS else ():
        listed = keys.adapter(endpoint, PARTIALS)
        for member in await store.redis.call("ZRANGE", listed, 0, -1):
            if entries := entries_of_partial(str(member).partition("|")[2], address):
                commands += [("ZREM", listed, member), *(("DEL", keys.adapter(endpoint, one)) for one in entries)]
    await _run_all(store, commands)


async def _run_all(store: Store, commands: Sequence[tuple[Any, ...]]) -> None:
    for start in range(0, len(commands), TOGETHER):
        await asyncio.gather(*(store.redis.call(*command) for command in commands[start : start + TOGETHER]))


async def erase_conversation(store: Store, conversation_id: str) -> str:
    """Remove a closed conversation with whatever still waits in it.

    Answers `ok`, `missing`, `open` (written to since), or `busy`: something is being said at this moment.
    """
    shard = shard_of(conversation_id)
    argument = json.dumps({"c": conversation_id, "erase": 1})
    answer = "more"
    while answer == "more":
        answer = str(await store.redis.run("forget", keys.shard(shard), None, argument))
    return answer


async def referred_files(store: Store, among: Collection[str]) -> set[str]:
    """Which of these files some message in Redis refers to. Reads every message's references, a page at a time.

    What is referred to from beginning to end is found; what comes meanwhile has touched its file (`Files.write`).
    """
    found: set[str] = set()
    for shard in range(store.shards):
        prefix = f"{keys.shard(shard)}m:"
        cursor = "0"
        while True:
            answer = await store.redis.call("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", TOGETHER)
            cursor = str(answer[0])
            names: Sequence[str] = [str(name).removeprefix(prefix) for name in answer[1]]
            for start in range(0, len(names), TOGETHER):
                some = json.dumps(names[start : start + TOGETHER])
                found.update(await store.redis.run("files", keys.shard(shard), None, some))
            if cursor == "0":
                break
    return found & set(among)
