"""Everybody who was promised something by a store whose servers fail, and everything that was really said."""

import asyncio

from channels.messages import Content, Kind
from health.report import EndpointId
from router.domain.conversation import MessageClass, SideName
from router.domain.ids import new_id
from router.store.asked import LeaseTerms, NewConversation, NewLeg, NewMessage, Settlement
from router.store.codec import Leased
from router.store.redis import StoreUnavailable
from router.store.store import Store

MAIL, CONSOLE = EndpointId("email/support"), EndpointId("chat/console")
TERMS = LeaseTerms(lease_s=8.0, hold_s={"normal": 60.0}, idempotent=False, attempts_max=3)
HASTY = LeaseTerms(lease_s=2.0, hold_s={"normal": 0.5}, idempotent=False, attempts_max=9)
"""Where what was leased by nobody who heard of it is to be said again within seconds."""


class People:
    """Of one shard. Each conversation's messages come one after the other; what is leased counts as said."""

    def __init__(self, store: Store, shard: int = 0, terms: LeaseTerms = TERMS) -> None:
        self.store, self.shard, self.terms = store, shard, terms
        self.promised: list[str] = []
        self.said: list[tuple[str, bool]] = []
        self.turns: dict[str, list[str]] = {}
        """Messages by conversation, in the order that was promised."""

    async def write(self) -> str:
        """One message in a conversation of its own; the conversation's id."""
        conversation = new_id("v", self.shard, 1_000)
        await self.go_on(conversation)
        return conversation

    async def go_on(self, conversation: str) -> None:
        """One more there; the same again, under the same key, until it is acknowledged."""
        message, customer = new_id("m", self.shard, 1_000), f"c{self.shard}-ann"
        new = NewMessage(
            message, SideName.CUSTOMER, Kind.MESSAGE, "a0-bob", "Bob", Content(message), MessageClass.NORMAL, 0.0,
            EndpointId(""),
        )  # fmt: skip
        legs = NewLeg(customer, MAIL, f"email:{conversation}@x.test"), NewLeg("", CONSOLE, "chat:console")
        create = NewConversation(customer, conversation[-5:], "Order", "en", MessageClass.NORMAL, 5, "", *legs)
        first = conversation not in self.turns
        while True:
            try:
                answer = await self.store.accept(
                    conversation, new, natural_key=message, create=create if first else None
                )
            except StoreUnavailable:
                await asyncio.sleep(0.05)
                continue
            assert answer.verdict in {"new", "duplicate"}, answer.verdict
            self.promised.append(message)
            self.turns.setdefault(conversation, []).append(message)
            return

    async def lease(self, count: int = 1) -> list[Leased]:
        """What is due."""
        return await self.store.lease(MAIL, "w1", count, self.terms, shard=self.shard)

    async def say(self) -> int:
        """Whatever is due goes out, and is recorded as sent; how many."""
        leased = await self.lease(50)
        self.said += [(one.message_id, one.possible_duplicate) for one in leased]
        rows = [
            Settlement(one.conversation_id, one.side, one.message_id, one.number, one.fence, "sent") for one in leased
        ]
        await self.store.settle(self.shard, rows)
        return len(leased)

    def doubled_unseen(self) -> set[str]:
        """Said again without saying that it may be a repeat."""
        seen: set[str] = set()
        again = set()
        for message, flagged in self.said:
            if message in seen and not flagged:
                again.add(message)
            seen.add(message)
        return again

    def lost(self) -> set[str]:
        """Promised, and never said."""
        return set(self.promised) - {message for message, _ in self.said}

    def out_of_order(self) -> list[str]:
        """Conversations whose messages were first said in another order than was promised."""
        first = {message: number for number, (message, _) in reversed(list(enumerate(self.said)))}
        said = {one: [first[message] for message in turns if message in first] for one, turns in self.turns.items()}
        return [one for one, numbers in said.items() if numbers != sorted(numbers)]
