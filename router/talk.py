"""What agents and the API do with conversations: say, open, read, change, close, lead elsewhere."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from channels.messages import Address, Channel, Content, File, Kind
from channels.text import one_line
from health.report import EndpointId
from router.addresses import normalise
from router.core import CONSOLE_ENDPOINT, CONSOLE_PLACE, Conflict, Invalid, NotFound
from router.domain.conversation import NOWHERE, Customer, Message, MessageClass, MessageState, SideName
from router.domain.ids import REFERENCE_LENGTH, new_id, shard_of
from router.domain.routing import Choice, RouteRequest, choose_route
from router.edge import DRAFT, OPENING, Draft, take_unplaced
from router.openings import PRIORITY, SUBJECT_MAX, Opening, first_leg, first_message, note_first_leg, opened_with
from router.planner import place_for
from router.reading import ConversationView, Reading, known
from router.store.asked import NewMessage, Rebind
from router.store.codec import Notice
from router.store.keys import place as place_text
from router.store.redis import StoreUnavailable

FIELDS_MAX = 50
FIELD_VALUE_MAX = 500
KEPT_MAX = 100
"""Characters of a team, an assignee, a locale."""
KEY_MAX = 200


@dataclass(frozen=True, slots=True)
class Sent:
    """A message was accepted."""

    message_id: str
    conversation_id: str
    state: MessageState
    duplicate: bool
    sequence: int
    endpoint: EndpointId
    """Where it is expected to go."""
    spooled: bool = False
    """Redis is away: it is on our disk and gets its place once Redis is back; only then can it be refused."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to go with a message."""

    name: str
    media_type: str
    content: bytes


