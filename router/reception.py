"""Inbound: what customers, agents and vendors tell us, taken once, matched, durable before anyone is answered."""

import asyncio
import hashlib
from dataclasses import dataclass, replace

import structlog

from channels.messages import (
    About,
    Accepted,
    Address,
    Channel,
    Content,
    Event,
    File,
    InboundMessage,
    Kind,
    Matter,
    ReceiptEvent,
    ReceiptState,
)
from channels.text import opt_keyword
from health.report import Direction, EndpointId, Evidence, Verdict, Witness
from router.canary import took_canary
from router.core import CONSOLE_ENDPOINT, CONSOLE_PLACE, Core
from router.domain.conversation import Agent, Binding, Customer, MessageClass, SideName
from router.domain.ids import new_id, shard_for, shard_of
from router.domain.journal import Decision, DecisionKind, write_decision
from router.domain.matching import (
    Held,
    How,
    Joins,
    Match,
    MatchFacts,
    Opens,
    Spoken,
    Why,
    claimed_references,
    match_inbound,
    searched_text,
)
from router.evidence_desk import EvidenceDesk
from router.holding import Holding, Place
from router.rendering import gather_matter
from router.store.control import EarlyReceipt
from router.store.keys import place as place_text
from router.store.people import TooManyBindings
from router.store.store import AcceptAnswer, NewConversation, NewLeg, NewMessage, read_token
from router.telemetry import ACCEPTED

