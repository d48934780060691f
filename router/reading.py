"""What may be read of conversations: one, many, a transcript, a message; from the archive what Redis has no more."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog

from channels.messages import Kind
from router.archive.database import ArchiveError
from router.archive.records import ArchivedHead, Sought
from router.core import ArchiveUnavailable, Conflict, Core, Invalid, NotFound, SwitchboardError
from router.domain.conversation import Conversation, Customer, Message, Side, SideName
from router.domain.ids import REFERENCE_LENGTH, read_reference, shard_of
from router.store import keys

T = TypeVar("T")
LIST_MAX = 200
TRANSCRIPT_MAX = 1_000
"""Messages in one answer."""
LOOKED_BACK = 6
"""Where the router spoke last, so many of the last messages are looked through for what a person said."""
WALKED = 500

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ConversationView:
    """A conversation with its people and its two sides."""

    conversation: Conversation
    customer: Customer
    customer_side: Side
    agent_side: Side
    last_text: str
    archived: bool = False
    """It is closed for good, and stands in the archive."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list."""

    items: list[T]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Transcript:
    """Part of what was said, in order."""

    messages: list[Message]
    archived: bool


class Reading:
    """The use cases that change nothing."""

    def __init__(self, core: Core) -> None:
        self.core = core

    async def conversation(self, conversation_id_or_reference: str, *, archived_too: bool = False) -> ConversationView:
        """One conversation by id or reference; with `archived_too` also one that only the archive has.

        Raises:
            NotFound, ArchiveUnavailable.
        """
        identity = await self._resolve(conversation_id_or_reference)
        found = await self._view_or_none(identity)
        if found is not None:
            return found
        if archived_too and not identity.startswith("h"):
            head = await self._archived(self.core.archive.head(identity))
            if head is not None:
                return await self._archived_view(head)
        raise NotFound("unknown_conversation", "There is no such conversation.")

    async def conversations(
        self,
        *,
        open_only: bool = True,
        customer_id: str | None = None,
        assignee: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[ConversationView]:
        """Conversations: who waits longest first, then the other open ones, then (unless `open_only`) closed ones.

        Of one customer: the open ones first, in the order they began. `assignee` is looked for within the
        page: it may hold fewer than `limit`, and there may be more behind its cursor.
        """
        limit = max(1, min(limit, LIST_MAX))
        offset = _offset(cursor)
        if customer_id is not None:
            ids = await self.core.store.open_of_customer(known(customer_id))
            if not open_only:
                ids += await closed_of_customer(self.core, customer_id)
            ids = ids[offset : offset + limit + 1]
        else:
            ids = await self._listed(offset, limit + 1, open_only=open_only)
        views = await asyncio.gather(*(self._view_or_none(one) for one in ids[:limit]))
        items = [
            one for one in views if one is not None and (assignee is None or one.conversation.assignee == assignee)
        ]
        return Page(items, str(offset + limit) if len(ids) > limit else None)

    async def archived_conversations(
        self, sought: Sought, *, cursor: str | None = None, limit: int = 50
    ) -> Page[ConversationView]:
        """Archived conversations, closed last first. Raises Invalid, ArchiveUnavailable."""
        limit = max(1, min(limit, LIST_MAX))
        before = _closed_before(cursor)
        found = await self._archived(self.core.archive.find(sought, before=before, limit=limit + 1))
        items = [await self._archived_view(head) for head in found[:limit]]
        last = items[-1].conversation if len(found) > limit else None
        return Page(items, f"{round(last.closed_at * 1000)}~{last.id}" if last else None)

    async def transcript(
        self, conversation_id: str, *, after_sequence: int = 0, before_sequence: int | None = None, limit: int = 200
    ) -> list[Message]:
        """Messages of both directions in order, attempts included, of a conversation that is not archived.

        The first ones above `after_sequence`, or the last ones below `before_sequence` (0: the last of all); at most
        a thousand of them.
        """
        identity = await self._resolve(conversation_id)
        if before_sequence is None:
            return await self._said_after(identity, after_sequence, min(limit, TRANSCRIPT_MAX))
        return await self._said_before(identity, before_sequence, min(limit, TRANSCRIPT_MAX))

    async def transcript_part(
        self, conversation_id: str, *, after_sequence: int = 0, before_sequence: int | None = None, limit: int = 200
    ) -> Transcript:
        """The same, of an archived one too. Raises NotFound, ArchiveUnavailable."""
        identity = await self._resolve(conversation_id)
        place: dict[str, Any] = {"after_sequence": after_sequence, "before_sequence": before_sequence}
        found = await self.transcript(identity, **place, limit=limit)
        if found or identity.startswith("h") or await self.core.store.conversation(identity) is not None:
            return Transcript(found, archived=False)
        if await self._archived(self.core.archive.head(identity)) is None:
            raise NotFound("unknown_conversation", "There is no such conversation.")
        messages = self.core.archive.transcript(identity, **place, limit=min(limit, TRANSCRIPT_MAX))
        return Transcript(await self._archived(messages), archived=True)

    async def message(self, message_id: str) -> Message:
        """One message with its attempts. Raises NotFound."""
        identity = known(message_id)
        message = await self.core.store.message(identity)
        if message is None:
            message = await self._archived(self.core.archive.message(identity))
        if message is None or message.conversation_id.startswith("h"):
            raise NotFound("unknown_message", "There is no such message.")
        return message

    async def _said_after(self, identity: str, sequence: int, limit: int) -> list[Message]:
        found: list[Message] = []
        start = sequence  # where the one behind it stands
        while len(found) < limit:
            wanted = min(LIST_MAX, limit - len(found))
            ids = await self.core.store.transcript_ids(identity, start, start + wanted - 1)
            found += await self.core.store.messages(ids)
            start += len(ids)
            if len(ids) < wanted:
                break
        return found

    async def _said_before(self, identity: str, sequence: int, limit: int) -> list[Message]:
        length = await self.core.store.transcript_length(identity)
        found: list[Message] = []
        end = min(sequence - 1, length) if sequence else length
        while len(found) < limit and end > 0:
            start = max(0, end - min(LIST_MAX, limit - len(found)))
            ids = await self.core.store.transcript_ids(identity, start, end - 1)
            found[:0] = await self.core.store.messages(ids)
            end = start
        return found

    async def _resolve(self, id_or_reference: str) -> str:
        if len(id_or_reference) == REFERENCE_LENGTH:
            reference = read_reference(id_or_reference)
            found = await self.core.people.by_reference(reference)
            if not found:  # given back a year after it was archived
                found = await self._archived(self.core.archive.by_reference(reference))
            if not found:
                raise NotFound("unknown_conversation", "No conversation has this reference.")
            return found
        return known(id_or_reference)

    async def _conversation(self, identity: str) -> Conversation:
        """One that something may be done with. Raises NotFound, Conflict (it is archived)."""
        conversation = await self.core.store.conversation(identity)
        if conversation is None or identity.startswith("h"):
            raise await self._gone(identity)
        return conversation

    async def _gone(self, identity: str) -> SwitchboardError:
        """Why nothing can be done with a conversation that Redis does not have."""
        if not identity.startswith("h") and await self._archived(self.core.archive.head(identity)) is not None:
            words = "The conversation is archived: it can be read, and nothing can be said in it or changed any more."
            return Conflict("conversation_archived", f"{words} Open a new one.")
        return NotFound("unknown_conversation", "There is no such conversation.")

    async def _side(self, identity: str, name: SideName) -> Side:
        side = await self.core.store.side(identity, name)
        if side is None:
            raise NotFound("unknown_conversation", "There is no such conversation.")
        return side

    async def _view(self, identity: str) -> ConversationView:
        found = await self._view_or_none(identity)
        if found is None:
            raise await self._gone(identity)
        return found

    async def _view_or_none(self, identity: str) -> ConversationView | None:
        conversation = await self.core.store.conversation(identity)
        if conversation is None or identity.startswith("h"):
            return None
        customer, mine, theirs, last = await asyncio.gather(
            self.core.customer_of(conversation.customer_id),
            self.core.store.side(identity, SideName.CUSTOMER),
            self.core.store.side(identity, SideName.AGENT),
            self._last_text(identity),
        )
        if mine is None or theirs is None:
            return None  # archived in this very moment
        return ConversationView(conversation, customer, mine, theirs, last)

    async def _last_text(self, identity: str) -> str:
        """What a person said last: after an outage a list of notices, all alike, would tell nobody apart."""
        store = self.core.store
        messages = await store.messages(await store.transcript_ids(identity, -1, -1))
        if messages and messages[0].kind is not Kind.MESSAGE:
            messages += reversed(await store.messages(await store.transcript_ids(identity, -LOOKED_BACK, -2)))
        said = (one for one in messages if one.kind is Kind.MESSAGE)
        found = next(said, messages[0] if messages else None)
        return found.content.text if found else ""

    async def _archived_view(self, head: ArchivedHead) -> ConversationView:
        customer = await self.core.customer_of(head.conversation.customer_id)
        return ConversationView(
            head.conversation, customer, head.customer_side, head.agent_side, head.last_text, archived=True
        )

    async def _archived(self, answer: Awaitable[T]) -> T:
        """What the archive answers. Raises ArchiveUnavailable."""
        try:
            return await answer
        except ArchiveError as error:
            log.warning("archive.failed", error=str(error))
            words = "The archive cannot be read now; what is not archived goes on. `throughline doctor` says why."
            raise ArchiveUnavailable("archive_unavailable", words) from error

    async def _listed(self, offset: int, count: int, *, open_only: bool) -> list[str]:
        """One list out of the shards' indexes, each conversation once."""
        wanted = offset + count
        waiting: list[str] = []
        others: list[str] = []
        for shard in range(self.core.store.shards):
            waiting += await self.core.store.listed(shard, "wait", offset=0, limit=wanted)
            others += await self.core.store.listed(shard, "open", offset=0, limit=wanted)
            if not open_only:
                others += await self.core.store.listed(shard, "closed", offset=0, limit=wanted)
        return list(dict.fromkeys(waiting + others))[offset:wanted]


async def closed_of_customer(core: Core, customer_id: str) -> list[str]:
    """Ids of a customer's closed conversations that are not archived yet, in the order they began."""
    shard = shard_of(customer_id)
    place, cursor = keys.shard(shard), "0"
    found: set[str] = set()
    while True:
        cursor, some = await core.store.walk(shard, "closed", cursor, WALKED)
        whose = await asyncio.gather(*(core.store.redis.call("HGET", f"{place}v:{one}", "cu") for one in some))
        found.update(identity for identity, owner in zip(some, whose, strict=True) if owner == customer_id)
        if cursor == "0":
            return sorted(found)


def known(identity: str) -> str:
    """The id, if it is one at all: anything else is not found, and never part of a key."""
    try:
        shard_of(identity)
    except ValueError as error:
        raise NotFound("unknown_id", "There is nothing with this id.") from error
    if len(identity) > 60 or not identity.replace("-", "").isalnum():
        raise NotFound("unknown_id", "There is nothing with this id.")
    return identity


def _offset(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not cursor.isdecimal() or len(cursor) > 9:
        raise Invalid("bad_cursor", "This cursor is not one that we gave.")
    return int(cursor)


def _closed_before(cursor: str | None) -> tuple[float, str] | None:
    if cursor is None:
        return None
    closed_ms, _, identity = cursor.partition("~")
    if not closed_ms.isdecimal() or len(closed_ms) > 15 or not identity or len(identity) > 60:
        raise Invalid("bad_cursor", "This cursor is not one that we gave.")
    return int(closed_ms) / 1000, identity
