"""What `/v1` takes and gives about conversations and messages."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Base64Bytes, Field, StringConstraints, model_validator

from channels import messages
from channels.messages import Channel, Kind
from router.domain import conversation as domain
from router.domain import foresight
from router.domain.conversation import TEXT_MAX, MessageClass, MessageState, SideName
from router.openings import SUBJECT_MAX
from router.switchboard import ConversationView, JournalEntry, Sent
from router.talk import FIELD_VALUE_MAX, FIELDS_MAX, KEPT_MAX
from router.web.models_people import Address, EndpointName, Line, Locale, Model, Name, Word, instant
from router.web.models_route import NextLeg

FILES_MAX = 10
FILE_MAX_BYTES = 10_000_000
PAGE_MAX = 200
SEQUENCE_MAX = 2**53 - 1
"""What every reader of JSON takes for the same number; no conversation has as many messages."""

Subject = Annotated[str, Line, Field(max_length=500)]
Kept = Annotated[str, Line, Field(max_length=KEPT_MAX)]
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$"), Field(max_length=TEXT_MAX)]
Party = Literal["customer", "agent"]

SIDES: dict[str, SideName] = {"customer": SideName.CUSTOMER, "agent": SideName.AGENT}
PARTIES: dict[SideName, Party] = {SideName.CUSTOMER: "customer", SideName.AGENT: "agent"}


class Side(Model):
    """One half of a conversation: where it is and what waits there."""

    endpoint: str
    """Empty: it is nowhere, and its messages are parked."""
    address: Address | None
    since: datetime | None
    reason: str
    epoch: int
    queued: int
    notice_due: bool
    sending: bool

    @classmethod
    def of(cls, side: domain.Side, *, private: bool) -> Self:
        leg = side.leg
        return cls(
            endpoint=leg.endpoint,
            address=None if private or not leg.endpoint else Address.of(leg.address),
            since=instant(leg.since),
            reason=leg.reason,
            epoch=side.epoch,
            queued=side.queued,
            notice_due=side.notice_due,
            sending=bool(side.attempt),
        )


class File(Model):
    """A stored file, to be had at `/v1/files/{sha256}`."""

    sha256: str
    name: str
    media_type: str
    size: int

    @classmethod
    def of(cls, file: messages.File) -> Self:
        return cls(sha256=file.sha256, name=file.name, media_type=file.media_type, size=file.size)


class Conversation(Model):
    """One matter between a customer and us. With the role `ops`, what people said and who they are is left out."""

    id: str
    reference: str
    customer_id: str
    customer_name: str
    subject: str
    last_text: str
    """The start of what somebody said last; notices of ours do not count."""
    open: bool
    opened_at: datetime | None
    closed_at: datetime | None
    waiting_since: datetime | None
    """When the customer's oldest unanswered message came; null: nobody waits for us."""
    last_inbound_at: datetime | None
    moved_at: datetime | None
    locale: str
    message_class: MessageClass
    priority: int
    assignee: str
    team: str
    fields: dict[str, str]
    files: tuple[File, ...]
    home: str
    customer_side: Side
    agent_side: Side
    next: NextLeg | None
    """Of the customer's side: elsewhere than that where it would be moved. Null in lists, and where it is closed."""
    archived: bool
    """It is closed for good: it can be read, and nothing else. `GET /v1/conversations?archived=true` finds it."""

    @classmethod
    def of(cls, view: ConversationView, *, private: bool, next_leg: foresight.NextLeg | None = None) -> Self:
        one = view.conversation
        return cls(
            id=one.id,
            reference=one.reference,
            customer_id=one.customer_id,
            customer_name="" if private else view.customer.name,
            subject="" if private else one.subject,
            last_text="" if private else view.last_text[:200],
            open=one.open,
            opened_at=instant(one.opened_at),
            closed_at=instant(one.closed_at),
            waiting_since=instant(one.waiting_since),
            last_inbound_at=instant(one.last_inbound_at),
            moved_at=instant(one.moved_at),
            locale=one.locale,
            message_class=one.message_class,
            priority=one.priority,
            assignee=one.assignee,
            team=one.team,
            fields={} if private else dict(one.fields),
            files=() if private else tuple(File.of(file) for file in one.files),
            home=one.home,
            customer_side=Side.of(view.customer_side, private=private),
            agent_side=Side.of(view.agent_side, private=private),
            next=NextLeg.of(next_leg, private=private) if next_leg is not None else None,
            archived=view.archived,
        )


