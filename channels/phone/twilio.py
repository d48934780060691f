"""Phone calls over Twilio: placed by REST, then led step by step through signed webhooks answered with TwiML.

The step stands in the path, so any process can take the next one. Nothing but the organisation and a reference is
said before a key is pressed. Twilio asks, abridged (twilio.com/docs/voice/twiml#request-parameters):

    call      CallSid=CA..&Direction=outbound-api&To=%2B15550100&AnsweredBy=human            somebody picked up
    matter    ..&Digits=5                                                                    a key was pressed
    answer    ..&SpeechResult=Yes%2C+tomorrow&Confidence=0.92   or   &Digits=42              they answered
    connected ..&DialCallStatus=no-answer                                                    the agent's leg ended
    inbound   CallSid=CA..&Direction=inbound&From=%2B15550100                                somebody calls us
    status    ..&CallStatus=completed&AnsweredBy=human                                       the call is over
"""

import asyncio
import re
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from channels.contract import Capabilities
from channels.errors import LocalFault, MessageRejected, RecipientUnreachable, WebhookRefused
from channels.messages import (
    About,
    Address,
    Channel,
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
from channels.phone.script import CallScript, Saying, Step
from channels.text import clean_text
from channels.tools import Tools
from channels.twilio import IO_S, TwilioAccount, TwilioSettings
from channels.wire import twiml

STORE_S = 1.0
"""For the store to keep what a call is to say, before it is placed."""
TEXT_MAX = 3000
"""Characters: about four minutes of speech."""
RING_S = 20
CALL_S = 540
OCCUPIED_S = 600.0
"""Ringing, the longest call we allow, and time for the final status to come."""
STATUS_PATIENCE_S, STATUS_PAUSE_S = 8.0, 0.25
"""A final status waits for our store: nobody is on the line, Twilio waits 15 s for the answer, and the end of a call
that it gave up telling us keeps the leg for ten minutes."""
KEY_TTL_S = 86_400.0
NEVER_SAID = "never_said"
"""A call that was answered, but whose words were never fetched from us: nobody can have heard them."""
SAYING_TTL_S = 900.0
"""A little longer than a call can last; gone earlier with its final status."""
ANSWERS_MAX = 20
"""Answers taken in one call."""
SPEECH_MAX = 8_000
TOKEN_MAX = 150
"""Characters; ours have some 30, and what is kept of a call stands under its token."""

_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_CALL_SID = re.compile(r"CA[0-9a-fA-F]{32}")
# ANONYMOUS, RESTRICTED, BLOCKED, UNKNOWN and UNAVAILABLE, typed on a keypad: what Twilio shows for a withheld number.
_WITHHELD = frozenset({"+266696687", "+7378742833", "+2562533", "+8656696", "+86282452253"})
_UNDELIVERED = frozenset({"busy", "no-answer", "failed", "canceled"})
_NO_NEWS = frozenset({"queued", "initiated", "ringing", "in-progress", "answered"})

Number = Annotated[str, Field(pattern=r"^\+[1-9][0-9]{6,14}$")]


class TwilioVoiceSettings(TwilioSettings):
    """A Twilio account that calls and is called on one number."""

    provider: Literal["twilio-voice"]
    from_number: Number
    """The number we call from and are called on, E.164."""
    callback_number: Number | None = None
    """Left on voicemail; None: the number we call from."""
    connect_allowed: tuple[Number, ...] = ()
    """The only numbers a caller may ever be connected to."""
    locale: Annotated[str, Field(pattern=r"^[a-z]{2}([-_][A-Za-z]{2,8})?$")] = "en"
    """Spoken to callers whose own is not known."""


class TwilioVoiceAdapter:
    """One Twilio number that calls and is called."""

    def __init__(self, settings: TwilioVoiceSettings, tools: Tools) -> None:
        self._settings = settings
        self._tools = tools
        self._account = TwilioAccount(settings, tools)
        self._script = CallScript(
            organisation=tools.organisation,
            locale=settings.locale,
            from_number=settings.from_number,
            callback_number=settings.callback_number or settings.from_number,
            connect_allowed=frozenset(settings.connect_allowed),
            hook_url=self._account.hook_url,
        )
        self._capabilities = Capabilities(
            channel=Channel.PHONE,
            provider="twilio-voice",
            text_max=TEXT_MAX,
            io_s=IO_S + STORE_S,
            receipts=True,
            echoes_token=True,
            rate_per_s=settings.rate_per_s or 1.0,  # Twilio's default: one call begun a second
            price=settings.price or Decimal(0),
            hold_s=60.0 if settings.hold_s is None else settings.hold_s,
        )

    @property
    def capabilities(self) -> Capabilities:
        """What this endpoint can do."""
        return self._capabilities

    async def send(self, message: OutboundMessage) -> Receipt:
        """Place a call. It occupies its leg until its final status, at most 600 s.

        Raises from SendFailed, or LocalFault: also when the store did not answer in `STORE_S`; nobody was called.
        """
        if message.to.channel is not Channel.PHONE or not _E164.fullmatch(message.to.value):
            raise RecipientUnreachable("invalid_number", "not a phone number in international format")
        if not clean_text(message.content.text).strip():
            raise MessageRejected("empty_text", "there is nothing to read out")
        if len(message.content.text) > TEXT_MAX:
            raise MessageRejected("text_too_long", f"at most {TEXT_MAX} characters are read out on the phone")
        form = {
            "To": message.to.value,
            "From": self._settings.from_number,
            "Url": self._account.hook_url("call", {"t": message.token, "r": message.reply_token}),
            "Method": "POST",
            "StatusCallback": self._account.hook_url("status", {"t": message.token}),
            "StatusCallbackMethod": "POST",
            "StatusCallbackEvent": "completed",
            "MachineDetection": "DetectMessageEnd",
            "Timeout": str(RING_S),
            "TimeLimit": str(CALL_S),
        }
        try:
            async with asyncio.timeout(STORE_S):
                await self._tools.store.put(f"say:{message.token}", Saying.of(message).encoded(), SAYING_TTL_S)
        except TimeoutError as late:
            raise LocalFault("the store did not keep in time what the call is to say") from late
        sid = await self._account.create("Calls", form)
        return Receipt(vendor_ids=(sid,), occupied_s=OCCUPIED_S)

    async def receive(self, webhook: Webhook) -> Received:
        """Translate one step of a call. Raises WebhookRefused."""
        form = self._account.verified_form(webhook)
        sid = form.get("CallSid", "")
        if not _CALL_SID.fullmatch(sid):
            raise WebhookRefused(400, "no_call_sid")
        token, reply_token = webhook.query.get("t", ""), webhook.query.get("r", "")
        if max(len(token), len(reply_token)) > TOKEN_MAX:
            raise WebhookRefused(400, "no_token_of_ours")
        fields = {"token": token, "reply_token": reply_token, "saying": await self._saying(token, webhook)}
        about = self._about(form, token, reply_token)
        match webhook.path.strip("/"):
            case "" | "inbound":
                step = Step.INBOUND if _customer(form) else Step.WITHHELD
                return Received(about=about, fields={**fields, "step": step})
            case "call":
                if token:
                    # A vendor that cannot fetch this says that it is sorry, and calls the call completed all the same.
                    await self._tools.store.put(f"begun:{sid}", "1", SAYING_TTL_S)
                step = Step.VOICEMAIL if _is_machine(form) else Step.CALL
                return Received(about=about, fields={**fields, "step": step})
            case "matter":
                return await self._matter(sid, form, webhook, Received(about=about, fields=fields))
            case "answer":
                return self._answer(sid, form, webhook, Received(about=about, fields=fields))
            case "connected":
                spoke = form.get("DialCallStatus") == "completed"
                step = Step.GOODBYE if spoke else Step.NOBODY_FREE
                return Received(about=about, fields={**fields, "step": step, "n": webhook.query.get("n", "")})
            case "status":
                return await self._status_patiently(sid, form, webhook)
            case _:
                raise WebhookRefused(404, "unknown_path")

    def answer(self, received: Received, matter: Matter | None) -> Reply:
        """The TwiML of the next step; without a matter nothing but the organisation is said."""
        return Reply(body=self._script.next_document(received.fields, matter), content_type=twiml.CONTENT_TYPE)

    async def probe(self) -> None:
        """Ask for the account: proves connection, credential and that it is active."""
        await self._account.probe()

    async def close(self) -> None:
        """Nothing is held: the HTTP client is the runtime's."""

    async def _saying(self, token: str, webhook: Webhook) -> str:
        """What this attempt says, for the steps that say it; empty if it is not, or no longer, known."""
        if not token or webhook.path.strip("/") not in ("call", "matter"):
            return ""
        return await self._tools.store.get(f"say:{token}") or ""

    def _about(self, form: dict[str, str], token: str, reply_token: str) -> About | None:
        """Whose matter to speak of: the attempt's, else the caller's, unless the number is withheld or forged."""
        if token or reply_token:
            return About(token=token, reply_token=reply_token)
        address = _customer(form)
        return About(sender=address) if address and not _is_forged(form) else None

    async def _matter(self, sid: str, form: dict[str, str], webhook: Webhook, received: Received) -> Received:
        """A key was pressed: somebody is there and hears it. Remembered, for the final status says nothing of keys."""
        token = received.fields["token"]
        if not form.get("Digits"):
            step = Step.CALL if token else Step.INBOUND
            return Received(about=received.about, fields={**received.fields, "step": step})
        events: tuple[ReceiptEvent, ...] = ()
        if token:
            await self._tools.store.put(f"key:{sid}", "1", KEY_TTL_S)
            events = (self._receipt(sid, webhook, ReceiptState.DELIVERED, "key_pressed", final=False),)
        return Received(events, received.about, {**received.fields, "step": Step.MATTER})

    def _answer(self, sid: str, form: dict[str, str], webhook: Webhook, received: Received) -> Received:
        """Words or digits, filed as one message; zero, where a person was offered, asks for one."""
        number = webhook.query.get("n", "")
        if not (number.isascii() and number.isdigit() and 1 <= int(number[:4]) <= ANSWERS_MAX):
            raise WebhookRefused(400, "no_answer_number")
        fields = {**received.fields, "n": number}
        digits = form.get("Digits", "")
        if digits == "0" and webhook.query.get("c") == "1":
            return Received(about=received.about, fields={**fields, "step": Step.CONNECT})
        text = clean_text(form.get("SpeechResult", "")).strip()[:SPEECH_MAX] or digits[:SPEECH_MAX]
        if not text:
            return Received(about=received.about, fields={**fields, "step": Step.GOODBYE})
        address = _customer(form)
        if address is None:
            return Received(fields={**fields, "step": Step.WITHHELD})
        message = InboundMessage(
            endpoint=self._tools.endpoint,
            vendor_id=f"{sid}:{number}",
            sender=address,
            text=text,
            sent_at=webhook.received_at or self._tools.clock.now(),
            recipient=self._settings.from_number,
            reply_token=received.fields["reply_token"],
            unverified=_is_forged(form),
        )
        step = Step.THANKS if int(number) < ANSWERS_MAX else Step.GOODBYE
        return Received((message,), received.about, {**fields, "step": step})

    async def _status_patiently(self, sid: str, form: dict[str, str], webhook: Webhook) -> Received:
        clock = self._tools.clock
        deadline = clock.monotonic() + STATUS_PATIENCE_S
        while True:
            try:
                return await self._status(sid, form, webhook)
            except LocalFault:
                if clock.monotonic() >= deadline:
                    raise
            await clock.sleep(STATUS_PAUSE_S)

    async def _status(self, sid: str, form: dict[str, str], webhook: Webhook) -> Received:
        status = form.get("CallStatus", "").lower()
        fields = {"step": Step.STATUS}
        if status not in _NO_NEWS | _UNDELIVERED | {"completed"}:
            raise WebhookRefused(400, "unknown_status")
        if status in _NO_NEWS or not webhook.query.get("t"):
            return Received(fields=fields)
        if status in _UNDELIVERED:
            state, reason = ReceiptState.UNDELIVERED, "call_" + status.replace("-", "_")
        elif await self._tools.store.get(f"begun:{sid}") is None:
            state, reason = ReceiptState.UNDELIVERED, NEVER_SAID
        elif _is_machine(form):
            state, reason = ReceiptState.UNCONFIRMED, "voicemail"
        elif await self._tools.store.get(f"key:{sid}") is not None:
            state, reason = ReceiptState.DELIVERED, "key_pressed"
        else:
            state, reason = ReceiptState.UNCONFIRMED, "no_key"
        await self._tools.store.delete(f"say:{webhook.query['t']}")
        return Received(events=(self._receipt(sid, webhook, state, reason, final=True),), fields=fields)

    def _receipt(self, sid: str, webhook: Webhook, state: ReceiptState, reason: str, *, final: bool) -> ReceiptEvent:
        return ReceiptEvent(
            endpoint=self._tools.endpoint,
            state=state,
            at=webhook.received_at or self._tools.clock.now(),
            token=webhook.query.get("t", ""),
            vendor_id=sid,
            reason=reason,
            permanent=False,
            final=final,
        )


def _is_machine(form: dict[str, str]) -> bool:
    return form.get("AnsweredBy", "").startswith(("machine", "fax"))


def _customer(form: dict[str, str]) -> Address | None:
    """The other end; None if its number is withheld."""
    outbound = form.get("Direction", "").startswith("outbound")
    number = form.get("To" if outbound else "From", "")
    if not _E164.fullmatch(number) or number in _WITHHELD:
        return None
    return Address(Channel.PHONE, number)


def _is_forged(form: dict[str, str]) -> bool:
    """Whether the network says that the caller's number is not theirs (STIR/SHAKEN, `StirVerstat`)."""
    return "Failed" in form.get("StirVerstat", "")
