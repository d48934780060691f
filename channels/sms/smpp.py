"""SMS over SMPP 3.4: a transceiver bound to the message centre, in both directions.

submit_sm        one segment: source_addr, destination_addr, data_coding 0 (GSM 03.38) or 8 (UCS-2),
                 esm_class 0x40 where a user data header ties several together, registered_delivery 1
submit_sm_resp   0 and a message_id, or a refusal
deliver_sm       a customer's words, or esm_class 0x04 and `id:4F2 ... stat:DELIVRD err:000`
"""

import asyncio
import random
import re
from datetime import timedelta
from decimal import Decimal

import phonenumbers
import structlog

from channels.contract import Accept, Capabilities
from channels.errors import (
    EndpointUnavailable,
    MessageRejected,
    OutcomeUnknown,
    RecipientUnreachable,
    WebhookRefused,
)
from channels.messages import (
    Channel,
    Matter,
    OutboundMessage,
    Receipt,
    ReceiptEvent,
    ReceiptState,
    Received,
    Reply,
    Webhook,
)
from channels.sms.inbound import Inbound
from channels.sms.link import Link
from channels.sms.outcome import read_refusal
from channels.sms.session import NotWritten, SmppSession, Unanswered
from channels.sms.smpp_settings import SmppSettings
from channels.sms.tracking import Submission, Tracker
from channels.text import clean_text
from channels.tools import Tools
from channels.wire.gsm0338 import Encoding, GsmEncodeError, Segmented, segment_room, segment_text
from channels.wire.smpp import UDHI, MessageResponse, Pdu, ShortMessage, SmppEncodeError
from channels.wire.smpp_numbers import Command, Tag

__all__ = ["SmppAdapter", "SmppSettings"]

IO_S = 5.0
ANSWER_SHARE = 0.96
"""Of `IO_S`, for the message centre's answer: what its silence means is remembered within the rest."""
BOUND_WAIT_S = 1.0
PROBE_S = 2.0
PARTIALS_EVERY_S = 15.0
VALIDITY_MAX_S = 28 * 24 * 3600.0

_INTERNATIONAL, _NATIONAL, _ALPHANUMERIC = 1, 2, 5
_ISDN = 1
_SHORT_CODE_MAX = 6
# No plus: a name must not pass for a number. No at sign: what follows one in our records is an endpoint.
_NOT_IN_A_NAME = re.compile(r"[^0-9A-Za-z ._&*#-]")

_log = structlog.get_logger(__name__)