class Conversations(Model):
    """A page of conversations, who waits longest first."""

    items: tuple[Conversation, ...]
    next_cursor: str | None


class ConversationQuery(Model):
    """Which conversations."""

    open_only: bool = True
    archived: bool = False
    """Archived ones instead, closed last first."""
    reference: Word = ""
    """Only with `archived`."""
    text: Word = ""
    """Only with `archived`: words that one message must all have, in any order; case and accents do not matter."""
    customer_id: Word | None = None
    assignee: Word | None = None
    """Looked for within each page, so a page may hold fewer than `limit`: go on until there is no cursor."""
    cursor: Annotated[str, Line, Field(max_length=500)] | None = None
    limit: Annotated[int, Field(ge=1, le=PAGE_MAX)] = 50

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if (self.reference or self.text) and not self.archived:
            raise ValueError("reference and text need archived=true; GET /v1/conversations/REFERENCE finds any")
        return self


class NewConversation(Model):
    """Write to a customer first."""

    customer_id: Name
    subject: Subject = ""
    text: Text
    message_class: MessageClass = MessageClass.NORMAL
    priority: Annotated[int, Field(ge=0, le=9)] = 5
    team: Word = ""
    channel: Channel | None = None
    """Where to begin; null: the customer's own preference."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.text.strip():
            raise ValueError("the text is empty")
        return self


class ConversationChange(Model):
    """What to change; what is absent stays."""

    assignee: Kept | None = None
    """An agent's id; empty: nobody's."""
    team: Kept | None = None
    """A label of yours."""
    priority: Annotated[int, Field(ge=0, le=9)] | None = None
    subject: Annotated[str, Line, Field(max_length=SUBJECT_MAX)] | None = None
    fields: (
        Annotated[dict[Name, Annotated[str, Field(max_length=FIELD_VALUE_MAX)]], Field(max_length=FIELDS_MAX)] | None
    ) = None
    locale: Locale | None = None


class AgentPlace(Model):
    """Where the agent's side of this conversation shall be."""

    endpoint: EndpointName
    address: Address


class CustomerPlace(Model):
    """Where an agent wants the customer's side to go on."""

    endpoint: EndpointName
    why: Name


class Upload(Model):
    """A file that goes with a message, base64-encoded."""

    name: Name
    media_type: Annotated[str, StringConstraints(pattern=r"^[a-z0-9.+-]{1,60}/[a-zA-Z0-9.+-]{1,80}$")]
    content: Annotated[Base64Bytes, Field(max_length=FILE_MAX_BYTES)]


class NewMessage(Model):
    """What to say. The router picks the endpoint."""

    text: Text = ""
    subject: Subject | None = None
    files: Annotated[tuple[Upload, ...], Field(max_length=FILES_MAX)] = ()
    message_class: MessageClass | None = None
    expires_in_s: Annotated[float, Field(gt=0, le=30 * 86_400)] | None = None
    to: Party = "customer"

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.text.strip() and not self.files:
            raise ValueError("the text is empty and there are no files")
        return self


class SentMessage(Model):
    """The message is durable; `durable` says where. In the store, it has its place in the order."""

    message_id: str
    conversation_id: str
    state: MessageState
    duplicate: bool
    """The Idempotency-Key was seen before; this is the message it made."""
    sequence: int
    endpoint: str
    """Where it is expected to go; empty: nowhere now."""
    durable: Literal["store", "spool"]
    """`spool`, answered with 202: the store is away; the message gets its place, or is refused, once that is back."""

    @classmethod
    def of(cls, sent: Sent) -> Self:
        return cls(
            message_id=sent.message_id,
            conversation_id=sent.conversation_id,
            state=sent.state,
            duplicate=sent.duplicate,
            sequence=sent.sequence,
            endpoint=sent.endpoint,
            durable="spool" if sent.spooled else "store",
        )


