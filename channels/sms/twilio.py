"""SMS over Twilio: messages by REST, receipts and replies by signed webhook.

A webhook for a reply, abridged (twilio.com/docs/messaging/guides/webhook-request):

    MessageSid=SM..&AccountSid=AC..&From=%2B15550100&To=%2B15550199&Body=Yes&NumMedia=0&OptOutType=STOP

and for a status (twilio.com/docs/messaging/guides/outbound-message-status-in-status-callbacks):

    MessageSid=SM..&AccountSid=AC..&MessageStatus=undelivered&ErrorCode=30003
"""

import re
from decimal import Decimal
from typing import Annotated, Literal, Self
from urllib.parse import urljoin, urlsplit

import aiohttp
from pydantic import Field, model_validator

from channels.contract import Capabilities
from channels.errors import MessageRejected, RecipientUnreachable, WebhookRefused
from channels.messages import (
    Address,
    Channel,
    InboundFile,
    InboundMessage,
    Matter,
    OutboundMessage,
    Receipt,
    ReceiptEvent,
    ReceiptState,
    Received,
    Reply,
    Webhook,
)
from channels.text import clean_text
from channels.tools import Tools
from channels.twilio import IO_S, TwilioAccount, TwilioSettings, read_bounded
from channels.wire import twiml

TEXT_MAX = 1600
"""Characters of one message (error 21617)."""
MEDIA_MAX = 10
MEDIA_BYTES_MAX = 5_000_000
MEDIA_S = 8.0
"""Twilio waits 15 s for our answer; what has not come by then is named instead of attached."""
MEDIA_REDIRECTS_MAX = 2
MEDIA_HOSTS = (".twilio.com", ".twiliocdn.com", ".amazonaws.com")
"""Where Twilio's media URLs redirect to."""

_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_SENDER = re.compile(r"\+?[0-9]{3,15}|[A-Za-z0-9 ._&-]{1,11}")
_MESSAGE_SID = re.compile(r"(SM|MM)[0-9a-fA-F]{32}")

_STATES = {
    "sent": ReceiptState.SENT,
    "delivered": ReceiptState.DELIVERED,
    "partially_delivered": ReceiptState.SENT,
    "read": ReceiptState.READ,
    "undelivered": ReceiptState.UNDELIVERED,
    "failed": ReceiptState.UNDELIVERED,
    "canceled": ReceiptState.UNDELIVERED,
}
_NO_NEWS = frozenset({"accepted", "scheduled", "queued", "sending"})
_BAD_NUMBER = frozenset({"21211", "21214", "21217", "21610", "21612", "21614", "30004", "30005", "30006"})


class TwilioSmsSettings(TwilioSettings):
    """A Twilio account that sends and receives SMS, from a number of its own or through a messaging service."""

    provider: Literal["twilio-sms"]
    from_number: Annotated[str, Field(pattern=r"^(\+[1-9][0-9]{6,14}|[0-9]{3,8}|[A-Za-z0-9 ]{1,11})$")] | None = None
    """E.164, a short code, or an alphanumeric sender, which nobody can answer."""
    messaging_service_sid: Annotated[str, Field(pattern=r"^MG[0-9a-fA-F]{32}$")] | None = None
    """The SID of a messaging service that picks the sender; instead of `from_number`."""

    @model_validator(mode="after")
    def _one_sender(self) -> Self:
        if (self.from_number is None) == (self.messaging_service_sid is None):
            raise ValueError("give either from_number or messaging_service_sid")
        return self


