"""What waits for proof of where it belongs: agents read it, and file it where it belongs."""

import asyncio
from dataclasses import dataclass

import structlog

from channels.messages import Address
from health.report import EndpointId
from router.core import Conflict, Invalid, NotFound
from router.domain.conversation import SideName
from router.domain.ids import shard_of
from router.holding import Filed, Holding
from router.reading import Page, Reading, known
from router.store.reading import QUEUE_MAX

HELD_PAGE_MAX = 100
HELD_REACH_MAX = 10_000
"""How far a list goes; whoever has more than that reads on once the first are filed."""
LOOKED_BACK = 50
"""Of a place's messages, our prompts among them, these are looked through for the last one that is the sender's."""
FILING_MAX_S = 30
"""How long one agent's filing keeps another's out, should it break off."""
WAITS_NO_MORE = "Nothing waits here any more: it was filed, dismissed, or its sender said where it belongs."

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class HeldView:
    """What was written from one place and matches no conversation."""

    id: str
    endpoint: EndpointId
    address: Address
    since: float
    """When the first of it came, Unix seconds."""
    why: str
    """See `domain.matching.Why`."""
    candidates: tuple[str, ...]
    """References of conversations that could be meant."""
    count: int
    last_text: str


@dataclass(frozen=True, slots=True)
class FiledHeld:
    """Where it stands now, and how many messages that were."""

    conversation_id: str
    count: int


class HeldDesk(Reading):
    """The use cases around what is held."""

    async def held(self, *, cursor: str | None = None, limit: int = 50) -> Page[HeldView]:
        """What waits for proof, who waits longest first. Raises Invalid (no cursor of ours)."""
        limit = max(1, min(limit, HELD_PAGE_MAX))
        offset = _read_cursor(cursor)
        wanted = offset + limit + 1
        found: list[tuple[str, float]] = []
        for shard in range(self.core.store.shards):
            found += await self.core.store.held(shard, wanted)
        page = sorted(found, key=lambda one: (one[1], one[0]))[offset:wanted]
        views = await asyncio.gather(*(self._held_view(*one) for one in page[:limit]))
        following = offset + limit
        more = len(page) > limit and following <= HELD_REACH_MAX
        return Page([one for one in views if one is not None], str(following) if more else None)

    async def held_count(self) -> int:
        """From how many places something waits for proof."""
        shards = range(self.core.store.shards)
        return sum(await asyncio.gather(*(self.core.store.count(shard, "held") for shard in shards)))

    async def file_held(self, held_id: str, conversation_id_or_reference: str, *, who: str) -> FiledHeld:
        """Say where it belongs: its messages join that conversation, each once, in order.

        They are marked unverified unless the sender's address is one of the conversation's customer.

        Raises:
            NotFound: there is no such place, or no such conversation.
            Conflict: nothing waits there any more, somebody files it now; the conversation is closed, or full.
        """
        address = (await self._waiting(held_id)).address
        identity = await self._resolve(conversation_id_or_reference)
        conversation = await self._conversation(identity)
        if not conversation.open:
            words = "The conversation is closed. File it in an open one; who it is from can be written to there."
            raise Conflict("conversation_closed", words)
        customer = await self.core.customer_of(conversation.customer_id)
        is_theirs = any(one.address == address for one in customer.bindings)
        filed = await self._file(held_id, identity, customer.id, customer.name, unverified=not is_theirs)
        if filed.count:
            facts = {"what": "filed", "who": who, "held": held_id, "count": filed.count}
            await self.core.store.note(shard_of(identity), "conversation.changed", facts, conversation_id=identity)
            log.info("held.filed", conversation=identity, count=filed.count)
        if filed.left:
            words = f"The conversation took {filed.count} of these messages; {filed.left} are still held."
            raise Conflict("queue_full", f"{words} {QUEUE_MAX} wait there: answer some, then file the rest.")
        if not filed.count:
            raise Conflict("already_filed", WAITS_NO_MORE)
        return FiledHeld(identity, filed.count)

    async def dismiss_held(self, held_id: str, *, who: str) -> HeldView:
        """Take it from the list, as nobody's: it is filed all the same if its sender proves where it belongs.

        Raises:
            NotFound, Conflict: nothing waits there.
        """
        view = await self._waiting(held_id)
        await self.core.store.let_held_go(held_id)
        facts = {"what": "dismissed", "who": who, "count": view.count}
        shard = shard_of(held_id)
        await self.core.store.note(shard, "conversation.changed", facts, conversation_id=held_id)
        return view

    async def _waiting(self, held_id: str) -> HeldView:
        since = await self.core.store.held_since(known(held_id))
        view = await self._held_view(held_id, since) if held_id.startswith("h") else None
        if view is None:
            raise NotFound("unknown_held", "Nothing is held under this id.")
        if not since:
            raise Conflict("already_filed", WAITS_NO_MORE)
        return view

    async def _file(self, held_id: str, identity: str, author: str, name: str, *, unverified: bool) -> Filed:
        # Two conversations may stand in two shards, where no script sees both.
        claim = f"tl:filing:{{{held_id}}}"
        if not await self.core.store.redis.call("SET", claim, "1", "NX", "EX", FILING_MAX_S):
            raise Conflict("being_filed", "Somebody files this at this moment. Look again.")
        try:
            return await Holding(self.core).file_from(held_id, identity, author, name, unverified=unverified)
        finally:
            await self.core.store.redis.call("DEL", claim)

    async def _held_view(self, identity: str, since: float) -> HeldView | None:
        store = self.core.store
        side, record, ids = await asyncio.gather(
            store.side(identity, SideName.CUSTOMER),
            store.held_record(identity),
            store.transcript_ids(identity, -LOOKED_BACK, -1),
        )
        if side is None:
            return None  # erased in this very moment
        messages = [one for one in await store.messages(ids) if one.side is SideName.AGENT]
        candidates = await asyncio.gather(*(store.conversation(one) for one in record.candidates))
        return HeldView(
            id=identity,
            endpoint=side.leg.endpoint,
            address=side.leg.address,
            since=since,
            why=record.why,
            candidates=tuple(one.reference for one in candidates if one is not None and one.open),
            count=record.count,
            last_text=messages[-1].content.text if messages else "",
        )


def _read_cursor(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not cursor.isdecimal() or len(cursor) > 5 or int(cursor) > HELD_REACH_MAX:
        raise Invalid("bad_cursor", "This cursor is not one that we gave.")
    return int(cursor)
