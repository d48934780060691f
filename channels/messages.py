"""What crosses the contract: messages out, events in. Values only, no behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from health.report import EndpointId


class Channel(StrEnum):
    """A medium."""

    EMAIL = "email"
    CHAT = "chat"
    SMS = "sms"
    PHONE = "phone"


class Kind(StrEnum):
    """Why a message goes out."""

    MESSAGE = "message"  # an agent's or a customer's words
    NOTICE = "notice"  # we tell a person that the conversation moved
    CONFIRMATION = "confirmation"  # the one answer to STOP or START
    PROMPT = "prompt"  # we ask for a reference or a code


@dataclass(frozen=True, slots=True)
class Address:
    """A normalised place on a channel: E.164 (`+15550100`), a lower-case mailbox, a chat session id."""

    channel: Channel
    value: str

    def __str__(self) -> str:
        return f"{self.channel}:{self.value}"


@dataclass(frozen=True, slots=True)
class File:
    """A stored file; its bytes are read by content hash through `Tools.files`."""

    sha256: str
    name: str
    media_type: str
    size: int


@dataclass(frozen=True, slots=True)
class Content:
    """What is said. `text` is never None: a message of files only has an empty text."""

    text: str
    html: str | None = None
    subject: str | None = None
    files: tuple[File, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """One earlier message of the conversation, as shown when context is rendered."""

    author: str
    """A display name: the customer's, the agent's, or the organisation's."""
    text: str
    at: float
    from_customer: bool
    message_id: str = ""


@dataclass(frozen=True, slots=True)
class Matter:
    """What an adapter may say about a conversation: for greeting, threading, quoting, reading aloud."""

    organisation: str
    reference: str
    """Short, spoken and typed by people: `4F2K9`."""
    locale: str
    subject: str = ""
    what_happened: str = ""
    """One sentence when the conversation moved; empty when it did not."""
    open_question: str = ""
    """The customer's last unanswered message."""
    last_reply: str = ""
    """The last message from us not yet heard by the customer, else the last one."""
    history: tuple[Line, ...] = ()
    """Oldest first, at most 20 lines."""
    callback_number: str = ""
    connect_to: str = ""
    """An agent's phone number that a caller may be connected to; empty: none is free."""
    mail_thread: tuple[str, ...] = ()
    """Message-IDs of the mail thread so far, oldest first, at most 20, with angle brackets."""


@dataclass(frozen=True, slots=True)
class OutboundMessage:
    """One attempt to say one message."""

    message_id: str
    """Stable over all attempts; the idempotency key where a vendor knows one."""
    conversation_id: str
    token: str
    """This attempt's token; it names its shard. Sent wherever the vendor echoes one."""
    kind: Kind
    to: Address
    content: Content
    """Rendered for the medium by the router: an SMS text already carries its reference if it needs one."""
    matter: Matter
    reply_token: str = ""
    """Signed; a reply that carries it joins the conversation. Mail puts it in the address."""
    possible_duplicate: bool = False
    late: bool = False
    created_at: float = 0.0
    expires_at: float | None = None
    to_agent: bool = False
    """The receiver is one of us: more may be said."""


class ReceiptState(StrEnum):
    """How far an attempt got, as its provider says."""

    SENT = "sent"  # taken by the provider
    DELIVERED = "delivered"
    READ = "read"
    UNDELIVERED = "undelivered"  # a bounce, a failed delivery receipt: after `sent`
    UNCONFIRMED = "unconfirmed"  # voicemail took it, or nobody pressed a key: nobody is known to have heard it


@dataclass(frozen=True, slots=True)
class Receipt:
    """The provider took it."""

    vendor_ids: tuple[str, ...] = ()
    """The provider's ids of it, one a segment; empty where there are none."""
    state: ReceiptState = ReceiptState.SENT
    occupied_s: float = 0.0
    """How long at most it occupies its leg (a live call); a final receipt frees it earlier. 0: not at all."""


@dataclass(frozen=True, slots=True)
class InboundFile:
    """A file as it came, bounded by the adapter's limit."""

    name: str
    media_type: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class InboundMessage:
    """A customer's or an agent's words, verified and translated."""

    endpoint: EndpointId
    vendor_id: str
    """Natural key at this endpoint; however often delivered, it is one message."""
    sender: Address
    text: str
    """Quoted text stripped; may be empty if there are files."""
    sent_at: float
    recipient: str = ""
    html: str | None = None
    subject: str | None = None
    files: tuple[InboundFile, ...] = ()
    sender_name: str = ""
    locale: str = ""
    reply_token: str = ""
    """From the address a mail was sent to, a chat session's token, a call's callback URL."""
    in_reply_to: tuple[str, ...] = ()
    """Message-IDs this mail refers to, nearest first."""
    references_text: str = ""
    """Where a typed reference may stand: subject and text. Empty: look in `text`."""
    automatic: bool = False
    """An auto-reply (RFC 3834), a mailing list: filed, never answered automatically."""
    unverified: bool = False
    """The sender is not proven (DMARC failed): it joins marked."""
    opt: str = ""
    """`stop` or `start` when the vendor itself says so; else the router reads the text."""
    late: bool = False
    """Back-filled after an outage: it was sent well before we could read it."""
    original: bytes = field(default=b"", repr=False)
    """The raw message where it is worth keeping (mail), bounded."""


@dataclass(frozen=True, slots=True)
class ReceiptEvent:
    """A later word about an attempt: by its token where the vendor echoes one, else by vendor id."""

    endpoint: EndpointId
    state: ReceiptState
    at: float
    token: str = ""
    vendor_id: str = ""
    reason: str = ""
    permanent: bool = True
    """For `undelivered`: the address is bad (True) or the delivery failed this once (False)."""
    final: bool = True
    """Frees the leg that a live call occupied."""


Event = InboundMessage | ReceiptEvent


@dataclass(frozen=True, slots=True)
class Webhook:
    """A vendor's HTTP request as it came. `url` is the public one, built from settings, never from headers."""

    method: str
    url: str
    path: str
    """What stands after `/hooks/{endpoint}`, without the leading slash."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = field(repr=False)
    received_at: float = 0.0


@dataclass(frozen=True, slots=True)
class About:
    """Which conversation an answer needs to know: an attempt's token, a reply token, or who is calling."""

    token: str = ""
    reply_token: str = ""
    sender: Address | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """A verified webhook, translated. `about` asks for a matter; `fields` is the adapter's note to its `answer`."""

    events: tuple[Event, ...] = ()
    about: About | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """What we answer the vendor, once everything is durable."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Accepted:
    """An event is durable. For a receipt, or a message held for proof, `conversation_id` may be empty."""

    conversation_id: str = ""
    message_id: str = ""
    duplicate: bool = False
