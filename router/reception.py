"""Inbound: what customers, agents and vendors tell us, taken once, matched, durable before anyone is answered."""

import json
from dataclasses import dataclass, replace

import structlog

from channels.errors import LocalFault
from channels.messages import About, Accepted, Channel, Content, Event, InboundMessage, Kind, Matter, ReceiptEvent
from channels.text import opt_keyword
from health.report import Direction, EndpointId, Evidence, Verdict, Witness
from router.canary import took_canary
from router.continuing import FIELD, Continued, continued_by_match, continued_by_reference
from router.core import Core
from router.domain.conversation import Agent, Binding, Customer, MessageClass, SideName
from router.domain.ids import new_id, shard_of
from router.domain.journal import Decision, DecisionKind, write_decision
from router.domain.matching import Held, How, Joins, Match, MatchFacts, Opens, Why, match_inbound
from router.evidence_desk import EvidenceDesk
from router.holding import Holding
from router.inbound import keep_content, natural_key, new_message, said_hash
from router.mail_threads import remember_mail
from router.match_facts import gather_facts, only_open
from router.openings import customer_for, opened_by
from router.receipts import take_receipt
from router.rendering import gather_matter
from router.senders import Sender, find_sender
from router.store.asked import AcceptAnswer, NewConversation, NewMessage
from router.store.people import TooManyBindings
from router.store.redis import StoreUnavailable
from router.store.store import read_token
from router.telemetry import ACCEPTED