class SmppAdapter:
    """One account at a message centre. `listen` holds the bind; `send` and `probe` use it."""

    def __init__(self, settings: SmppSettings, tools: Tools) -> None:
        self._settings = settings
        self._tools = tools
        self._link = Link(settings, tools)
        self._listening = False
        self._accept: Accept | None = None
        self._inbound: Inbound | None = None
        self._tracker = Tracker()
        self._reference = random.randrange(0x10000)
        several = segment_room(Encoding.GSM7, wide_reference=settings.wide_reference) * settings.segments_max
        self._capabilities = Capabilities(
            channel=Channel.SMS,
            provider="smpp",
            text_max=several if settings.segments_max > 1 else 160,
            io_s=IO_S,
            receipts=True,
            # No receipt_due_s: phones are off for a night, and some networks send no receipts at all.
            replyable=settings.is_numeric,
            rate_per_s=settings.rate_per_s or 10.0,
            price=settings.price or Decimal(0),
            hold_s=60.0 if settings.hold_s is None else settings.hold_s,
            listens_in="dispatch",
        )

    @property
    def capabilities(self) -> Capabilities:
        """What this account can do; `text_max` counts GSM characters, of others fewer fit."""
        return self._capabilities

    async def send(self, message: OutboundMessage) -> Receipt:
        """Submit every segment: the first alone, then the others at once, so that a refusal is of the whole."""
        deadline = asyncio.get_running_loop().time() + ANSWER_SHARE * IO_S
        plan = self._plan(message)
        references = self._take_references(len(plan.parts))
        segments = [
            self._segment(message, plan, part, number) for part, number in zip(plan.parts, references, strict=True)
        ]
        session = await self._link.session(BOUND_WAIT_S)
        submission = Submission(message.token, message.to.value, len(segments))
        self._tracker.begin(submission, references)
        try:
            return Receipt(vendor_ids=await self._submit_all(session, submission, segments, deadline))
        except OutcomeUnknown:
            await self._remember(submission, references)
            raise
        finally:
            self._tracker.end()

    async def receive(self, webhook: Webhook) -> Received:
        """Nobody calls us over HTTP."""
        raise WebhookRefused(404, "this endpoint has no webhooks")

    def answer(self, received: Received, matter: Matter | None) -> Reply:
        """Nobody calls us over HTTP."""
        return Reply(status=404)

    async def probe(self) -> None:
        """enquire_link on the bound connection; in a process where `listen` does not run, a short bind of its own."""
        if not self._listening:
            await self._link.try_apart()
            return
        await self._link.try_now(PROBE_S)
        session = await self._link.session(0)
        try:
            await session.enquire(PROBE_S)
        except (NotWritten, Unanswered) as failure:
            raise EndpointUnavailable("enquire_link_unanswered", "the message centre does not answer") from failure

    async def listen(self, accept: Accept) -> None:
        """Hold the bind until cancelled; what is delivered is answered once `accept` returned."""
        self._accept = accept
        self._inbound = Inbound(
            self._tools,
            accept,
            self._tracker,
            read_address=self._read_address,
            read_id=self._read_receipt_id,
            read_own_id=self._read_response_id,
            early_s=IO_S,
            partial_after_s=self._settings.partial_after_s,
        )
        self._listening = True
        partials = asyncio.create_task(self._watch_partials(self._inbound))
        try:
            await self._link.hold(self._inbound, self._take_late_answer)
        finally:
            self._listening = False
            partials.cancel()
            await asyncio.gather(partials, return_exceptions=True)
            await self._link.close()

    async def close(self) -> None:
        """Unbind; idempotent."""
        await self._link.close()

    def _plan(self, message: OutboundMessage) -> Segmented:
        text = clean_text(message.content.text)
        if not text.strip():
            raise MessageRejected("empty", "an SMS needs words")
        try:
            plan = segment_text(text, random.randrange(0x10000), wide_reference=self._settings.wide_reference)
        except GsmEncodeError as long:
            raise MessageRejected("too_long", str(long)) from long
        if len(plan.parts) > self._settings.segments_max:
            raise MessageRejected(
                "too_long", f"{len(plan.parts)} SMS segments; at most {self._settings.segments_max} are sent"
            )
        return plan

    def _take_references(self, count: int) -> range:
        """Numbers for user_message_reference; they wrap at 16 bits."""
        first = self._reference
        self._reference = (first + count) & 0xFFFF
        return range(first, first + count)

    def _segment(self, message: OutboundMessage, plan: Segmented, part: bytes, reference: int) -> ShortMessage:
        number = message.to.value.removeprefix("+")
        if not (number.isascii() and number.isdigit() and 3 <= len(number) <= 15):
            raise RecipientUnreachable("bad_number", "this is no phone number that SMS can reach")
        ton, npi = self._sender_kind()
        return ShortMessage(
            source_addr=self._settings.sender.removeprefix("+"),
            source_addr_ton=ton,
            source_addr_npi=npi,
            destination_addr=number,
            dest_addr_ton=_INTERNATIONAL if message.to.value.startswith("+") else 0,
            dest_addr_npi=_ISDN,
            short_message=part,
            esm_class=UDHI if plan.has_header else 0,
            data_coding=plan.data_coding,
            registered_delivery=1,
            validity_period=self._validity(message),
            tlvs=((Tag.USER_MESSAGE_REFERENCE, (reference & 0xFFFF).to_bytes(2, "big")),),
        )

    def _sender_kind(self) -> tuple[int, int]:
        """Type and plan of the sender's number by its looks (SMPP 3.4, section 5.2.5), or as set."""
        settings = self._settings
        if not settings.is_numeric:
            ton, npi = _ALPHANUMERIC, 0
        elif len(settings.sender.removeprefix("+")) <= _SHORT_CODE_MAX:
            ton, npi = 0, _ISDN
        else:
            ton, npi = _INTERNATIONAL, _ISDN
        return (
            ton if settings.sender_ton is None else settings.sender_ton,
            npi if settings.sender_npi is None else settings.sender_npi,
        )

    def _validity(self, message: OutboundMessage) -> str:
        """Relative time, section 7.1.1: an expired message must not be shown late by the message centre either."""
        if message.expires_at is None or not self._settings.validity:
            return ""
        left_s = min(max(message.expires_at - self._tools.clock.now(), 1.0), VALIDITY_MAX_S)
        left = timedelta(seconds=int(left_s))
        minutes, seconds = divmod(left.seconds, 60)
        hours, minutes = divmod(minutes, 60)
        return f"0000{left.days:02d}{hours:02d}{minutes:02d}{seconds:02d}000R"

    async def _submit_all(
        self, session: SmppSession, submission: Submission, segments: list[ShortMessage], deadline: float
    ) -> tuple[str, ...]:
        vendor_ids = [await self._submit(session, submission, segments[0], deadline)]
        rest = [self._submit(session, submission, segment, deadline) for segment in segments[1:]]
        for outcome in await asyncio.gather(*rest, return_exceptions=True):
            if isinstance(outcome, OutcomeUnknown):
                raise outcome
            if isinstance(outcome, BaseException):
                raise OutcomeUnknown(
                    "partly_taken", "the message centre took the beginning of this text, but not all of it"
                ) from outcome
            vendor_ids.append(outcome)
        return tuple(vendor_id for vendor_id in vendor_ids if vendor_id)

    async def _submit(
        self, session: SmppSession, submission: Submission, segment: ShortMessage, deadline: float
    ) -> str:
        try:
            answer = await session.submit(segment, deadline - asyncio.get_running_loop().time(), submission)
        except NotWritten as failure:
            raise EndpointUnavailable(str(failure), f"not submitted: {failure}") from failure
        except Unanswered as failure:
            raise OutcomeUnknown(str(failure), f"submitted, then: {failure}") from failure
        except SmppEncodeError as wrong:
            raise MessageRejected("not_encodable", str(wrong)) from wrong
        if answer.status or answer.command is Command.GENERIC_NACK:
            raise read_refusal(answer.status)
        return self._take_id(submission, answer)

    def _take_id(self, submission: Submission, answer: Pdu) -> str:
        given = answer.body.message_id if isinstance(answer.body, MessageResponse) else ""
        vendor_id = self._read_response_id(given)
        if vendor_id:
            self._tracker.take(submission, vendor_id)
        return vendor_id

    async def _remember(self, submission: Submission, references: range) -> None:
        if self._inbound is None:
            return
        try:
            await self._inbound.remember_submission(submission, references)
        except Exception as failure:  # noqa: BLE001 must not hide the unknown outcome; the hold runs out instead, flagged
            _log.warning("submission.not_remembered", endpoint=self._tools.endpoint, error=type(failure).__name__)

    async def _take_late_answer(self, note: object, answer: Pdu) -> None:
        """An answer after its time: what was unknown is known now. A refusal that late says nothing of the whole."""
        if not isinstance(note, Submission) or answer.status or self._accept is None:
            return
        vendor_id = self._take_id(note, answer)
        if note.is_taken:
            event = ReceiptEvent(
                endpoint=self._tools.endpoint,
                state=ReceiptState.SENT,
                at=self._tools.clock.now(),
                token=note.token,
                vendor_id=vendor_id,
                reason="answered_late",
            )
            try:
                await self._accept(event)
            except Exception as failure:  # noqa: BLE001 the rim of a task: the hold runs out instead, flagged
                _log.warning("late_answer.lost", endpoint=self._tools.endpoint, error=type(failure).__name__)

    def _read_response_id(self, given: str) -> str:
        """Both sides in one form where receipts write ids otherwise than answers do."""
        return _canonical(given, 10 if self._settings.receipt_ids == "hex" else 16, self._settings.receipt_ids)

    def _read_receipt_id(self, given: str) -> str:
        return _canonical(given, 16 if self._settings.receipt_ids == "hex" else 10, self._settings.receipt_ids)

    def _read_address(self, ton: int, value: str) -> str:
        """A number as E.164, a short code, or a name in plain characters: whoever sends chooses it freely."""
        digits = value.removeprefix("+")
        if ton == _ALPHANUMERIC or not (digits.isascii() and digits.isdigit()) or len(digits) <= _SHORT_CODE_MAX:
            return _NOT_IN_A_NAME.sub("_", value)
        region = self._settings.region
        if region is None or ton == _INTERNATIONAL or value.startswith("+"):
            return "+" + digits.removeprefix("00")
        try:
            number = phonenumbers.parse(digits, region)
        except phonenumbers.NumberParseException:
            return value
        return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)

    async def _watch_partials(self, inbound: Inbound) -> None:
        resumed = False
        while True:
            try:
                if not resumed:
                    await inbound.resume_partials()
                    resumed = True
                await inbound.file_partials()
            except Exception as failure:  # noqa: BLE001 the rim of a loop: the store is away, the next round tries again
                _log.warning("partials.not_filed", endpoint=self._tools.endpoint, error=type(failure).__name__)
            await self._tools.clock.sleep(min(PARTIALS_EVERY_S, self._settings.partial_after_s))


def _canonical(given: str, base: int, form: str) -> str:
    """`given`, read in `base`, as a plain decimal number; as it is if ids need no converting, or it is no number."""
    if form == "same":
        return given
    try:
        return str(int(given, base))
    except ValueError:
        return given
