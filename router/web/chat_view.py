"""What a customer may see of a conversation in web chat: its lines, where it is, where it would go on."""

from collections.abc import Sequence
from dataclasses import dataclass

from channels.messages import Address, Channel, Kind
from health.report import EndpointId
from router.domain.conversation import Binding, Message, MessageClass, MessageState, SideName
from router.switchboard import ConversationView, NotFound, Switchboard

LINES_MAX = 100
"""Of one history: the last ones."""
PAGE = 200
PAGES_MAX = 25
"""Of a transcript read to find its end."""
LINE_TEXT_MAX = 10_000
"""Characters of one line; a longer mail is cut here, and whole where it was sent to."""
CUSTOMERS_MAX = 5
SAID = frozenset(
    {
        MessageState.SENT,
        MessageState.DELIVERED,
        MessageState.READ,
        MessageState.UNCONFIRMED,
        MessageState.UNDELIVERED,
        MessageState.UNKNOWN,
    }
)
"""States in which what we say may have reached the customer; the rest is still ours."""


@dataclass(frozen=True, slots=True, order=True)
class Elsewhere:
    """Where else a customer may be reached, fit to be shown."""

    order: int
    channel: Channel
    address: str
    """Masked."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the customer's side of a conversation is, fit to be shown: addresses are masked."""

    conversation_id: str
    reference: str
    here: bool
    channel: str = ""
    address: str = ""
    next: tuple[tuple[str, str], ...] = ()
    """Channels and masked addresses the customer agreed to or left, in their order."""

    def frame(self) -> dict[str, object]:
        """As the browser is told."""
        return {
            "type": "place",
            "reference": self.reference,
            "here": self.here,
            "channel": self.channel,
            "address": self.address,
            "next": [{"channel": channel, "address": address} for channel, address in self.next],
        }


def mask_address(address: Address) -> str:
    """Enough of an address for its owner to know it, too little for anyone else: `+1•••0100`, `d•••@mail.example`."""
    if address.channel is Channel.EMAIL:
        local, _, domain = address.value.rpartition("@")
        return f"{local[:1]}•••@{domain}"
    if address.channel in {Channel.SMS, Channel.PHONE} and len(address.value) > 8:
        return f"{address.value[:2]}•••{address.value[-4:]}"
    return "•••"


def place_of(view: ConversationView, endpoint: EndpointId, session: str, left: Sequence[Elsewhere] = ()) -> Place:
    """Where `view`'s customer side is, as seen from `session` at `endpoint`, which `left` some addresses there."""
    leg = view.customer_side.leg
    here = not leg.endpoint or (leg.endpoint == endpoint and leg.address.value == session)
    return Place(
        conversation_id=view.conversation.id,
        reference=view.conversation.reference,
        here=here,
        channel="" if here else leg.address.channel.value,
        address="" if here else mask_address(leg.address),
        next=_others(view.customer.bindings, left),
    )


def _others(bindings: Sequence[Binding], left: Sequence[Elsewhere]) -> tuple[tuple[str, str], ...]:
    """What was left is shown whatever became of it: who has proven nothing must not see who said STOP."""
    agreed = (one for one in bindings if one.consent and one.address.channel is not Channel.CHAT)
    shown = [Elsewhere(one.order, one.address.channel, mask_address(one.address)) for one in agreed]
    ordered = sorted({*shown, *left})
    return tuple(dict.fromkeys((one.channel.value, one.address) for one in ordered))[:3]


async def find_conversation(switchboard: Switchboard, endpoint: EndpointId, session: str) -> ConversationView | None:
    """The open conversation a session is about, or None: there is none. Raises StoreUnavailable.

    First the one that is here now, then one that came in here, then the latest.
    """
    address = Address(Channel.CHAT, session)
    views: list[ConversationView] = []
    try:
        for customer in (await switchboard.find_customers(address, endpoint))[:CUSTOMERS_MAX]:
            page = await switchboard.conversations(open_only=True, customer_id=customer.id, limit=50)
            views.extend(page.items)
    except NotFound:
        return None

    def nearness(view: ConversationView) -> tuple[bool, bool, float]:
        talk = view.conversation
        here = view.customer_side.leg.address == address
        return here, talk.home == endpoint, max(talk.last_inbound_at, talk.opened_at)

    return max(views, key=nearness, default=None)


async def read_lines(switchboard: Switchboard, view: ConversationView, endpoint: EndpointId) -> list[dict[str, object]]:
    """The last `LINES_MAX` lines the customer may see, oldest first. Raises StoreUnavailable."""
    lines: list[dict[str, object]] = []
    before = 0
    for _ in range(PAGES_MAX):
        messages = await switchboard.transcript(view.conversation.id, before_sequence=before, limit=PAGE)
        lines[:0] = [_line(message, endpoint) for message in messages if may_see(message, view, endpoint)]
        if len(messages) < PAGE or len(lines) >= LINES_MAX:
            break
        before = messages[0].sequence
    return lines[-LINES_MAX:]


def may_see(message: Message, view: ConversationView, endpoint: EndpointId) -> bool:
    """Whether the customer said it, or may have been told it; what agents are told among themselves stays theirs.

    A secret, and a notice (which says "here"), are shown where they were sent to and nowhere else.
    """
    if message.side is SideName.AGENT:
        own = {view.customer.id, view.conversation.customer_id}
        return message.kind is Kind.MESSAGE and message.author in own
    if message.kind not in {Kind.MESSAGE, Kind.NOTICE} or message.state not in SAID:
        return False
    bound_to_its_place = message.kind is Kind.NOTICE or message.message_class is MessageClass.SECRET
    return message.endpoint == endpoint or not bound_to_its_place


def _line(message: Message, endpoint: EndpointId) -> dict[str, object]:
    ours = "notice" if message.kind is Kind.NOTICE else "us"
    text = message.content.text
    return {
        "id": message.id,
        "from": "customer" if message.side is SideName.AGENT else ours,
        "text": text if len(text) <= LINE_TEXT_MAX else text[: LINE_TEXT_MAX - 1] + "…",
        "author": message.author_name if ours == "us" else "",
        "at": message.created_at,
        "via": _via(message, endpoint),
    }


def _via(message: Message, endpoint: EndpointId) -> str | None:
    """The channel it was said on; empty: here; None: nobody knows.

    What a customer said goes out to an agent, and its record may name that endpoint instead of where it came in.
    """
    if message.side is SideName.AGENT and any(attempt.endpoint == message.endpoint for attempt in message.attempts):
        return None
    return "" if message.endpoint == endpoint else str(message.endpoint).partition("/")[0]