class TwilioSmsAdapter:
    """One Twilio SMS sender."""

    def __init__(self, settings: TwilioSmsSettings, tools: Tools) -> None:
        self._settings = settings
        self._tools = tools
        self._account = TwilioAccount(settings, tools)
        sender = settings.from_number or ""
        self._capabilities = Capabilities(
            channel=Channel.SMS,
            provider="twilio-sms",
            text_max=TEXT_MAX,
            io_s=IO_S,
            receipts=True,
            echoes_token=True,
            replyable=not any(letter.isalpha() for letter in sender),
            rate_per_s=settings.rate_per_s or 10.0,
            price=settings.price or Decimal(0),
            hold_s=60.0 if settings.hold_s is None else settings.hold_s,
        )

    @property
    def capabilities(self) -> Capabilities:
        """What this endpoint can do."""
        return self._capabilities

    async def send(self, message: OutboundMessage) -> Receipt:
        """Hand the text to Twilio; its status callback carries the attempt's token back."""
        if message.to.channel is not Channel.SMS or not _E164.fullmatch(message.to.value):
            raise RecipientUnreachable("invalid_number", "not a phone number in international format")
        text = clean_text(message.content.text)
        if not text.strip():
            raise MessageRejected("empty_text", "an SMS cannot be empty")
        if len(text) > TEXT_MAX:
            raise MessageRejected("text_too_long", f"an SMS has at most {TEXT_MAX} characters, this has {len(text)}")
        form = {
            "To": message.to.value,
            "Body": text,
            "StatusCallback": self._account.hook_url("status", {"t": message.token}),
        }
        if self._settings.messaging_service_sid is not None:
            form["MessagingServiceSid"] = self._settings.messaging_service_sid
        elif self._settings.from_number is not None:
            form["From"] = self._settings.from_number
        return Receipt(vendor_ids=(await self._account.create("Messages", form),))

    async def receive(self, webhook: Webhook) -> Received:
        """Translate a status callback (`status`) or a message (no path, or `inbound`). Raises WebhookRefused."""
        form = self._account.verified_form(webhook)
        sid = form.get("MessageSid", "")
        if not _MESSAGE_SID.fullmatch(sid):
            raise WebhookRefused(400, "no_message_sid")
        match webhook.path.strip("/"):
            case "status":
                return self._status(sid, form, webhook)
            case "" | "inbound":
                return Received(events=(await self._message(sid, form, webhook),))
            case _:
                raise WebhookRefused(404, "unknown_path")

    def answer(self, received: Received, matter: Matter | None) -> Reply:
        """An empty TwiML document: what we say goes out as a message of its own, with a receipt."""
        return Reply(body=twiml.render(), content_type=twiml.CONTENT_TYPE)

    async def probe(self) -> None:
        """Ask for the account: proves connection, credential and that it is active."""
        await self._account.probe()

    async def close(self) -> None:
        """Nothing is held: the HTTP client is the runtime's."""

    def _status(self, sid: str, form: dict[str, str], webhook: Webhook) -> Received:
        status = form.get("MessageStatus", "").lower()
        if status in _NO_NEWS:
            return Received()
        state = _STATES.get(status)
        if state is None:
            raise WebhookRefused(400, "unknown_status")
        code = form.get("ErrorCode", "")
        event = ReceiptEvent(
            endpoint=self._tools.endpoint,
            state=state,
            at=webhook.received_at or self._tools.clock.now(),
            token=webhook.query.get("t", ""),
            vendor_id=sid,
            reason=f"twilio_{code}" if code.isdigit() and len(code) <= 6 else "",
            permanent=state is not ReceiptState.UNDELIVERED or code in _BAD_NUMBER,
        )
        return Received(events=(event,))

    async def _message(self, sid: str, form: dict[str, str], webhook: Webhook) -> InboundMessage:
        sender = form.get("From", "")
        if not _SENDER.fullmatch(sender):
            raise WebhookRefused(400, "no_sender")
        files, missing = await self._media(form)
        named = [f"[file not fetched: {media_type}]" for media_type in missing]
        opt = form.get("OptOutType", "").lower()
        text = clean_text(form.get("Body", ""))
        return InboundMessage(
            endpoint=self._tools.endpoint,
            vendor_id=sid,
            sender=Address(Channel.SMS, sender),
            text="\n".join([text, *named]) if named else text,
            sent_at=webhook.received_at or self._tools.clock.now(),
            recipient=form.get("To", ""),
            files=files,
            opt=opt if opt in ("stop", "start") else "",
        )

    async def _media(self, form: dict[str, str]) -> tuple[tuple[InboundFile, ...], list[str]]:
        """The attached media, and the types of those we could not fetch in time: the words must not wait for them."""
        count = form.get("NumMedia", "0")
        total = int(count) if count.isascii() and count.isdigit() and len(count) <= 3 else 0
        files: list[InboundFile] = []
        missing: list[str] = []
        left = MEDIA_BYTES_MAX
        deadline = self._tools.clock.monotonic() + MEDIA_S
        for number in range(min(total, MEDIA_MAX)):
            media_type = _media_type(form.get(f"MediaContentType{number}", ""))
            seconds = deadline - self._tools.clock.monotonic()
            content = await self._fetch(form.get(f"MediaUrl{number}", ""), left, seconds) if seconds > 0 else None
            if content is None:
                missing.append(media_type)
                continue
            left -= len(content)
            name = f"attachment-{number + 1}.{media_type.partition('/')[2].partition('+')[0]}"
            files.append(InboundFile(name, media_type, content))
        return tuple(files), missing

    async def _fetch(self, url: str, bytes_max: int, seconds: float) -> bytes | None:
        """One medium, from Twilio alone; None if it cannot be had. The credential goes to `api_base` only."""
        timeout = aiohttp.ClientTimeout(total=seconds, connect=2.0)
        for hop in range(MEDIA_REDIRECTS_MAX + 1):
            try:
                ours = _origin(url) == _origin(self._settings.api_base)
                if not ours and not (hop and _is_media_host(url)):
                    return None
                headers = self._account.authorization() if ours else {}
                async with self._tools.http.get(
                    url, headers=headers, timeout=timeout, allow_redirects=False
                ) as response:
                    if response.status in (301, 302, 303, 307, 308):
                        url = urljoin(url, response.headers.get("Location", ""))
                        continue
                    content = await read_bounded(response, bytes_max)
                    return content if response.status == 200 and len(content) <= bytes_max else None
            except (aiohttp.ClientError, TimeoutError, ValueError):
                return None  # told apart for nobody: the message names what is missing
        return None


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _is_media_host(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" and (parts.hostname or "").endswith(MEDIA_HOSTS)


def _media_type(value: str) -> str:
    return value if re.fullmatch(r"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,60}", value) else "application/octet-stream"
