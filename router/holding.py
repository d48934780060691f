"""Messages that match no conversation: kept, asked about, filed once the sender has proven where they belong."""

import json
import secrets
import unicodedata
from dataclasses import dataclass, replace

import structlog

from channels.messages import Content, InboundMessage, Kind
from health.report import EndpointId
from router.core import CONSOLE_ENDPOINT, CONSOLE_PLACE, Core
from router.domain.conversation import Binding, Message, MessageClass, SideName
from router.domain.ids import hidden_id, new_id, shard_of
from router.domain.matching import Held, Why
from router.inbound import mail_id_of
from router.store.asked import AcceptAnswer, NewConversation, NewLeg, NewMessage
from router.store.codec import read_place
from router.store.people import TooManyBindings
from router.strangers import Strangers

PROMPT_EVERY_S = 600
"""One prompt an address in ten minutes: whoever does not read it is not asked again and again."""
CODE_TTL_S = 600
CODE_TRIES_MAX = 5
CODES_MAX = 3
CODES_EVERY_S = 3600
"""Codes one conversation gets in an hour, whoever claims it: else a reference in strange hands floods its owner."""
LOOKED_THROUGH_MAX = 1_000
"""Of what is held, and our prompts among it, in one filing: no conversation takes more at once."""
CANDIDATES_KEPT_MAX = 10
"""Conversations that a held message may belong to, remembered for agents."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Place:
    """Where somebody writes from, over which endpoint."""

    endpoint: EndpointId
    place: str
    shard: int

    @property
    def conversation_id(self) -> str:
        """The hidden conversation that holds what came from here."""
        return hidden_id(self.shard, self.endpoint, self.place)


@dataclass(frozen=True, slots=True)
class Filed:
    """What came of filing what was held from one place."""

    count: int
    """Messages that stand in their conversation now."""
    left: int
    """Messages that it did not take, and that are still held."""


@dataclass(frozen=True, slots=True)
class Holding:
    """Keeps what cannot be matched, and asks."""

    core: Core

    async def keep(
        self, at: Place, message: NewMessage, natural_key: str, said_hash: str, held: Held | None = None
    ) -> AcceptAnswer:
        """Take a message into the hidden conversation of its place; durable when it returns.

        `held`: it waits for proof, and agents are shown it; without, there is nothing to be done about it.
        """
        return await self.core.store.accept(
            at.conversation_id,
            message,
            natural_key=natural_key,
            said_hash=said_hash,
            create=self._hidden(at),
            reopen=True,
            quiet=True,
            held=(held.why, held.candidates[:CANDIDATES_KEPT_MAX]) if held is not None else None,
        )

    async def ask(self, at: Place, held: Held, event: InboundMessage) -> None:
        """Ask for a reference, or send a code to a known binding; at most once in ten minutes, naming nobody."""
        if not held.prompt_key:
            return
        if not await self.core.store.redis.call("SET", _asked_key(at.conversation_id), "1", "NX", "EX", PROMPT_EVERY_S):
            return
        locale = event.locale or self.core.settings.default_locale
        await self.say(at, self.core.wording.prompt(held.prompt_key, locale), Kind.PROMPT)
        if held.why is Why.CLAIM and held.candidates:
            await self._send_code(at, held.candidates[0])

    async def say(self, at: Place, text: str, kind: Kind) -> None:
        """Say something to a place outside any conversation, unless strangers have made us say enough this hour."""
        if not await Strangers(self.core).may_hear(read_place(at.place)[0]):
            return
        now = self.core.clock.now()
        await self.core.store.accept(
            at.conversation_id,
            NewMessage(
                new_id("m", at.shard, int(now * 1000)),
                SideName.CUSTOMER,
                kind,
                "router",
                "",
                Content(text),
                MessageClass.URGENT,
                self.core.expiry(MessageClass.URGENT, now),
                EndpointId(""),
            ),
            create=self._hidden(at),
            reopen=True,
            front=kind is Kind.CONFIRMATION,
            quiet=True,
        )

    async def read_code(self, at: Place, text: str) -> str:
        """The conversation a right code proves, or ''. Five wrong ones end the claim."""
        typed = "".join(str(unicodedata.decimal(one)) for one in text if one.isdecimal())  # of any script
        if len(text.strip()) > 40 or len(typed) != 6:
            return ""
        key = self._claim_key(at)
        found = await self.core.store.redis.call("GET", key)
        if not found:
            return ""
        # Counted before it is compared: guesses that come all at once are as few as others.
        tries = int(await self.core.store.redis.call("INCR", f"{key}:tries"))
        await self.core.store.redis.call("EXPIRE", f"{key}:tries", CODE_TTL_S)
        if tries > CODE_TRIES_MAX:
            return ""
        claim = json.loads(found)
        if secrets.compare_digest(typed, claim["code"]):
            await self.core.store.redis.call("DEL", key)
            await self._bind(at, claim["conversation"])
            return str(claim["conversation"])
        if tries == CODE_TRIES_MAX:
            await self.core.store.redis.call("DEL", key)
        await self.say(at, self.core.wording.say("prompt.wrong_code", self.core.settings.default_locale), Kind.PROMPT)
        return ""

    async def file(self, at: Place, conversation_id: str, author: str, author_name: str) -> int:
        """Move what is held here into its conversation, in order, each once; how many messages."""
        return (await self.file_from(at.conversation_id, conversation_id, author, author_name)).count

    async def file_from(
        self, held_id: str, conversation_id: str, author: str, author_name: str, *, unverified: bool = False
    ) -> Filed:
        """The same, of a hidden conversation by its id; `unverified`: nothing has proven that its sender belongs there.

        What comes from that place after this, and cannot be matched, is asked about again at once.
        """
        count, last, left = 0, 0, 0
        for message in await self._unfiled(held_id):
            if left or not await self._file_one(message, conversation_id, author, author_name, unverified=unverified):
                left += 1  # what is refused stays held, with all that was said after it
                continue
            count, last = count + 1, message.sequence
        if count:
            changes = {"fi": json.dumps({"filed": str(last)})}
            await self.core.store.update(held_id, changes, {"what": "filed", "count": count})
            await self.core.store.redis.call("DEL", _asked_key(held_id))
            await self._let_go(held_id)
        return Filed(count, left)

    async def _let_go(self, held_id: str) -> None:
        """Take it from what agents are shown, unless something came, or was refused, meanwhile."""
        await self.core.store.let_held_go(held_id)
        if left := await self._unfiled(held_id):
            await self.core.store.hold_again(held_id, left[0].created_at, len(left))

    async def _unfiled(self, held_id: str) -> list[Message]:
        hidden = await self.core.store.conversation(held_id)
        if hidden is None:
            return []
        filed = int(hidden.fields.get("filed", "0"))
        # The n-th message stands at position n - 1: what was filed long ago is not read again.
        ids = await self.core.store.transcript_ids(held_id, filed, filed + LOOKED_THROUGH_MAX - 1)
        return [one for one in await self.core.store.messages(ids) if one.side is SideName.AGENT]

    async def _file_one(
        self, message: Message, conversation_id: str, author: str, author_name: str, *, unverified: bool
    ) -> bool:
        """Whether it stands in a conversation now, as it came, and since when; it may have come there before."""
        now = self.core.clock.now()
        original, key = await self.core.store.origin_of(message.id)
        answer = await self.core.store.accept(
            conversation_id,
            NewMessage(
                new_id("m", shard_of(conversation_id), int(now * 1000)),
                SideName.AGENT,
                Kind.MESSAGE,
                author,
                author_name,
                message.content,
                message.message_class,
                0,
                message.endpoint,
                late=message.late,
                unverified=message.unverified or unverified,
                original=original,
                came_at=message.created_at,
            ),
            natural_key=f"held:{message.id}",
            mail_id=mail_id_of(message.endpoint, key),
            reopen=True,
        )
        return answer.verdict in {"new", "duplicate"}

    async def _send_code(self, at: Place, conversation_id: str) -> None:
        conversation = await self.core.store.conversation(conversation_id)
        if conversation is None or not await self._may_send_code(conversation_id):
            return
        side = await self.core.store.side(conversation_id, SideName.CUSTOMER)
        if side is None or not await Strangers(self.core).may_hear(side.leg.address):
            return
        code = f"{secrets.randbelow(10**6):06d}"
        claim = json.dumps({"code": code, "conversation": conversation_id})
        await self.core.store.redis.call("DEL", f"{self._claim_key(at)}:tries")
        await self.core.store.redis.call("SET", self._claim_key(at), claim, "EX", CODE_TTL_S)
        locale = conversation.locale or self.core.settings.default_locale
        text = self.core.wording.say("code.message", locale, code=code, reference=conversation.reference)
        now = self.core.clock.now()
        await self.core.store.accept(
            conversation_id,
            NewMessage(
                new_id("m", shard_of(conversation_id), int(now * 1000)),
                SideName.CUSTOMER,
                Kind.PROMPT,
                "router",
                "",
                Content(text),
                MessageClass.SECRET,
                self.core.expiry(MessageClass.SECRET, now),
                EndpointId(""),
            ),
            quiet=True,
        )

    async def _may_send_code(self, conversation_id: str) -> bool:
        """Take one of the hour's places, if one is free."""
        for number in range(CODES_MAX):
            place = f"tl:codes:{{{conversation_id}}}:{number}"
            if await self.core.store.redis.call("SET", place, "1", "NX", "EX", CODES_EVERY_S):
                return True
        return False

    async def _bind(self, at: Place, conversation_id: str) -> None:
        conversation = await self.core.store.conversation(conversation_id)
        if conversation is None:
            return
        address, endpoint = read_place(at.place)
        customer = await self.core.customer_of(conversation.customer_id)
        known = next((one for one in customer.bindings if (one.address, one.endpoint) == (address, endpoint)), None)
        binding = known or Binding(address, endpoint, order=len(customer.bindings))
        try:
            await self.core.people.set_binding(customer.id, replace(binding, verified=True, consent=True))
        except TooManyBindings:
            log.warning("binding.not_learned", customer=customer.id, endpoint=at.endpoint)

    def _claim_key(self, at: Place) -> str:
        return f"tl:claim:{{{at.conversation_id}}}"

    def _hidden(self, at: Place) -> NewConversation:
        return NewConversation(
            customer_id="",
            reference="",
            subject="",
            locale=self.core.settings.default_locale,
            message_class=MessageClass.NORMAL,
            priority=5,
            team="",
            customer=NewLeg("", at.endpoint, at.place),
            agent=NewLeg("", CONSOLE_ENDPOINT, CONSOLE_PLACE),
            hidden=True,
        )


def _asked_key(held_id: str) -> str:
    return f"tl:asked:{{{held_id}}}"
