"""Erasing a customer: everything that names them or repeats what was said, wherever it stands."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from redis.exceptions import ResponseError

from channels.messages import Channel
from channels.text import clean_text
from health.report import EndpointId
from router.archive.database import ArchiveError
from router.audit.records import read_page
from router.collecting import remove_files
from router.core import ArchiveUnavailable, Conflict, Core, Invalid, NotFound
from router.domain.conversation import Customer, SideName
from router.domain.ids import shard_of
from router.reading import closed_of_customer
from router.spool_erasure import erase_spooled, spooled_entries
from router.store import codec, keys
from router.store.erasing import Traces, erase_conversation, erase_entries, erase_traces

T = TypeVar("T")
WHY_MAX = 200
ROUNDS_MAX = 5
"""Times that we look again for what they wrote meanwhile."""
TRIES_MAX = 10
TRY_EVERY_S = 0.5
"""How often, and how long between, an attempt that is being made is waited for."""
WALKED = 500

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure removed; ids and numbers only."""

    customer_id: str
    aliases: tuple[str, ...]
    conversations: int
    archived: int
    files: int
    spooled: int


@dataclass(slots=True)
class Erasure:
    """One run: again after a failure it goes on where it was, for the customer's record goes last."""

    core: Core
    customers: tuple[Customer, ...]
    """The person: the customer, and their aliases."""
    places: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    tokens: set[tuple[EndpointId, str]] = field(default_factory=set)
    conversations: set[str] = field(default_factory=set)
    archived: int = 0

    async def run(self, who: str, why: str) -> Erased:
        """All of it. Raises Conflict, ArchiveUnavailable, StoreUnavailable: ask again."""
        core, first = self.core, self.customers[0]
        began = core.clock.now()
        # From here on whoever writes from there is somebody new, and nothing is added to what is erased.
        for customer in self.customers:
            for binding in customer.bindings:
                self.places.add(codec.place_of(binding))
                await core.people.unclaim(customer.id, binding)
        self.places -= await self._shared()
        # Live ones first: what the clockwork archives meanwhile is found there.
        await self._erase_live()
        await self._read_archived()
        await self._erase_held()
        await self._erase_archived()
        for place in self.places:
            texts = [one for one, facts in core.capabilities.items() if facts.channel is Channel.SMS]
            await erase_entries(core.store, place, self.tokens, texts)
        spool = core.settings.data_dir / "spool"
        if await asyncio.to_thread(spooled_entries, spool, self._is_theirs):
            raise Conflict("spool_holds", "Something of theirs waits on disk for Redis. Ask again in a minute.")
        spooled = await asyncio.to_thread(erase_spooled, spool, self._is_theirs)
        aliases = tuple(one.id for one in self.customers[1:])
        facts = {"cu": first.id, "aliases": aliases, "who": who, "why": why, "count": len(self.conversations)}
        await core.store.note(shard_of(first.id), "customer.erased", facts)
        files = await _from_archive(remove_files(core, self.files, began)) if self.files else 0
        for customer in reversed(self.customers):
            await core.people.erase(customer.id)
        await self._erase_live()  # what came while its customer was still known
        await _rewrite_log(core)
        log.info("customer.erased", customer=first.id, conversations=len(self.conversations), files=files)
        live = len(self.conversations) - self.archived
        return Erased(first.id, aliases, live, self.archived, files, spooled)

    async def _read_archived(self) -> None:
        """What their archived conversations lead to."""
        for customer in self.customers:
            for identity in await _from_archive(self.core.archive.ids_of(customer.id)):
                found = await _from_archive(self.core.archive.conversation(identity))
                if found is None:
                    continue
                traces = Traces(identity)
                for message in found.messages:
                    natural_key, original = (kept.get(message.id, "") for kept in (found.natural_keys, found.originals))
                    traces.add_message(message, natural_key, original)
                await self._erase_traces(traces)

    async def _erase_archived(self) -> None:
        for customer in self.customers:
            erased = await _from_archive(self.core.archive.erase(customer.id, self.places))
            await self._note_archived(erased.conversations)
            self.files |= erased.files

    async def _note_archived(self, ids: tuple[str, ...]) -> None:
        for identity in ids:
            await self.core.store.note(shard_of(identity), "conversation.erased", {}, conversation_id=identity)
        self.conversations |= set(ids)
        self.archived += len(ids)

    async def _erase_live(self) -> None:
        """What Redis has of their conversations, also what was begun while we looked."""
        for _ in range(ROUNDS_MAX):
            found = [identity for one in self.customers for identity in await self._conversations_of(one.id)]
            if not found:
                return
            for identity in found:
                await self._erase_one(identity)
        raise Conflict("writes_on", "They write again and again while they are erased. Ask again in a minute.")

    async def _erase_held(self) -> None:
        """What was only held from their places, and belongs to nobody."""
        store = self.core.store
        for shard in range(store.shards):
            for index in ("hidden", "closed"):
                for identity in await self._walk(shard, index):
                    if not identity.startswith("h"):
                        continue
                    side = await store.redis.call("HGET", f"{keys.shard(shard)}s:{identity}:c", "ad")
                    if side in self.places:
                        await store.close(identity)
                        await self._erase_one(identity)

    async def _erase_one(self, identity: str) -> None:
        store = self.core.store
        await store.close(identity)
        for _ in range(TRIES_MAX):
            # First what its record leads to: after a crash in between, the record is still there to lead to it.
            await self._read_traces(identity)
            answer = await erase_conversation(store, identity)
            if answer == "open":
                await store.close(identity)
            elif answer in {"ok", "missing"}:
                self.conversations.add(identity)
                return
            else:
                await self.core.clock.sleep(TRY_EVERY_S)
        words = "Something is being said to them at this moment. Ask again in a minute; what is erased stays erased."
        raise Conflict("being_said", words)

    async def _read_traces(self, identity: str) -> None:
        traces = Traces(identity)
        start = 0
        while True:
            page = await read_page(self.core.store, identity, start)
            if page is None:
                break
            for side in page.sides:
                if side.name is SideName.CUSTOMER:
                    traces.places |= {str(leg.get(name)) for leg in side.legs for name in ("ad", "fa") if leg.get(name)}
            for record in page.messages:
                if record.fields:
                    message = codec.load_message(record.id, record.fields)
                    traces.add_message(message, record.fields.get("nk", ""), record.fields.get("og", ""))
            start = page.end
            if not page.messages or page.end >= page.length:
                if reference := page.fields.get("rf"):
                    await self.core.store.let_reference_go(reference)
                break
        await self._erase_traces(traces)

    async def _erase_traces(self, traces: Traces) -> None:
        await erase_traces(self.core.store, traces, self.core.capabilities)
        self.tokens |= traces.tokens
        self.files |= traces.files
        # An address that was theirs once, and is somebody else's now, is left to them.
        owners = {place: await self._owners(place) for place in traces.places - self.places}
        self.places |= {place for place, ids in owners.items() if not ids}

    async def _conversations_of(self, customer_id: str) -> list[str]:
        found = await self.core.store.open_of_customer(customer_id)
        return sorted({*found, *await closed_of_customer(self.core, customer_id)})

    async def _walk(self, shard: int, index: str) -> list[str]:
        found: set[str] = set()
        cursor = "0"
        while True:
            cursor, some = await self.core.store.walk(shard, index, cursor, WALKED)
            found.update(some)
            if cursor == "0":
                return sorted(found)

    async def _shared(self) -> set[str]:
        """Places that somebody else has, too: what was held from there is not known to be theirs."""
        owners = {place: await self._owners(place) for place in self.places}
        return {place for place, ids in owners.items() if ids}

    async def _owners(self, place: str) -> set[str]:
        address, endpoint = codec.read_place(place)
        return set(await self.core.people.at(address, endpoint)) - {one.id for one in self.customers}

    def _is_theirs(self, fields: dict[str, Any]) -> bool:
        """Whether a spooled entry was written from a place of theirs, or is to be said in a conversation of theirs."""
        if fields.get("customer_id") in {one.id for one in self.customers}:
            return True
        if fields.get("conversation_id") in self.conversations:
            return True
        message = fields.get("message")
        if not isinstance(message, dict):
            return False
        sender = f"{message['sender']['channel']}:{message['sender']['value']}"
        return sender in self.places or f"{sender}@{message['endpoint']}" in self.places