class Attempt(Model):
    """One try to say a message."""

    number: int
    endpoint: str
    address: Address
    begun_at: datetime | None
    deadline: datetime | None
    ended_at: datetime | None
    outcome: str
    """Empty while it is open."""
    reason: str
    vendor_ids: tuple[str, ...]
    epoch: int

    @classmethod
    def of(cls, attempt: domain.Attempt) -> Self:
        return cls(
            number=attempt.number,
            endpoint=attempt.endpoint,
            address=Address.of(attempt.address),
            begun_at=instant(attempt.begun_at),
            deadline=instant(attempt.deadline),
            ended_at=instant(attempt.ended_at),
            outcome=attempt.outcome,
            reason=attempt.reason,
            vendor_ids=attempt.vendor_ids,
            epoch=attempt.epoch,
        )


class Message(Model):
    """What somebody said, and how far it got."""

    id: str
    conversation_id: str
    to: Party
    """Whom it is for: `customer` for what we say."""
    kind: Kind
    author: str
    author_name: str
    text: str
    subject: str
    files: tuple[File, ...]
    message_class: MessageClass
    state: MessageState
    sequence: int
    created_at: datetime | None
    expires_at: datetime | None
    possible_duplicate: bool
    late: bool
    unverified: bool
    reason: str
    parked_until: datetime | None
    endpoint: str
    attempts: tuple[Attempt, ...]

    @classmethod
    def of(cls, message: domain.Message) -> Self:
        content = message.content
        return cls(
            id=message.id,
            conversation_id=message.conversation_id,
            to=PARTIES[message.side],
            kind=message.kind,
            author=message.author,
            author_name=message.author_name,
            text=content.text,
            subject=content.subject or "",
            files=tuple(File.of(file) for file in content.files),
            message_class=message.message_class,
            state=message.state,
            sequence=message.sequence,
            created_at=instant(message.created_at),
            expires_at=instant(message.expires_at),
            possible_duplicate=message.possible_duplicate,
            late=message.late,
            unverified=message.unverified,
            reason=message.reason,
            parked_until=instant(message.parked_until),
            endpoint=message.endpoint,
            attempts=tuple(Attempt.of(attempt) for attempt in message.attempts),
        )


class Messages(Model):
    """Part of a transcript, both directions, in order."""

    items: tuple[Message, ...]
    archived: bool
    """It was read from the archive."""


class TranscriptQuery(Model):
    """Which part of it."""

    after: Annotated[int, Field(ge=0, le=SEQUENCE_MAX)] = 0
    """Messages whose sequence is above this, the first of them."""
    before: Annotated[int, Field(ge=0, le=SEQUENCE_MAX)] | None = None
    """Messages whose sequence is below this instead, the last of them; 0: the end of the transcript."""
    limit: Annotated[int, Field(ge=1, le=PAGE_MAX)] = PAGE_MAX

    @model_validator(mode="after")
    def _is_one_way(self) -> Self:
        if self.after and self.before is not None:
            raise ValueError("name after or before, not both")
        return self


class JournalItem(Model):
    """One entry of the journal: what happened, and the evidence it was decided on. Ids only."""

    id: str
    at: datetime | None
    kind: str
    conversation_id: str
    message_id: str
    endpoint: str
    facts: dict[str, object]

    @classmethod
    def of(cls, entry: JournalEntry) -> Self:
        return cls(
            id=entry.id,
            at=instant(entry.at),
            kind=entry.kind,
            conversation_id=entry.conversation_id,
            message_id=entry.message_id,
            endpoint=entry.endpoint,
            facts=dict(entry.facts),
        )


class Journal(Model):
    """Entries, oldest first."""

    items: tuple[JournalItem, ...]

    @classmethod
    def of(cls, entries: Sequence[JournalEntry]) -> Self:
        return cls(items=tuple(JournalItem.of(entry) for entry in entries))
