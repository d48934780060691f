"""Our own web chat as an endpoint: `send` appends to the session's durable outbox, the web role delivers from it.

An outbox entry, as it stands in the store under `out:{session}` and is numbered:

    {"id":"m0-01JD...","token":"a0-01JD...","kind":"message","text":"We are on it.","author":"Ana","at":1760000000.0,
     "conversation":"v0-01JD...","reference":"4F2K9","late":false}

The widget's `{"type":"seen","number":1}` is the receipt: the web role looks the token up and says `delivered`.
"""

import asyncio
import re
from decimal import Decimal
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from channels.chat.session import BEAT_KEY, BEAT_LOST_AFTER_S, OUTBOX_TTL_S, SESSION_FORM, Door, entry_of, outbox_key
from channels.contract import Capabilities, EndpointSettings
from channels.errors import (
    EndpointUnavailable,
    LocalFault,
    LocalOutcomeUnknown,
    MessageRejected,
    RecipientUnreachable,
    WebhookRefused,
)
from channels.messages import Channel, Matter, OutboundMessage, Receipt, Received, Reply, Webhook
from channels.tools import Tools

TEXT_MAX = 10_000
"""Characters: at most 40 KB in UTF-8, which with its envelope stays within a frame of 64 KB."""
IO_S = 2.0
APPEND_S = 1.8
"""A little less than `IO_S`: what the store did not take by then is a fault of ours, said within the bound."""
RATE_PER_S = 500.0
RECEIPT_DUE_S = 30.0
"""No acknowledgement from a browser for this long: the message goes to the customer's next binding."""
PROBE_KEY = "probe"
_HOST = re.compile(r"[a-z0-9.\-\[\]:]+")


def _check_origin(origin: str) -> str:
    parts = urlsplit(origin)
    plain = f"{parts.scheme}://{parts.netloc}"
    if parts.scheme not in {"http", "https"} or not _HOST.fullmatch(parts.netloc) or plain != origin:
        raise ValueError(f"{origin!r} is not an origin: write it as https://shop.example, lower case, without a path")
    return origin


Origin = Annotated[str, AfterValidator(_check_origin)]


class WebchatSettings(EndpointSettings):
    """The `[[endpoints]]` table of a web chat."""

    provider: Literal["webchat"] = "webchat"
    title: Annotated[str, Field(max_length=60)] = ""
    """Over the chat window; empty: the organisation's name."""
    allowed_origins: Annotated[tuple[Origin, ...], Field(max_length=100)] = ()
    """Sites that may embed the widget, each exactly as browsers send it: `https://shop.example`."""
    secret: Annotated[SecretStr, Field(min_length=32)] | None = None
    """Signs sessions; at least 32 characters. None: the router's own secret does."""
    ask_details: bool = True
    """Offer customers to leave a name, a mailbox and a mobile number, to be reached when chat fails."""


class WebchatAdapter:
    """Writes to sessions' outboxes; which web process holds a browser's socket is nothing it needs to know."""

    def __init__(self, settings: WebchatSettings, tools: Tools) -> None:
        self.settings = settings
        self._tools = tools
        self.capabilities = Capabilities(
            channel=Channel.CHAT,
            provider=settings.provider,
            text_max=TEXT_MAX,
            io_s=IO_S,
            threads=True,
            receipts=True,
            receipt_due_s=RECEIPT_DUE_S,
            idempotent=True,
            rate_per_s=settings.rate_per_s or RATE_PER_S,
            hold_s=settings.hold_s or 0.0,
            price=settings.price or Decimal(0),
        )
        self.door = Door(
            endpoint=tools.endpoint,
            title=settings.title or tools.organisation,
            allowed_origins=frozenset(settings.allowed_origins),
            secret=settings.secret.get_secret_value() if settings.secret else "",
            ask_details=settings.ask_details,
        )

    async def send(self, message: OutboundMessage) -> Receipt:
        """Append to the outbox of the session; a browser that sees the same message id twice shows it once.

        Raises:
            RecipientUnreachable: the address is no session of ours.
            MessageRejected: longer than `TEXT_MAX`, empty, or it has files.
            LocalOutcomeUnknown: the store did not answer, or not in `APPEND_S`; saying it again here shows it once.
        """
        session = message.to.value
        if message.to.channel is not Channel.CHAT or not SESSION_FORM.fullmatch(session):
            raise RecipientUnreachable("no_such_session", "this is not the address of a web chat session")
        if message.content.files:
            raise MessageRejected("files_unsupported", "web chat carries text only")
        if len(message.content.text) > TEXT_MAX:
            raise MessageRejected("too_long", f"web chat takes at most {TEXT_MAX} characters")
        if not message.content.text.strip():
            raise MessageRejected("empty", "there is no text to show")
        entry = entry_of(message, self._tools.clock.now())
        try:
            async with asyncio.timeout(APPEND_S):
                number = await self._tools.store.append(outbox_key(session), entry.encode(), OUTBOX_TTL_S)
        except (TimeoutError, LocalFault) as silent:
            raise LocalOutcomeUnknown("the store did not say that it took the message") from silent
        return Receipt(vendor_ids=(f"{session}:{number}",))

    async def receive(self, webhook: Webhook) -> Received:
        """Refuse: browsers speak over their WebSocket, never through a webhook.

        Raises:
            WebhookRefused: always, with 404.
        """
        raise WebhookRefused(404, f"{self._tools.endpoint} takes no webhooks; {webhook.method} was refused")

    def answer(self, received: Received, matter: Matter | None) -> Reply:
        """Answer nothing, for nothing is ever received here."""
        del received, matter
        return Reply(status=404)

    async def probe(self) -> None:
        """Return if the store takes an entry and a web process is there to deliver it.

        A web process that stopped in order takes its beat away: until the next one starts nothing is known, and nothing
        is said against the endpoint.

        Raises:
            EndpointUnavailable: the last web process died: its beat is older than `BEAT_LOST_AFTER_S`.
        """
        now = self._tools.clock.now()
        await self._tools.store.put(PROBE_KEY, str(now), 60.0)
        if await self._tools.store.get(PROBE_KEY) is None:
            raise EndpointUnavailable("store_forgot", "the chat's outbox does not keep what is written to it")
        beat = await self._tools.store.get(BEAT_KEY)
        if beat is not None and now - float(beat) > BEAT_LOST_AFTER_S:
            raise EndpointUnavailable(
                "no_web_process", f"no web process has held the chat's sockets for {now - float(beat):.0f} s"
            )

    async def close(self) -> None:
        """Let go of nothing."""
