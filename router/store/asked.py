"""What the store is asked and answers: values, and as the scripts read them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from channels.messages import Content, Kind
from health.report import EndpointId
from router.domain.conversation import Conversation, Customer, MessageClass, SideName
from router.store import codec
from router.store.codec import Notice


@dataclass(frozen=True, slots=True)
class Known:
    """What one shard knows of where a message came from, all of one moment."""

    customers: tuple[Customer, ...]
    """Of those asked for, who are there."""
    open_of: Mapping[str, tuple[str, ...]]
    """Their open conversations, by customer id."""
    spoken: Mapping[str, float]
    """Conversations that spoke over the address pair, by when last (unix seconds)."""
    conversations: Mapping[str, Conversation]
    """Of all these the first hundred that are there, by id: open ones, then those that spoke last."""
    accepted: bool
    """Something was accepted under the natural key."""
    has_held: bool
    """The place has a hidden conversation."""


@dataclass(frozen=True, slots=True)
class NewLeg:
    """Where a side of a new conversation begins."""

    owner: str
    endpoint: EndpointId
    place: str


@dataclass(frozen=True, slots=True)
class NewConversation:
    """A conversation that `accept` creates if it is not there yet."""

    customer_id: str
    reference: str
    subject: str
    locale: str
    message_class: MessageClass
    priority: int
    team: str
    customer: NewLeg
    agent: NewLeg
    assignee: str = ""
    hidden: bool = False
    """Holds messages we cannot match yet, and prompts; never listed."""


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to accept; `side` is the one that is to hear it."""

    id: str
    side: SideName
    kind: Kind
    author: str
    author_name: str
    content: Content
    message_class: MessageClass
    expires_at: float
    endpoint: EndpointId
    """Inbound: where it came in. Outbound: empty."""
    late: bool = False
    unverified: bool = False
    original: str = ""
    """SHA-256 of the raw mail on disk, or empty."""
    came_at: float = 0.0
    """Unix seconds, where it was accepted elsewhere before; 0: it comes now."""


@dataclass(frozen=True, slots=True)
class AcceptAnswer:
    """What `accept` did: `new`, `duplicate`, `other`, `closed`, `missing`, `full`."""

    verdict: str
    message_id: str
    sequence: int
    endpoint: EndpointId
    conversation_id: str


@dataclass(frozen=True, slots=True)
class Settlement:
    """What came of one attempt."""

    conversation_id: str
    side: SideName
    message_id: str
    number: int
    fence: int
    outcome: str
    reason: str = ""
    vendor_ids: tuple[str, ...] = ()
    retry_after_s: float = 0.0
    occupied_s: float = 0.0
    receipt_within_s: float = 0.0
    """0: none is awaited. Times are told from now on: workers' clocks may disagree, the store has one."""
    said: Content | None = None
    """What a notice said, rendered."""


@dataclass(frozen=True, slots=True)
class Rebind:
    """Begin a leg elsewhere, if the side's epoch is still `epoch`."""

    conversation_id: str
    side: SideName
    epoch: int
    endpoint: EndpointId
    place: str
    reason: str
    notice: Notice | None = None
    hold_s: float = -1.0
    """A hold after an unknown attempt's end is shortened to this; below 0: it stays."""
    automatic: bool = True
    incident: str = ""


@dataclass(frozen=True, slots=True)
class Park:
    """Nothing can carry the side now: look again after `for_s`, a second at least."""

    conversation_id: str
    side: SideName
    epoch: int
    for_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Fail:
    """Nothing will ever carry this message; done only while it is the head."""

    conversation_id: str
    side: SideName
    epoch: int
    reason: str
    message_id: str


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """How an endpoint's attempts are leased."""

    lease_s: float
    hold_s: Mapping[str, float]
    """By message class; `normal` must be there."""
    idempotent: bool
    attempts_max: int
    retry_floor_per_s: float = 2.0
    needs_human_s: float = 600.0
    """How long a message waits for a person before it fails, visibly."""


def dump_create(create: NewConversation) -> dict[str, Any]:
    """A new conversation as accept.lua reads it."""
    return {
        "cu": create.customer_id,
        "rf": create.reference,
        "sj": create.subject,
        "lo": create.locale,
        "cl": create.message_class,
        "pr": create.priority,
        "te": create.team,
        "as": create.assignee,
        "ho": create.customer.endpoint,
        "hd": "1" if create.hidden else "0",
        "c": {"o": create.customer.owner, "ep": create.customer.endpoint, "ad": create.customer.place},
        "a": {"o": create.agent.owner, "ep": create.agent.endpoint, "ad": create.agent.place},
    }


def dump_message(message: NewMessage) -> dict[str, Any]:
    """As accept.lua reads it."""
    return {
        "id": message.id,
        "s": message.side,
        "k": message.kind,
        "au": message.author,
        "an": message.author_name,
        "b": codec.dump_content(message.content),
        "cl": message.message_class,
        "xp": int(message.expires_at * 1000),
        "ep": message.endpoint,
        "lt": int(message.late),
        "uv": int(message.unverified),
        "og": message.original,
        "at": int(message.came_at * 1000),
    }


def dump_settlement(settlement: Settlement) -> dict[str, Any]:
    """As settle.lua reads it."""
    row: dict[str, Any] = {
        "c": settlement.conversation_id,
        "s": settlement.side,
        "m": settlement.message_id,
        "n": settlement.number,
        "f": settlement.fence,
        "o": settlement.outcome,
        "r": settlement.reason[:200],
        "in": int(settlement.retry_after_s * 1000),
        "occ": int(settlement.occupied_s * 1000),
        "due": int(settlement.receipt_within_s * 1000),
    }
    if settlement.vendor_ids:
        row["v"] = list(settlement.vendor_ids)
    if settlement.said is not None:
        row["text"] = codec.dump_content(settlement.said)
    return row


def dump_change(change: Rebind | Park | Fail) -> dict[str, Any]:
    """As rebind.lua reads it."""
    row: dict[str, Any] = {
        "c": change.conversation_id,
        "s": change.side,
        "e": change.epoch,
        "r": change.reason,
    }
    match change:
        case Park():
            row["park"] = int(change.for_s * 1000)
        case Fail():
            row |= {"fail": 1, "m": change.message_id}
        case Rebind():
            row |= {"ep": change.endpoint, "ad": change.place, "hd": int(change.hold_s * 1000)}
            row |= {"auto": int(change.automatic), "incident": change.incident}
            if change.notice is not None:
                notice = change.notice
                row["nt"] = {
                    "id": notice.id,
                    "reason": notice.reason,
                    "left": notice.left,
                    "at": int(notice.at * 1000),
                }
    return row
