"""What the two halves of web chat share: signed sessions, outbox entries, the door browsers come in by."""

import hashlib
import hmac
import json
import re
import secrets
from dataclasses import asdict, dataclass
from typing import Protocol, runtime_checkable

from channels.messages import Kind, OutboundMessage
from health.report import EndpointId

OUTBOX_TTL_S = 30 * 86_400.0
"""How long an outbox, and with it a session nobody came back to, is kept; the store allows no more."""
BEAT_KEY = "beat"
BEAT_EVERY_S = 2.0
BEAT_LOST_AFTER_S = 10.0
"""No web process wrote its beat for this long: nobody holds the browsers' sockets."""
SESSION_TTL_S = 30 * 86_400
"""How long a token opens its session; each visit gives a new one."""
SKEW_S = 3_600
"""How far ahead another process's clock may be."""
SESSION_FORM = re.compile(r"[0-9a-f]{32}")
_TOKEN_FORM = re.compile(r"([0-9a-f]{32})\.(?:([0-9a-f]{8,10})\.)?([0-9a-f]{64})")


def new_session() -> str:
    """An unguessable session id: 128 random bits, in hexadecimal, so that it is its own normal form."""
    return secrets.token_hex(16)


def sign_session(secret: str, endpoint: EndpointId, session: str, now: float) -> str:
    """The token that lets a browser come back to `session` for 30 days: `{session}.{hex of now}.{HMAC-SHA256}`.

    The id alone opens nothing: it is an address, and stands in places where tokens must not.
    """
    given = f"{int(now):08x}"
    return f"{session}.{given}.{_mac(secret, endpoint, session, given)}"


def read_session(secret: str, endpoint: EndpointId, token: str, now: float) -> str | None:
    """The session a token was signed for, or None: not ours, altered, expired, signed for another endpoint."""
    found = _TOKEN_FORM.fullmatch(token)
    if found is None:
        return None
    # Tokens without their time come from the version before this one; they go with the next.
    session, given, mac = found[1], found[2] or "", found[3]
    if not hmac.compare_digest(mac, _mac(secret, endpoint, session, given)):
        return None
    return None if given and not -SKEW_S <= now - int(given, 16) <= SESSION_TTL_S else session


def _mac(secret: str, endpoint: EndpointId, session: str, given: str) -> str:
    signed = f"webchat:{endpoint}:{session}" + (f":{given}" if given else "")
    return hmac.new(secret.encode(), signed.encode(), hashlib.sha256).hexdigest()


def outbox_key(session: str) -> str:
    """Where a session's outbox stands in the endpoint's store."""
    return f"out:{session}"


def talk_key(session: str) -> str:
    """Where the id of the conversation that a session last spoke in stands."""
    return f"talk:{session}"


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One message on its way to a browser; its number is its place in the outbox."""

    id: str
    """The message's own, the same over all attempts: the browser shows an id once."""
    token: str
    """Of the attempt; it goes back with the receipt and never to the browser."""
    kind: str
    text: str
    author: str
    at: float
    """When it was said, unix seconds."""
    conversation: str
    reference: str
    late: bool = False

    def encode(self) -> str:
        """As JSON, for the store."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def decode(cls, text: str) -> "OutboxEntry":
        """From JSON; raises ValueError for anything that is not an entry."""
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError("not an outbox entry") from error


def entry_of(message: OutboundMessage, now: float) -> OutboxEntry:
    """What the browser will be told of `message`; its author is who said it, else the organisation."""
    said_by = (line.author for line in message.matter.history if line.message_id == message.message_id)
    return OutboxEntry(
        id=message.message_id,
        token=message.token,
        kind=message.kind.value,
        text=message.content.text,
        author=next(said_by, message.matter.organisation) if message.kind is Kind.MESSAGE else "",
        at=message.created_at or now,
        conversation=message.conversation_id,
        reference=message.matter.reference,
        late=message.late,
    )


@dataclass(frozen=True, slots=True)
class Door:
    """What the web role must know of a web chat to let browsers in."""

    endpoint: EndpointId
    title: str
    """Over the chat window."""
    allowed_origins: frozenset[str]
    """Pages elsewhere that may embed the widget; our own origin always may."""
    secret: str
    """What sessions are signed with; empty: the router's own secret."""
    ask_details: bool
    """Whether the widget offers the form: name, mailbox, mobile number."""

    def __repr__(self) -> str:
        return f"Door({self.endpoint})"


@runtime_checkable
class HasDoor(Protocol):
    """An adapter whose other half is the web role."""

    @property
    def door(self) -> Door:
        """Its door."""