REFUSED = frozenset({"missing", "closed", "full"})
"""Answers of `accept` after which nothing was taken."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reception:
    """Takes events."""

    core: Core
    desk: EvidenceDesk
    holding: Holding

    async def accept(self, event: Event) -> Accepted:
        """Take a message or a receipt once.

        Raises:
            StoreUnavailable: nothing was promised; deliver it again.
            LocalFault: the same, and Redis is not to blame: a thousand messages wait from that place already.
        """
        if isinstance(event, ReceiptEvent):
            return await take_receipt(self.core, self.desk, event)
        self._hear(event.endpoint)
        if await took_canary(self.core, event):
            return Accepted()
        return await self._take_message(event)

    async def matter(self, about: About) -> Matter | None:
        """The conversation an answer is about; None where we cannot tell without guessing."""
        conversation_id = ""
        if about.token:
            try:
                message = await self.core.store.message(read_token(about.token)[0])
            except ValueError:
                return None
            conversation_id = message.conversation_id if message else ""
        elif about.reply_token:
            conversation_id = self.core.read_reply_token(about.reply_token)
        elif about.sender is not None:
            conversation_id = await only_open(self.core, about.sender)
        if not conversation_id or conversation_id.startswith("h"):
            return None
        return await gather_matter(self.core, conversation_id)

    async def _take_message(self, event: InboundMessage) -> Accepted:
        key = natural_key(event)
        sender, accepted = await find_sender(self.core, event, key)
        if accepted is not None:
            message_id, conversation_id = accepted
            await self._remember(event, conversation_id)  # we may have ended between taking it and this
            return Accepted("" if conversation_id.startswith("h") else conversation_id, message_id, duplicate=True)
        facts = await gather_facts(self.core, event, sender)
        content = await keep_content(self.core, event)
        if sender.agent is not None:
            return await self._take_from_agent(event, sender, sender.agent, facts, content, key)
        opt = event.opt or (opt_keyword(event.text) if event.sender.channel is Channel.SMS else None)
        if opt in {"stop", "start"}:
            return await self._take_opt(event, sender, match_inbound(event, facts), content, key, opt == "start")
        proven = await self.holding.read_code(sender.place, event.text)
        if proven:
            return await self._file_proven(event, sender, proven, key, content)
        return await self._by_match(event, sender, match_inbound(event, facts), content, key)

    async def _by_match(
        self, event: InboundMessage, sender: Sender, match: Match, content: Content, key: str
    ) -> Accepted:
        match match:
            case Joins():
                return await self._join(event, sender, match, content, key)
            case Opens():
                continued = await continued_by_reference(self.core, event, sender)
                return await self._open(event, sender, match, content, key, continued)
            case Held():
                message = new_message(self.core, event, sender.place.shard, "", event.sender_name, content)
                # Nobody is asked about an auto-reply, so it waits for nothing; with an answer it is filed.
                waits = None if event.automatic else match
                answer = _taken(await self.holding.keep(sender.place, message, key, said_hash(content), waits))
                if answer.verdict == "new":
                    await self._note_held(match, answer.message_id, event)
                    if sender.may_be_asked(event.sender):
                        await self.holding.ask(sender.place, match, event)
                return Accepted("", answer.message_id, duplicate=answer.verdict != "new")

    async def _join(self, event: InboundMessage, sender: Sender, match: Joins, content: Content, key: str) -> Accepted:
        conversation_id = match.conversation_id
        read = sender.conversations.get(conversation_id)
        conversation = read or await self.core.store.conversation(conversation_id)
        if conversation is None:
            return await self._go_on(event, sender, match, content, key)
        whose = (one for one in sender.customers if one.id == conversation.customer_id)
        customer = next(whose, None) or await self.core.customer_of(conversation.customer_id)
        if match.how is How.MAIL_THREAD and all(one.address != event.sender for one in customer.bindings):
            # Everybody who was copied knows the Message-ID: it files the mail, and proves nothing about its sender.
            event = replace(event, unverified=True)
        filed = sender.has_held and await self.holding.file(sender.place, conversation_id, customer.id, customer.name)
        if filed:
            log.info("held.filed", conversation=conversation_id, count=filed)
        message = new_message(self.core, event, shard_of(conversation_id), customer.id, customer.name, content)
        answer = await self._put(
            event, sender, conversation_id, message, key, reopen=True, decided=f"joined by {match.how}"
        )
        await self._learn_address(event, customer)
        if answer.verdict == "missing":
            raise StoreUnavailable(
                "archived, or erased, in this very moment; what is delivered again finds the new one"
            )
        return await self._accepted_or_held(answer, event, sender, conversation_id, content, key)

    async def _go_on(self, event: InboundMessage, sender: Sender, match: Joins, content: Content, key: str) -> Accepted:
        """What it belongs to is archived: a new one begins that names it; or erased: it is matched without that."""
        continued = await continued_by_match(self.core, event, match)
        if continued is not None:
            return await self._open(event, sender, match, content, key, continued)
        event = replace(event, reply_token="", in_reply_to=())
        again = match_inbound(event, await gather_facts(self.core, event, sender))
        return await self._by_match(event, sender, again, content, key)

    async def _open(
        self,
        event: InboundMessage,
        sender: Sender,
        match: Joins | Opens,
        content: Content,
        key: str,
        continued: Continued | None = None,
    ) -> Accepted:
        if continued is not None:
            customer = continued.customer
        else:
            known = match.customer_id if isinstance(match, Opens) else None
            customer = await customer_for(self.core, event, sender, known)
        shard = shard_of(customer.id)
        conversation_id = new_id("v", shard, int(self.core.clock.now() * 1000))
        create = await opened_by(self.core, event, sender, customer, conversation_id)
        message = new_message(self.core, event, shard, customer.id, customer.name or event.sender_name, content)
        answer = await self._put(
            event, sender, conversation_id, message, key, create=create, decided="opened a conversation"
        )
        if continued is not None:
            await self._name_old(answer.conversation_id, continued)
            if continued.trusted:
                await self._learn_address(event, customer)
        return self._accepted(answer, event)

    async def _name_old(self, conversation_id: str, continued: Continued) -> None:
        fields = json.dumps({FIELD: continued.reference})
        facts = {"what": ["fi"], FIELD: continued.conversation_id}
        await self.core.store.update(conversation_id, {"fi": fields}, facts)

    async def _put(
        self,
        event: InboundMessage,
        sender: Sender,
        conversation_id: str,
        message: NewMessage,
        key: str,
        *,
        create: NewConversation | None = None,
        reopen: bool = False,
        quiet: bool = False,
        decided: str = "",
    ) -> AcceptAnswer:
        trusted = not event.automatic and not event.unverified and not quiet
        answer = await self.core.store.accept(
            conversation_id,
            message,
            natural_key=key,
            said_hash=said_hash(message.content),
            create=create,
            reopen=reopen,
            pin=(event.endpoint, sender.place.place) if trusted and create is None else None,
            mail_id=event.vendor_id if event.sender.channel is Channel.EMAIL else "",
            quiet=quiet or event.automatic,
            decision=self._decision(DecisionKind.MATCHED, conversation_id, decided, event) if decided else "",
        )
        await self._remember(event, answer.conversation_id)
        return answer

    async def _remember(self, event: InboundMessage, conversation_id: str) -> None:
        if event.sender.channel is Channel.EMAIL and conversation_id and not conversation_id.startswith("h"):
            await remember_mail(self.core, event.endpoint, event.vendor_id, conversation_id)

    async def _take_from_agent(
        self, event: InboundMessage, sender: Sender, agent: Agent, facts: MatchFacts, content: Content, key: str
    ) -> Accepted:
        match = match_inbound(event, facts)
        if event.automatic or event.unverified:
            # It would be said in our name. Two auto-replies would talk for ever; and a forger may well have the token,
            # for customers' mail carries the same one.
            match = Held(Why.NOTHING_OPEN, "", ())
            log.warning("agent.not_believed", agent=agent.id, endpoint=event.endpoint, automatic=event.automatic)
        if not isinstance(match, Joins):
            return await self._by_match(event, sender, match, content, key)
        shard = shard_of(match.conversation_id)
        now = self.core.clock.now()
        message = replace(
            new_message(self.core, event, shard, agent.id, agent.name, content),
            side=SideName.CUSTOMER,
            expires_at=self.core.expiry(MessageClass.NORMAL, now),
        )
        answer = await self._put(event, sender, match.conversation_id, message, key)
        return await self._accepted_or_held(answer, event, sender, match.conversation_id, content, key)

    async def _take_opt(
        self, event: InboundMessage, sender: Sender, match: Match, content: Content, key: str, consents: bool
    ) -> Accepted:
        """STOP ends consent for this address at once, for everybody who shares it; START restores it."""
        changed = False
        for customer in sender.everybody:
            for binding in customer.bindings:
                if binding.address == event.sender and binding.consent != consents:
                    await self.core.people.set_binding(customer.id, replace(binding, consent=consents))
                    changed = True
                    if consents:
                        await self.core.wake_customer(customer.id)
        conversation_id = match.conversation_id if isinstance(match, Joins) else ""
        if conversation_id:
            owner = next(iter(sender.customers), None)
            author, name = (owner.id, owner.name) if owner else ("", "")
            message = new_message(self.core, event, shard_of(conversation_id), author, name, content)
            answer = await self._put(event, sender, conversation_id, message, key, quiet=True)
        if not conversation_id or answer.verdict in REFUSED:
            conversation_id = ""
            message = new_message(self.core, event, sender.place.shard, "", "", content)
            answer = _taken(await self.holding.keep(sender.place, message, key, said_hash(content)))
        if changed:
            locale = event.locale or next((one.locale for one in sender.customers if one.locale), "")
            text = self.core.wording.say(
                "confirm.start" if consents else "confirm.stop", locale or self.core.settings.default_locale
            )
            await self.holding.say(sender.place, text, Kind.CONFIRMATION)
            log.info("consent.changed", endpoint=event.endpoint, consents=consents, customers=len(sender.customers))
        return Accepted(conversation_id, answer.message_id, duplicate=answer.verdict != "new")

    async def _file_proven(
        self, event: InboundMessage, sender: Sender, conversation_id: str, key: str, content: Content
    ) -> Accepted:
        conversation = await self.core.store.conversation(conversation_id)
        customer = await self.core.customer_of(conversation.customer_id if conversation else "")
        await self.holding.file(sender.place, conversation_id, customer.id, customer.name)
        message = new_message(self.core, event, shard_of(conversation_id), customer.id, customer.name, content)
        answer = await self._put(event, sender, conversation_id, message, key, reopen=True)
        return await self._accepted_or_held(answer, event, sender, conversation_id, content, key)

    async def _learn_address(self, event: InboundMessage, customer: Customer) -> None:
        """Whoever answers with a signed token or in the thread is reachable where they answered from."""
        if event.unverified or event.automatic or not customer.id:
            return
        bound = event.endpoint if event.sender.channel is Channel.CHAT else None
        if any((one.address, one.endpoint) == (event.sender, bound) for one in customer.bindings):
            return
        binding = Binding(event.sender, bound, verified=True, order=len(customer.bindings), locale=event.locale)
        try:
            await self.core.people.set_binding(customer.id, binding)
        except TooManyBindings:
            # What was written is taken; only this address is answered through the conversation alone.
            log.warning("binding.not_learned", customer=customer.id, endpoint=event.endpoint)

    async def _accepted_or_held(
        self,
        answer: AcceptAnswer,
        event: InboundMessage,
        sender: Sender,
        conversation_id: str,
        content: Content,
        key: str,
    ) -> Accepted:
        """What its conversation does not take, agents are shown: it ended, is archived, or too much waits there."""
        if answer.verdict not in REFUSED:
            return self._accepted(answer, event)
        why, asks = (Why.QUEUE_FULL, "") if answer.verdict == "full" else (Why.NOTHING_OPEN, "prompt.reference")
        return await self._by_match(event, sender, Held(why, asks, (conversation_id,)), content, key)

    def _accepted(self, answer: AcceptAnswer, event: InboundMessage) -> Accepted:
        ACCEPTED.labels(event.endpoint, "accepted" if answer.verdict == "new" else "duplicate").inc()
        log.info(
            "message.accepted",
            conversation=answer.conversation_id,
            message=answer.message_id,
            endpoint=event.endpoint,
            verdict=answer.verdict,
        )
        return Accepted(answer.conversation_id, answer.message_id, duplicate=answer.verdict != "new")

    def _hear(self, endpoint: EndpointId) -> None:
        """Something came in: the endpoint's inbound direction works."""
        now = self.core.clock.now()
        self.desk.say(Evidence(endpoint, Direction.IN, Verdict.OK, Witness.OUTCOME, now))

    async def _note_held(self, held: Held, message_id: str, event: InboundMessage) -> None:
        facts = {"d": self._decision(DecisionKind.HELD, "", f"held: {held.why}", event)}
        shard = shard_of(message_id)
        await self.core.store.note(shard, "decision.made", facts, message_id=message_id, endpoint=event.endpoint)

    def _decision(self, kind: DecisionKind, conversation_id: str, words: str, event: InboundMessage) -> str:
        now = self.core.clock.now()
        return write_decision(Decision(kind, conversation_id, SideName.AGENT, now, words, (str(event.endpoint),)))


def _taken(answer: AcceptAnswer) -> AcceptAnswer:
    """Nobody is told that we have what stands nowhere. Raises LocalFault."""
    if answer.verdict in REFUSED:
        raise LocalFault(f"not taken: what is held from there is {answer.verdict}")
    return answer