SUBJECT_MAX = 80
HTML_MAX = 200_000
SPOKEN_MAX = 50
"""Conversations over one address pair that matching looks at."""
TEXT_TRUNCATED = "\n[...]"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Sender:
    """Who is known at the address a message came from."""

    place: Place
    customers: tuple[Customer, ...]
    """Whose address it is. One who only claimed it counts once a conversation of theirs has spoken over it: else
    anybody could read a stranger's message by leaving the stranger's number in a chat form."""
    everybody: tuple[Customer, ...]
    """Those who only claimed it, too: a STOP from there holds for all of them."""
    agent: Agent | None

    def may_be_asked(self, address: Address) -> bool:
        """Not where everybody known there has withdrawn consent."""
        known = [one for customer in self.everybody for one in customer.bindings if one.address == address]
        return not known or any(one.consent for one in known)


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
        """
        if isinstance(event, ReceiptEvent):
            return await self._take_receipt(event)
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
            conversation_id = await self._only_open(about.sender)
        if not conversation_id or conversation_id.startswith("h"):
            return None
        return await gather_matter(self.core, conversation_id)

    async def _take_receipt(self, event: ReceiptEvent) -> Accepted:
        token = event.token
        if not token and event.vendor_id:
            early = EarlyReceipt(event.state.value, event.reason[:200], permanent=event.permanent, final=event.final)
            token = await self.core.control.token_of(event.endpoint, event.vendor_id, early)
        try:
            read_token(token)
        except ValueError:
            log.info("receipt.unmatched", endpoint=event.endpoint, state=event.state)
            return Accepted()
        verdict, conversation_id, state = await self.core.store.receipt(
            token, event.state, reason=event.reason, permanent=event.permanent, final=event.final
        )
        if verdict == "ok" and event.state in {ReceiptState.DELIVERED, ReceiptState.READ}:
            self.desk.say(
                Evidence(event.endpoint, Direction.OUT, Verdict.OK, Witness.RECEIPT, self.core.clock.now(), token=token)
            )
        log.info("receipt.taken", endpoint=event.endpoint, state=event.state, verdict=verdict, message_state=state)
        return Accepted(conversation_id, read_token(token)[0], duplicate=verdict == "old")

    async def _take_message(self, event: InboundMessage) -> Accepted:
        sender = await self._who(event)
        key = f"{event.endpoint}:{event.vendor_id}"
        known = await self.core.store.natural_key(sender.place.shard, key)
        if known is not None:
            return Accepted("" if known[1].startswith("h") else known[1], known[0], duplicate=True)
        content = await self._content(event)
        if sender.agent is not None and not sender.customers:
            return await self._take_from_agent(event, sender, sender.agent, content, key)
        opt = event.opt or (opt_keyword(event.text) if event.sender.channel is Channel.SMS else None)
        if opt in {"stop", "start"}:
            return await self._take_opt(event, sender, content, key, opt == "start")
        proven = await self.holding.read_code(sender.place, event.text)
        if proven:
            return await self._file_proven(event, sender, proven, key, content)
        facts = await self._facts(event, sender)
        match = match_inbound(event, facts)
        accepted = await self._by_match(event, sender, match, content, key)
        await self._note_match(match, accepted, event)
        return accepted

    async def _by_match(
        self, event: InboundMessage, sender: _Sender, match: Match, content: Content, key: str
    ) -> Accepted:
        match match:
            case Joins():
                return await self._join(event, sender, match, content, key)
            case Opens():
                return await self._open(event, sender, match.customer_id, content, key)
            case Held():
                message = self._message(event, sender.place.shard, "", event.sender_name, content)
                answer = await self.holding.keep(sender.place, message, key, _hash(content))
                if answer.verdict == "new" and sender.may_be_asked(event.sender):
                    await self.holding.ask(sender.place, match, event)
                return Accepted("", answer.message_id, duplicate=answer.verdict != "new")

    async def _join(self, event: InboundMessage, sender: _Sender, match: Joins, content: Content, key: str) -> Accepted:
        conversation_id = match.conversation_id
        conversation = await self.core.store.conversation(conversation_id)
        if conversation is None:
            return await self._open(event, sender, None, content, key)
        customer = await self.core.customer_of(conversation.customer_id)
        if match.how is How.MAIL_THREAD and all(one.address != event.sender for one in customer.bindings):
            # Everybody who was copied knows the Message-ID: it files the mail, and proves nothing about its sender.
            event = replace(event, unverified=True)
        held = await self.holding.file(sender.place, conversation_id, customer.id, customer.name)
        if held:
            log.info("held.filed", conversation=conversation_id, count=held)
        message = self._message(event, shard_of(conversation_id), customer.id, customer.name, content)
        answer = await self._put(event, sender, conversation_id, message, key, reopen=True)
        await self._learn_address(event, customer)
        return self._accepted(answer, event)

    async def _open(
        self, event: InboundMessage, sender: _Sender, customer_id: str | None, content: Content, key: str
    ) -> Accepted:
        customer = await self._customer_for(event, sender, customer_id)
        shard = shard_of(customer.id)
        now = self.core.clock.now()
        conversation_id = new_id("v", shard, int(now * 1000))
        create = NewConversation(
            customer_id=customer.id,
            reference=await self.core.people.claim_reference(conversation_id),
            subject=_subject(event),
            locale=event.locale or customer.locale or self.core.settings.default_locale,
            message_class=MessageClass.NORMAL,
            priority=5,
            team="",
            customer=NewLeg(customer.id, event.endpoint, sender.place.place),
            agent=NewLeg("", CONSOLE_ENDPOINT, CONSOLE_PLACE),
        )
        message = self._message(event, shard, customer.id, customer.name or event.sender_name, content)
        answer = await self._put(event, sender, conversation_id, message, key, create=create)
        return self._accepted(answer, event)

    async def _put(
        self,
        event: InboundMessage,
        sender: _Sender,
        conversation_id: str,
        message: NewMessage,
        key: str,
        *,
        create: NewConversation | None = None,
        reopen: bool = False,
        quiet: bool = False,
    ) -> AcceptAnswer:
        trusted = not event.automatic and not event.unverified and not quiet
        return await self.core.store.accept(
            conversation_id,
            message,
            natural_key=key,
            said_hash=_hash(message.content),
            create=create,
            reopen=reopen,
            pin=(event.endpoint, sender.place.place) if trusted and create is None else None,
            mail_id=event.vendor_id if event.sender.channel is Channel.EMAIL else "",
            quiet=quiet or event.automatic,
        )

    async def _take_from_agent(
        self, event: InboundMessage, sender: _Sender, agent: Agent, content: Content, key: str
    ) -> Accepted:
        match = match_inbound(event, await self._facts(event, sender))
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
            self._message(event, shard, agent.id, agent.name, content),
            side=SideName.CUSTOMER,
            expires_at=self.core.expiry(MessageClass.NORMAL, now),
        )
        answer = await self._put(event, sender, match.conversation_id, message, key)
        return self._accepted(answer, event)

    async def _take_opt(
        self, event: InboundMessage, sender: _Sender, content: Content, key: str, consents: bool
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
        match = match_inbound(event, await self._facts(event, sender))
        conversation_id = match.conversation_id if isinstance(match, Joins) else ""
        if conversation_id:
            owner = next(iter(sender.customers), None)
            message = self._message(
                event, shard_of(conversation_id), owner.id if owner else "", owner.name if owner else "", content
            )
            answer = await self._put(event, sender, conversation_id, message, key, quiet=True)
        else:
            message = self._message(event, sender.place.shard, "", "", content)
            answer = await self.holding.keep(sender.place, message, key, _hash(content))
        if changed:
            locale = event.locale or next((one.locale for one in sender.customers if one.locale), "")
            text = self.core.wording.say(
                "confirm.start" if consents else "confirm.stop", locale or self.core.settings.default_locale
            )
            await self.holding.say(sender.place, text, Kind.CONFIRMATION)
            log.info("consent.changed", endpoint=event.endpoint, consents=consents, customers=len(sender.customers))
        return Accepted(conversation_id, answer.message_id, duplicate=answer.verdict != "new")

    async def _file_proven(
        self, event: InboundMessage, sender: _Sender, conversation_id: str, key: str, content: Content
    ) -> Accepted:
        conversation = await self.core.store.conversation(conversation_id)
        customer = await self.core.customer_of(conversation.customer_id if conversation else "")
        await self.holding.file(sender.place, conversation_id, customer.id, customer.name)
        message = self._message(event, shard_of(conversation_id), customer.id, customer.name, content)
        answer = await self._put(event, sender, conversation_id, message, key, reopen=True)
        return self._accepted(answer, event)

    async def _who(self, event: InboundMessage) -> _Sender:
        bound = event.endpoint if event.sender.channel is Channel.CHAT else None
        ids = await self.core.people.at(event.sender, bound)
        customers = await asyncio.gather(*(self.core.people.customer(one) for one in ids if one.startswith("c")))
        agents = await asyncio.gather(*(self.core.people.agent(one) for one in ids if one.startswith("a")))
        everybody = tuple(sorted((one for one in customers if one), key=lambda one: one.created_at))
        where = place_text(event.sender, bound)
        shard = shard_of(everybody[0].id) if everybody else shard_for(where, self.core.store.shards)
        place = Place(event.endpoint, where, shard)
        claimed = [one for one in everybody if not _is_verified(one, event.sender)]
        spoke = await self._spoke_here(place) if claimed else frozenset()
        found = tuple(one for one in everybody if one not in claimed or one.id in spoke)
        return _Sender(place, found, everybody, next((one for one in agents if one), None))

    async def _spoke_here(self, place: Place) -> frozenset[str]:
        """Customers with a conversation that spoke over this exact pair: somebody there has heard of it."""
        over = await self.core.store.spoke_over(place.shard, place.endpoint, place.place)
        records = await asyncio.gather(*(self.core.store.conversation(one) for one in list(over)[:SPOKEN_MAX]))
        return frozenset(one.customer_id for one in records if one is not None)

    async def _facts(self, event: InboundMessage, sender: _Sender) -> MatchFacts:
        shard = sender.place.shard
        open_ids: list[str] = []
        for customer in sender.customers:
            open_ids += await self.core.store.open_of_customer(customer.id)
        over = await self.core.store.spoke_over(shard, event.endpoint, sender.place.place)
        recent = sorted(over, key=lambda one: -over[one])[:SPOKEN_MAX]
        records = await asyncio.gather(*(self.core.store.conversation(one) for one in dict.fromkeys(open_ids + recent)))
        known = {one.id: one for one in records if one is not None and not one.id.startswith("h")}
        mine = set(open_ids) | (set(recent) if sender.agent else set())
        claims: dict[str, str] = {}
        own_closed: dict[str, str] = {}
        people = {one.id for one in sender.customers}
        for reference in () if event.automatic else claimed_references(searched_text(event)):
            if owner := await self.core.people.by_reference(reference):
                conversation = await self.core.store.conversation(owner)
                if conversation is None:
                    continue  # archived: nobody could prove anything about it, so nothing waits for that
                is_own = conversation.customer_id in people
                (own_closed if is_own else claims)[reference] = owner
        return MatchFacts(
            now=self.core.clock.now(),
            token_conversation=await self._token_conversation(event),
            thread=await self._thread(event, shard),
            references={one.reference: one.id for one in known.values() if one.open and one.id in mine} | own_closed,
            claims=claims,
            spoken=[
                Spoken(one, known[one].customer_id, over[one], open=known[one].open) for one in recent if one in known
            ],
            open_conversations=sorted(open_ids),
            customers=tuple(one.id for one in sender.customers),
            from_agent=sender.agent is not None and not sender.customers,
        )

    async def _token_conversation(self, event: InboundMessage) -> str:
        """The conversation of a reply token: signed, or an attempt's own (a call's callback)."""
        if not event.reply_token:
            return ""
        if signed := self.core.read_reply_token(event.reply_token):
            return signed
        try:
            message = await self.core.store.message(read_token(event.reply_token)[0])
        except ValueError:
            return ""
        return message.conversation_id if message is not None and not message.conversation_id.startswith("h") else ""

    async def _thread(self, event: InboundMessage, shard: int) -> dict[str, str]:
        """Which conversations the mails belong to that this one refers to: ours by vendor id, theirs by natural key."""
        thread = {}
        for identity in event.in_reply_to[:20]:
            known = await self.core.store.natural_key(shard, f"{event.endpoint}:{identity}")
            if known is not None and not known[1].startswith("h"):
                thread[identity] = known[1]
                continue
            token = await self.core.control.token_of(event.endpoint, identity)
            if token:
                message = await self.core.store.message(read_token(token)[0])
                if message is not None and not message.conversation_id.startswith("h"):
                    thread[identity] = message.conversation_id
        return thread

    async def _only_open(self, sender: Address) -> str:
        found = []
        for customer_id in await self.core.people.at(sender):
            if customer_id.startswith("c"):
                found += await self.core.store.open_of_customer(customer_id)
        return found[0] if len(found) == 1 else ""

    async def _customer_for(self, event: InboundMessage, sender: _Sender, customer_id: str | None) -> Customer:
        """The customer the conversation opens for; two deliveries from one unknown address make one customer."""
        found = next((one for one in sender.customers if one.id == customer_id), None)
        if found is not None:
            return await self.core.customer_of(found.alias_of) if found.alias_of else found
        bound = event.endpoint if event.sender.channel is Channel.CHAT else None
        now = self.core.clock.now()
        proposed = new_id("c", sender.place.shard, int(now * 1000))
        winner = await self.core.people.claim_address(event.sender, bound, proposed)
        if winner != proposed and (known := await self.core.people.customer(winner)) is not None:
            return known
        customer = Customer(
            id=winner,
            name=event.sender_name[:200],
            locale=event.locale or self.core.settings.default_locale,
            bindings=(Binding(event.sender, bound, verified=not event.unverified, locale=event.locale),),
            created_at=now,
        )
        await self.core.people.create(customer)
        return customer

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

    def _message(
        self, event: InboundMessage, shard: int, author: str, author_name: str, content: Content
    ) -> NewMessage:
        return NewMessage(
            id=new_id("m", shard, int(self.core.clock.now() * 1000)),
            side=SideName.AGENT,
            kind=Kind.MESSAGE,
            author=author,
            author_name=author_name or event.sender_name[:200],
            content=content,
            message_class=MessageClass.NORMAL,
            expires_at=0,
            endpoint=event.endpoint,
            late=event.late,
            unverified=event.unverified,
            original=hashlib.sha256(event.original).hexdigest() if event.original else "",
        )

    async def _content(self, event: InboundMessage) -> Content:
        """The message's content with its files, and its raw original, on disk."""
        if event.original:
            await self.core.files.write(event.original)
        limits = self.core.settings.attachments
        files = []
        dropped = len(event.files) - limits.files_max
        for file in event.files[: limits.files_max]:
            if len(file.content) > limits.file_max_bytes:
                dropped = max(dropped, 0) + 1
                continue
            digest = await self.core.files.write(file.content)
            files.append(File(digest, file.name[:200], file.media_type[:100], len(file.content)))
        text = event.text
        if len(text) > self.core.settings.messages.text_max:
            text = text[: self.core.settings.messages.text_max] + TEXT_TRUNCATED
        return Content(
            text=text,
            html=event.html[:HTML_MAX] if event.html else None,
            subject=event.subject[:SUBJECT_MAX] if event.subject else None,
            files=tuple(files),
        )

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

    async def _note_match(self, match: Match, accepted: Accepted, event: InboundMessage) -> None:
        now = self.core.clock.now()
        match match:
            case Joins():
                kind, words = DecisionKind.MATCHED, f"joined by {match.how}"
            case Opens():
                kind, words = DecisionKind.MATCHED, "opened a conversation"
            case Held():
                kind, words = DecisionKind.HELD, f"held: {match.why}"
        decision = Decision(kind, accepted.conversation_id, SideName.AGENT, now, words, (str(event.endpoint),))
        await self.core.store.note(
            shard_of(accepted.message_id),
            "decision.made",
            {"d": write_decision(decision)},
            conversation_id=accepted.conversation_id,
            message_id=accepted.message_id,
            endpoint=event.endpoint,
        )


def _is_verified(customer: Customer, address: Address) -> bool:
    return any(one.address == address and one.verified for one in customer.bindings)


def _hash(content: Content) -> str:
    return hashlib.sha256(f"{content.subject}\n{content.text}".encode()).hexdigest()[:16]


def _subject(event: InboundMessage) -> str:
    subject = event.subject or event.text
    return " ".join(subject.split())[:SUBJECT_MAX]
