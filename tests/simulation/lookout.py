"""What people see of what they said: asked of the web role, as their clients ask. It knows no key of our store."""

from typing import TYPE_CHECKING

from channels.messages import Kind
from router.domain.conversation import ENDED, Message, MessageState, Side, SideName
from router.store.codec import place_of
from router.switchboard import Switchboard
from tests.simulation.climate import CAPABILITIES

if TYPE_CHECKING:
    from tests.simulation.people import Said, Talk
    from tests.simulation.world import World

TRANSCRIPT_MAX = 1000


class Lookout:
    """Looks at every conversation, again and again, until nothing in it is on its way any more."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.messages: dict[str, Message] = {}
        """By id: what the latest look showed."""
        self.left: list[str] = []
        """What was still on its way at the latest look."""
        self._quiet: set[str] = set()
        """Conversations with nothing on its way when they were last looked at."""
        self._first: dict[str, str] = {}
        """By conversation: the first message that was on its way."""
        self._in_vain: set[str] = set()
        """Conversations whose customer cannot be reached with what is to be said first."""
        self._waiting: dict[str, tuple[int, bool, int, bool]] = {}
        """By conversation: what waited on its sides, and whether notices did."""

    async def look(self) -> None:
        """Look at what was not quiet yet; once all of it is, at what was."""
        talks = [talk for talk in self.world.talks if talk.conversation_id]
        before = [talk for talk in talks if talk.conversation_id in self._quiet]
        self.left = [one for talk in talks if talk not in before for one in await self._look_at(talk)]
        if not self.left:
            self.left = [one for talk in before for one in await self._look_at(talk)]

    async def look_again(self) -> None:
        """See whether anything waits that did not when all was quiet."""
        self.left = []
        for talk in self.world.talks:
            if talk.conversation_id:
                view = await self.world.request(lambda web: web.conversation(talk.conversation_id))  # noqa: B023 - awaited here
                if self._waits(view.customer_side, view.agent_side) != self._waiting[talk.conversation_id]:
                    self._quiet.discard(talk.conversation_id)
                    self.left.append(f"{talk.conversation_id} goes on")

    async def _look_at(self, talk: "Talk") -> list[str]:
        conversation = talk.conversation_id
        first = self._first.get(conversation)
        if first is not None:
            message = await self.world.request(lambda web: web.message(first))
            if not self._ended(message) and not self._says_it_waits(message):
                return [f"{conversation} {first} {message.state} {message.reason}"]

        async def read(web: Switchboard) -> tuple[list[Message], tuple[Side, Side]]:
            view = await web.conversation(conversation)
            said = await web.transcript(conversation, limit=TRANSCRIPT_MAX)
            return said, (view.customer_side, view.agent_side)

        messages, sides = await self.world.request(read)
        self.messages |= {one.id: one for one in messages}
        self._waiting[conversation] = self._waits(*sides)
        going = [one.id for one in messages if not self._ended(one)]
        left = [
            f"{side.conversation_id}:{side.name} {one}" for side in sides for one in self._left(talk, side, messages)
        ]
        left += self._unplaced(talk, messages)
        self._first.pop(conversation, None)
        # A notice says of nothing that it waits: behind a message that has no way it may be due for ever.
        awaited = [one.id for one in messages if one.id in going and one.kind is not Kind.NOTICE]
        if awaited and left:
            self._first[conversation] = awaited[0]
        (self._quiet.discard if left else self._quiet.add)(conversation)
        return left

    @staticmethod
    def _waits(one: Side, other: Side) -> tuple[int, bool, int, bool]:
        return one.queued, one.notice_due, other.queued, other.notice_due

    def _unplaced(self, talk: "Talk", messages: list[Message]) -> list[str]:
        """What a spool promised and nobody sees yet, but for what it had to refuse and keeps aside."""
        waiting = [said for said in talk.said if said.spooled]
        if not waiting:
            return []
        seen = {one.content.text for one in messages}
        aside = self.world.aside()
        return [f"{said.key} in a spool" for said in waiting if said.key not in seen and f'"{said.key}"' not in aside]

    def _left(self, talk: "Talk", side: Side, messages: list[Message]) -> list[str]:
        """What of a side is on its way, but for what waits in vain, and says so."""
        going = [one for one in messages if one.side is side.name and not self._ended(one)]
        if side.name is SideName.CUSTOMER:
            self._in_vain.discard(side.conversation_id)
            if self._waits_in_vain(talk, self.messages.get(side.head), going):
                self._in_vain.add(side.conversation_id)
                return []
        left = [f"{one.id} {one.kind} {one.state} {one.reason}" for one in going]
        if side.queued and not going:
            left.append(f"{side.queued} in its queue")
        if side.notice_due and not (side.name is SideName.CUSTOMER and not self._ways(talk)):
            left.append("a notice")
        return left

    def _ended(self, message: Message) -> bool:
        """Nothing will become of it by itself."""
        if message.kind is Kind.NOTICE and message.state is MessageState.UNKNOWN:
            return True  # nobody is told twice because we are unsure
        if message.state is MessageState.SENT and message.side is SideName.CUSTOMER:
            # Without its receipt it goes on to the next binding.
            known = CAPABILITIES.get(message.endpoint)
            return known is None or known.receipt_due_s is None
        return message.state in ENDED

    @staticmethod
    def _says_it_waits(message: Message) -> bool:
        """Parked until a time; or in doubt: then a client is told no time."""
        return bool(message.parked_until) or message.state is MessageState.UNKNOWN

    def _waits_in_vain(self, talk: "Talk", head: Message | None, going: list[Message]) -> bool:
        """Its head has no way, and is parked for want of one; the others wait behind it."""
        return (
            head is not None
            and self._says_it_waits(head)
            and self.has_no_way(head, talk)
            and all(one.state in {MessageState.PARKED, MessageState.QUEUED, MessageState.UNKNOWN} for one in going)
        )

    def _ways(self, talk: "Talk") -> list[str]:
        """Addresses where somebody is who may be written to."""
        nobody = {place for vendor in self.world.vendors.values() for place in vendor.nobody_at}
        return [
            place_of(one)
            for one in talk.bindings
            if place_of(one) not in talk.refused and str(one.address) not in nobody
        ]

    def has_no_way(self, message: Message, talk: "Talk") -> bool:
        """Nobody may write it there, is there, or takes this message."""
        return message.message_class == "secret" or all(
            message.id in self.world.vendors[home].said_no for place in self._ways(talk) for home in talk.homes[place]
        )

    def excuses(self, said: "Said") -> bool:
        """It stands on a side of which the head has no way."""
        return said.to == "c" and said.conversation_id in self._in_vain

    def tell(self) -> None:
        """Let everybody know what became of their words."""
        by_words = {one.content.text: one for one in self.messages.values()}
        for talk in self.world.talks:
            for said in talk.said:
                # What was only in a spool is found by its words: its author has no id of it, or one that was not used.
                seen = self.messages.get(said.message_id) or (by_words.get(said.key) if said.spooled else None)
                if seen is None:
                    said.state = "missing"
                    continue
                if said.message_id and seen.id != said.message_id:
                    self.world.renamed += 1
                said.message_id, said.conversation_id = seen.id, seen.conversation_id
                said.state, said.reason, said.sequence = seen.state.value, seen.reason, seen.sequence