async def erase_customer(core: Core, customer_id: str, *, who: str, why: str, close: bool) -> Erased:
    """Erase a customer and their aliases; with `close`, also while conversations of theirs are open.

    Raises:
        NotFound; Invalid (no reason, or one that names them: it stays in the journal);
        Conflict (an alias; open conversations; something is being said): ask again, what is erased stays erased;
        ArchiveUnavailable, StoreUnavailable: the same.
    """
    customer = await core.people.customer(customer_id)
    if customer is None:
        raise NotFound("unknown_customer", "There is no such customer.")
    if customer.alias_of:
        words = f"This customer is merged into {customer.alias_of}. Erase that one, or undo the merge first."
        raise Conflict("is_alias", words)
    found = [await core.people.customer(one) for one in await core.people.aliases(customer_id)]
    customers = (customer, *(one for one in found if one is not None))
    why = _checked(why, customers)
    still_open = [identity for one in customers for identity in await core.store.open_of_customer(one.id)]
    if still_open and not close:
        raise Conflict(
            "conversations_open",
            f"{len(still_open)} of their conversations are open, and what waits there would never be said. Close them, "
            "or ask again with close.",
        )
    return await Erasure(core, customers).run(who, why)


def _checked(why: str, customers: tuple[Customer, ...]) -> str:
    why = " ".join(clean_text(why).split())[:WHY_MAX]
    if not why:
        raise Invalid("no_reason", "Say why: it stands in the journal.")
    named = {one.name.casefold() for one in customers if one.name}
    named |= {binding.address.value.casefold() for one in customers for binding in one.bindings}
    if any(name in why.casefold() for name in named):
        raise Invalid("why_names_them", "The reason names them, and it stays in the journal. Say it without.")
    return why


async def _from_archive(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except ArchiveError as error:
        log.warning("archive.failed", error=str(error))
        words = (
            "The archive cannot be written now. What is erased stays erased: ask again. `throughline doctor` says why."
        )
        raise ArchiveUnavailable("archive_unavailable", words) from error


async def _rewrite_log(core: Core) -> None:
    """Redis' append-only file repeats every write since it was last rewritten."""
    try:
        await core.store.redis.call("BGREWRITEAOF")
    except ResponseError as error:
        log.info("log.not_rewritten", error=str(error))  # being rewritten already, or not ours to ask
