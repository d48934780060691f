"""What may be read of conversations: one, many, a transcript, a message."""

import asyncio
from dataclasses import dataclass
from typing import Generic, TypeVar

from router.core import Core, Invalid, NotFound
from router.domain.conversation import Conversation, Customer, Message, Side, SideName
from router.domain.ids import REFERENCE_LENGTH, read_reference, shard_of

T = TypeVar("T")
LIST_MAX = 200


@dataclass(frozen=True, slots=True)
class ConversationView:
    """A conversation with its people and its two sides."""

    conversation: Conversation
    customer: Customer
    customer_side: Side
    agent_side: Side
    last_text: str


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list."""

    items: list[T]
    next_cursor: str | None


class Reading:
    """The use cases that change nothing."""

    def __init__(self, core: Core) -> None:
        self.core = core

    async def conversation(self, conversation_id_or_reference: str) -> ConversationView:
        """One conversation by id or reference. Raises NotFound."""
        return await self._view(await self._resolve(conversation_id_or_reference))

    async def conversations(
        self,
        *,
        open_only: bool = True,
        customer_id: str | None = None,
        assignee: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[ConversationView]:
        """Conversations: who waits longest first, then the other open ones, then (unless `open_only`) closed ones."""
        limit = max(1, min(limit, LIST_MAX))
        offset = _offset(cursor)
        if customer_id is not None:
            ids = (await self.core.store.open_of_customer(known(customer_id)))[offset : offset + limit + 1]
        else:
            ids = await self._listed(offset, limit + 1, open_only=open_only)
        views = await asyncio.gather(*(self._view_or_none(one) for one in ids[:limit]))
        items = [
            one for one in views if one is not None and (assignee is None or one.conversation.assignee == assignee)
        ]
        return Page(items, str(offset + limit) if len(ids) > limit else None)

    async def transcript(self, conversation_id: str, *, after_sequence: int = 0, limit: int = 200) -> list[Message]:
        """Messages of both directions in order, attempts included. Raises NotFound."""
        identity = await self._resolve(conversation_id)
        found: list[Message] = []
        start = 0
        while len(found) < min(limit, LIST_MAX * 5):
            ids = await self.core.store.transcript_ids(identity, start, start + LIST_MAX - 1)
            found += [one for one in await self.core.store.messages(ids) if one.sequence > after_sequence]
            start += LIST_MAX
            if len(ids) < LIST_MAX:
                break
        return found[:limit]

    async def message(self, message_id: str) -> Message:
        """One message with its attempts. Raises NotFound."""
        message = await self.core.store.message(known(message_id))
        if message is None:
            raise NotFound("unknown_message", "There is no such message.")
        return message

    async def _resolve(self, id_or_reference: str) -> str:
        if len(id_or_reference) == REFERENCE_LENGTH:
            found = await self.core.people.by_reference(read_reference(id_or_reference))
            if not found:
                raise NotFound("unknown_conversation", "No conversation has this reference.")
            return found
        return known(id_or_reference)

    async def _conversation(self, identity: str) -> Conversation:
        conversation = await self.core.store.conversation(identity)
        if conversation is None or identity.startswith("h"):
            raise NotFound("unknown_conversation", "There is no such conversation.")
        return conversation

    async def _side(self, identity: str, name: SideName) -> Side:
        side = await self.core.store.side(identity, name)
        if side is None:
            raise NotFound("unknown_conversation", "There is no such conversation.")
        return side

    async def _view(self, identity: str) -> ConversationView:
        conversation = await self._conversation(identity)
        customer, mine, theirs, last = await asyncio.gather(
            self.core.customer_of(conversation.customer_id),
            self._side(identity, SideName.CUSTOMER),
            self._side(identity, SideName.AGENT),
            self.core.store.transcript_ids(identity, -1, -1),
        )
        messages = await self.core.store.messages(last)
        return ConversationView(conversation, customer, mine, theirs, messages[0].content.text if messages else "")

    async def _view_or_none(self, identity: str) -> ConversationView | None:
        try:
            return await self._view(identity)
        except NotFound:
            return None

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
