"""Conversations, customers, sides and messages: the records everything else speaks of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from channels.messages import Address, Content, File, Kind
from health.report import EndpointId

SCHEMA_VERSION = 1
"""Written into every record; scripts accept it and the one before."""

NOWHERE = EndpointId("")
"""No endpoint: an unbound side, a message that never went out."""

TEXT_MAX = 100_000
"""Characters in one message; longer is refused at the border."""


class SideName(StrEnum):
    """The two halves of a conversation; each has its own queue, leg, epoch, fence and lease."""

    CUSTOMER = "c"
    AGENT = "a"

    @property
    def other(self) -> "SideName":
        """The half that hears what this one says."""
        return SideName.AGENT if self is SideName.CUSTOMER else SideName.CUSTOMER


class MessageClass(StrEnum):
    """What kind of content a message is; decides order, holds, and where it may go."""

    URGENT = "urgent"
    NORMAL = "normal"
    BULK = "bulk"
    SECRET = "secret"  # noqa: S105 - a one-time code: it never moves to another channel


class MessageState(StrEnum):
    """Where a message is in its life."""

    QUEUED = "queued"
    SENDING = "sending"
    UNKNOWN = "unknown"  # may have been taken; waits for evidence
    SENT = "sent"
    DELIVERED = "delivered"
    READ = "read"
    UNCONFIRMED = "unconfirmed"  # voicemail took it
    UNDELIVERED = "undelivered"  # came back after `sent`, and there is no other way
    PARKED = "parked"  # no way now; tried again by its deadline
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    NEEDS_HUMAN = "needs_human"


ENDED = frozenset(
    {
        MessageState.SENT,
        MessageState.DELIVERED,
        MessageState.READ,
        MessageState.UNCONFIRMED,
        MessageState.UNDELIVERED,
        MessageState.FAILED,
        MessageState.CANCELLED,
        MessageState.EXPIRED,
    }
)


@dataclass(frozen=True, slots=True)
class Binding:
    """A person reachable at an address."""

    address: Address
    endpoint: EndpointId | None = None
    """Set where an address belongs to one endpoint (a chat session, later a Slack user)."""
    verified: bool = False
    consent: bool = True
    order: int = 0
    """The person's own preference, lowest first."""
    locale: str = ""
    hours: str = ""
    """Quiet hours, for a later policy; read by nothing yet."""
    unreachable_until: float = 0.0
    """The provider said that nobody is there; not tried before this time."""


@dataclass(frozen=True, slots=True)
class Customer:
    """Who asks."""

    id: str
    name: str
    locale: str
    bindings: tuple[Binding, ...]
    created_at: float
    alias_of: str = ""
    """The customer this one turned out to be; what is open here ends here, what is new begins there."""


@dataclass(frozen=True, slots=True)
class Agent:
    """Who answers. `console` reaches every agent."""

    id: str
    name: str
    team: str
    bindings: tuple[Binding, ...] = ()


@dataclass(frozen=True, slots=True)
class Leg:
    """A side's stay at one endpoint and address. An unbound side has an empty endpoint and is parked."""

    endpoint: EndpointId
    address: Address
    since: float
    reason: str
    """Why it began: `opened`, `wrote_here`, `failover`, `forced`, `failback`, `unreachable`, `rejected`, ..."""


@dataclass(frozen=True, slots=True)
class Side:
    """One half of a conversation as the store has it."""

    conversation_id: str
    name: SideName
    epoch: int
    fence: int
    leg: Leg
    queued: int
    """Messages that wait, the head included."""
    head: str
    """Message id at the head of the queue, or empty."""
    notice_due: bool
    lease_until: float
    """Unix seconds; 0: not leased."""
    attempt: str
    """Token of the open attempt, or empty."""
    due_at: float
    """When to look next; 0: nothing to do."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """One matter between a customer and us; its id and reference are for life."""

    id: str
    customer_id: str
    reference: str
    subject: str
    open: bool
    opened_at: float
    closed_at: float
    locale: str
    message_class: MessageClass
    priority: int
    """0 is most urgent, 9 least."""
    assignee: str
    team: str
    fields: Mapping[str, str]
    """Collected facts: order number, product, ..."""
    files: tuple[File, ...]
    open_question: str
    """Id of the customer's oldest unanswered message, or empty."""
    waiting_since: float
    """When that message came; 0: nobody waits for us."""
    last_inbound_at: float
    moved_at: float
    """When it last moved automatically."""
    home: EndpointId
    """Where the customer came in; failback leads here."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to say a message."""

    number: int
    token: str
    endpoint: EndpointId
    address: Address
    epoch: int
    fence: int
    begun_at: float
    deadline: float
    outcome: str
    """Empty while open; then `sent`, `delivered`, `read`, `unknown`, `rejected`, `unreachable`, `throttled`,
    `unavailable`, `misconfigured`, `returned`, `undelivered`, `unconfirmed`."""
    ended_at: float = 0.0
    vendor_ids: tuple[str, ...] = ()
    reason: str = ""
    worker: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """What somebody said, and how far it got."""

    id: str
    conversation_id: str
    side: SideName
    """The side it goes to: `c` for what we say to the customer."""
    kind: Kind
    author: str
    """A customer's or agent's id, or `router`."""
    author_name: str
    content: Content
    message_class: MessageClass
    state: MessageState
    sequence: int
    """Its place in the conversation's order, from 1."""
    created_at: float
    expires_at: float
    """0: never."""
    possible_duplicate: bool = False
    late: bool = False
    unverified: bool = False
    reason: str = ""
    """Why it is parked, failed, or needs a person."""
    parked_until: float = 0.0
    endpoint: EndpointId = NOWHERE
    """Inbound: where it came in. Outbound: where it went out last."""
    attempts: tuple[Attempt, ...] = field(default=())