class Talk(Reading):
    """The use cases around one conversation."""

    async def send(
        self,
        conversation_id: str,
        *,
        text: str,
        subject: str | None = None,
        files: Sequence[Upload] = (),
        author: str,
        author_name: str,
        idempotency_key: str,
        message_class: MessageClass | None = None,
        expires_in_s: float | None = None,
        side: SideName = SideName.CUSTOMER,
    ) -> Sent:
        """Accept a message to one side of an open conversation; durable when it returns, see `Sent.spooled`.

        Raises:
            NotFound, Conflict (closed; key used for other words; 1000 messages wait), Invalid, StoreUnavailable.
        """
        now = self.core.clock.now()
        key = _api_key(author, idempotency_key)
        content = await self._content(text, subject, files)
        spool = self.core.spool
        is_reference = len(conversation_id) == REFERENCE_LENGTH
        if is_reference and spool is not None and spool.away:
            raise StoreUnavailable("only Redis knows whose reference this is")
        identity = await self._resolve(conversation_id)
        draft = Draft(
            conversation_id=identity,
            message_id=new_id("m", shard_of(identity), int(now * 1000)),
            content=content,
            author=author,
            author_name=author_name,
            natural_key=key,
            message_class=message_class,
            at=now,
            expires_in_s=expires_in_s,
            side=side,
        )
        if spool is None:
            return await self.put(draft)
        return _answer(await take_unplaced(spool, DRAFT, draft, self.put))

    async def put(self, draft: Draft) -> Sent:
        """Give a message its place in its conversation, once. Raises as `send` does."""
        identity = draft.conversation_id
        conversation = await self._conversation(identity)
        chosen = draft.message_class or conversation.message_class
        message = NewMessage(
            id=draft.message_id,
            side=draft.side,
            kind=Kind.MESSAGE,
            author=draft.author,
            author_name=draft.author_name,
            content=draft.content,
            message_class=chosen,
            expires_at=draft.at + draft.expires_in_s if draft.expires_in_s else self.core.expiry(chosen, draft.at),
            endpoint=EndpointId(""),
        )
        answer = await self.core.store.accept(
            identity,
            message,
            natural_key=draft.natural_key,
            said_hash=_said(identity, draft.content),
        )
        return _sent(answer.verdict, answer.message_id, answer.conversation_id, answer.sequence, answer.endpoint)

    async def open_conversation(
        self,
        customer_id: str,
        *,
        subject: str,
        text: str,
        author: str,
        author_name: str,
        idempotency_key: str,
        message_class: MessageClass = MessageClass.NORMAL,
        priority: int = PRIORITY,
        team: str = "",
        channel: Channel | None = None,
    ) -> Sent:
        """Begin a conversation with a customer, on `channel` if it works, else where the route leads.

        Durable when it returns, see `Sent.spooled`: while Redis is away it has its ids, and what is said in it waits
        behind its beginning.

        Raises:
            NotFound, Invalid (nothing can reach them), Conflict, StoreUnavailable.
        """
        key = _api_key(author, idempotency_key)
        content = await self._content(text, subject, ())
        now = self.core.clock.now()
        shard = shard_of(known(customer_id))
        opening = Opening(
            customer_id=customer_id,
            conversation_id=new_id("v", shard, int(now * 1000)),
            message_id=new_id("m", shard, int(now * 1000)),
            content=content,
            author=author,
            author_name=author_name,
            natural_key=key,
            message_class=message_class,
            priority=priority,
            team=team,
            channel=channel,
            at=now,
        )
        spool = self.core.spool
        if spool is None:
            return await self.begin(opening)
        return _answer(await take_unplaced(spool, OPENING, opening, self.begin))

    async def begin(self, opening: Opening) -> Sent:
        """Begin a conversation of ours, once. Raises as `open_conversation` does."""
        customer = await self.core.people.customer(opening.customer_id)
        if customer is None:
            raise NotFound("unknown_customer", "There is no such customer.")
        if customer.alias_of:
            customer = await self.core.customer_of(customer.alias_of)
            opening = opening.in_shard(shard_of(customer.id))
        route, first = await first_leg(self.core, opening, customer)
        answer = await self.core.store.accept(
            opening.conversation_id,
            first_message(self.core, opening),
            natural_key=opening.natural_key,
            said_hash=_said(customer.id, opening.content),
            create=await opened_with(self.core, opening, customer, first),
        )
        sent = _sent(answer.verdict, answer.message_id, answer.conversation_id, answer.sequence, answer.endpoint)
        if not sent.duplicate:
            await note_first_leg(self.core, opening.conversation_id, route, first)
        return sent

    async def cancel_message(self, message_id: str) -> Message:
        """Take back a message nobody has begun to say. Raises NotFound, Conflict (begun already)."""
        verdict = await self.core.store.cancel(known(message_id), "cancelled")
        if verdict == "begun":
            raise Conflict("already_begun", "The message has been begun to be said, so it cannot be taken back.")
        return await self.message(message_id)

    async def update_conversation(
        self,
        conversation_id: str,
        *,
        assignee: str | None = None,
        team: str | None = None,
        priority: int | None = None,
        subject: str | None = None,
        fields: Mapping[str, str] | None = None,
        locale: str | None = None,
    ) -> ConversationView:
        """Change what is given. An assigned agent's own binding may take the agent's side; '' assigns it to nobody.

        A team is a label, kept as it is given: agents carry one, and nothing else of ours knows it.

        Raises:
            NotFound, Conflict (it is archived), Invalid (too many fields; the assignee is no agent).
        """
        identity = await self._resolve(conversation_id)
        changes: dict[str, str] = {}
        for name, value in (("as", assignee), ("te", team), ("lo", locale)):
            if value is not None:
                changes[name] = one_line(value)[:KEPT_MAX]
        if subject is not None:
            changes["sj"] = one_line(subject)[:SUBJECT_MAX]
        if priority is not None:
            changes["pr"] = str(priority)
        if fields is not None:
            if len(fields) > FIELDS_MAX or any(len(value) > FIELD_VALUE_MAX for value in fields.values()):
                raise Invalid("too_many_fields", f"At most {FIELDS_MAX} fields of {FIELD_VALUE_MAX} characters.")
            changes["fi"] = json.dumps(dict(fields), ensure_ascii=False)
        before = await self._conversation(identity)
        if assignee and assignee != before.assignee and await self.core.people.agent(assignee) is None:
            words = f"There is no agent {assignee[:60]}; nothing was changed. `GET /v1/agents` lists who may be named."
            raise Invalid("unknown_agent", words)
        await self.core.store.update(identity, changes, {"what": sorted(changes)})
        if assignee is not None:
            await self.core.store.set_owner(identity, SideName.AGENT, assignee)
            if before.assignee and before.assignee != assignee:
                await self._leave_agent(identity, before.assignee)
        return await self._view(identity)

    async def close_conversation(self, conversation_id: str, who: str) -> ConversationView:
        """End a conversation; what waits to be said still goes out. Raises NotFound, Conflict (closed already)."""
        identity = await self._resolve(conversation_id)
        if await self.core.store.close(identity) == "already":
            raise Conflict("conversation_closed", "The conversation is closed already.")
        await self.core.store.note(shard_of(identity), "conversation.changed", {"who": who}, conversation_id=identity)
        return await self._view(identity)

    async def bind_agent_side(
        self, conversation_id: str, *, endpoint: EndpointId, address: Address, who: str
    ) -> ConversationView:
        """Reach the agent's side elsewhere: the console, or a mail or SMS endpoint. Raises NotFound, Invalid."""
        identity = await self._resolve(conversation_id)
        self._check_endpoint(endpoint, address.channel)
        address = normalise(address, self.core.settings.default_country)
        bound = endpoint if address.channel is Channel.CHAT else None
        await self._move(identity, SideName.AGENT, endpoint, place_text(address, bound), f"chosen by {who}", None)
        return await self._view(identity)

    async def move_customer_side(
        self, conversation_id: str, *, endpoint: EndpointId, who: str, why: str
    ) -> ConversationView:
        """Continue one conversation at another endpoint, where the customer has a consented address there.

        Raises:
            NotFound, Invalid (no such endpoint, no address there), Conflict (it moved meanwhile).
        """
        identity = await self._resolve(conversation_id)
        conversation = await self._conversation(identity)
        self._check_endpoint(endpoint, None)
        customer = await self.core.customer_of(conversation.customer_id)
        now = self.core.clock.now()
        request = RouteRequest(identity, customer.bindings, now, policy=self.core.policy, target=endpoint)
        route = choose_route(request, await self.core.views())
        choice = next((one for one in route.taken if one.endpoint == endpoint), None)
        if choice is None:
            refused = next((one for one in route.choices if one.endpoint == endpoint), None)
            words = refused.reason.words if refused else "It is not known."
            raise Invalid("no_route", f"{endpoint} cannot carry this conversation: {words}")
        await self.core.unverified.begin(customer.bindings[choice.binding], now)
        await self._move(
            identity, SideName.CUSTOMER, endpoint, _where(choice, customer), f"chosen by {who}: {why}"[:200], "chosen"
        )
        return await self._view(identity)

    async def _leave_agent(self, identity: str, agent_id: str) -> None:
        """What was given to another agent goes on in the console, if it was at an address of this one."""
        agent = await self.core.people.agent(agent_id)
        side = await self._side(identity, SideName.AGENT)
        if agent is not None and any(one.address == side.leg.address for one in agent.bindings):
            await self._move(identity, SideName.AGENT, CONSOLE_ENDPOINT, CONSOLE_PLACE, "assigned to another", None)

    async def _move(
        self, identity: str, name: SideName, endpoint: EndpointId, where: str, reason: str, notice: str | None
    ) -> None:
        side = await self._side(identity, name)
        now = self.core.clock.now()
        told = None
        if notice is not None and place_text(side.leg.address) != where:
            told = Notice(new_id("m", shard_of(identity), int(now * 1000)), notice, side.leg.endpoint, now)
        change = Rebind(identity, name, side.epoch, endpoint, where, reason, told, automatic=False)
        if (await self.core.store.rebind(shard_of(identity), [change]))[0] != "ok":
            raise Conflict("moved_meanwhile", "The conversation moved in this very moment. Look again, then decide.")

    async def _content(self, text: str, subject: str | None, files: Sequence[Upload]) -> Content:
        limits = self.core.settings.attachments
        if not text.strip() and not files:
            raise Invalid("empty_message", "The message is empty. Write something, or attach a file.")
        if len(text) > self.core.settings.messages.text_max:
            raise Invalid("text_too_long", f"At most {self.core.settings.messages.text_max} characters.")
        if "\x00" in text:
            raise Invalid("bad_character", "The text holds a NUL character, which no channel carries.")
        if subject is not None and ("\r" in subject or "\n" in subject):
            raise Invalid("bad_subject", "The subject holds a line break. Write it on one line.")
        if len(files) > limits.files_max or sum(len(file.content) for file in files) > limits.total_max_bytes:
            raise Invalid(
                "files_too_large", f"At most {limits.files_max} files of {limits.total_max_bytes} bytes in all."
            )
        stored = []
        for file in files:
            if len(file.content) > limits.file_max_bytes:
                raise Invalid("file_too_large", f"{one_line(file.name)}: at most {limits.file_max_bytes} bytes.")
            digest = await self.core.files.write(file.content)
            stored.append(File(digest, one_line(file.name)[:200], one_line(file.media_type)[:100], len(file.content)))
        return Content(text, None, subject, tuple(stored))

    def _check_endpoint(self, endpoint: EndpointId, channel: Channel | None) -> None:
        if endpoint not in self.core.capabilities:
            raise Invalid("unknown_endpoint", f"There is no endpoint {endpoint[:60]}.")
        if channel is not None and self.core.capabilities[endpoint].channel is not channel:
            raise Invalid("wrong_channel", f"{endpoint} does not carry {channel}.")


def _where(choice: Choice, customer: Customer) -> str:
    return place_for(choice, customer.bindings)


def _api_key(author: str, key: str) -> str:
    if not key or len(key) > KEY_MAX:
        raise Invalid("bad_idempotency_key", f"The Idempotency-Key must have 1 to {KEY_MAX} characters.")
    return f"api:{author}:{key}"


def _said(about: str, content: Content) -> str:
    files = ",".join(file.sha256 for file in content.files)
    return hashlib.sha256(f"{about}\n{content.subject}\n{content.text}\n{content.html}\n{files}".encode()).hexdigest()[
        :16
    ]


def _answer(taken: Sent | tuple[str, str]) -> Sent:
    """What the spool holds has its ids, and no place yet."""
    if isinstance(taken, Sent):
        return taken
    conversation_id, message_id = taken
    return Sent(message_id, conversation_id, MessageState.QUEUED, False, 0, NOWHERE, spooled=True)


def _sent(verdict: str, message_id: str, conversation_id: str, sequence: int, endpoint: EndpointId) -> Sent:
    match verdict:
        case "new" | "duplicate":
            return Sent(message_id, conversation_id, MessageState.QUEUED, verdict == "duplicate", sequence, endpoint)
        case "other":
            raise Conflict("key_reused", "This Idempotency-Key was used for something else. Use a new one.")
        case "closed":
            raise Conflict("conversation_closed", "The conversation is closed. The customer can reopen it by writing.")
        case "full":
            raise Conflict("queue_full", "1000 messages wait in this conversation. Take some back, or wait.")
        case _:
            raise NotFound("unknown_conversation", "There is no such conversation.")
