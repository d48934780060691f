"""What a message centre delivers: words, parts of words and receipts, made durable before they are acknowledged."""

import asyncio
import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from uuid import uuid4

import structlog

from channels.contract import Accept
from channels.messages import Address, Channel, InboundMessage, ReceiptEvent, ReceiptState
from channels.sms.session import Taken
from channels.sms.tracking import Submission, Tracker, settle_receipt
from channels.text import clean_text
from channels.tools import Tools
from channels.wire.gsm0338 import Concatenation, Encoding, UdhError, encoding_of, join_bodies, split_header
from channels.wire.smpp import ShortMessage, find_tlv
from channels.wire.smpp_numbers import CommandStatus, MessageState, Tag
from channels.wire.smpp_receipt import DeliveryReceipt, read_receipt

PARTS_TTL_S = 24 * 3600.0
ONCE_TTL_S = 3600.0
"""How long after a broken connection an equal text counts as the same one: centres come again within minutes."""
REFERENCE_TTL_S = 24 * 3600.0
ONCE_MAX = 10_000
PARTIALS_MAX = 500
REPEATED_AFTER_S = 2.0
"""An equal text on one connection, unanswered for less than this, is a person repeating themselves."""

# What a receipt's state says of the attempt (SMPP 3.4, section 5.2.28), and whether the address itself is bad.
# EXPIRED, DELETED and REJECTED say that this delivery failed: a phone switched off, a full store, a filter.
_STATES: dict[MessageState, tuple[ReceiptState, bool]] = {
    MessageState.ENROUTE: (ReceiptState.SENT, True),
    MessageState.ACCEPTED: (ReceiptState.SENT, True),
    MessageState.UNKNOWN: (ReceiptState.SENT, True),
    MessageState.DELIVERED: (ReceiptState.DELIVERED, True),
    MessageState.UNDELIVERABLE: (ReceiptState.UNDELIVERED, True),
    MessageState.EXPIRED: (ReceiptState.UNDELIVERED, False),
    MessageState.DELETED: (ReceiptState.UNDELIVERED, False),
    MessageState.REJECTED: (ReceiptState.UNDELIVERED, False),
}

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Once:
    """A text taken, until the message centre is known to have read our answer."""

    vendor_id: str
    session: str
    arrived: float
    answered_at: float | None = None


@dataclass(frozen=True, slots=True)
class _Partial:
    """A text of which parts are missing; one part it has, to ask for the others by."""

    key: str
    part: int
    value: str
    total: int
    source: str
    recipient: str
    due: float
    """Unix time after which it is filed as it is."""


class Inbound:
    """Turns deliver_sm into events. `take` never raises: what could not be kept is asked for again."""

    def __init__(
        self,
        tools: Tools,
        accept: Accept,
        tracker: Tracker,
        *,
        read_address: Callable[[int, str], str],
        read_id: Callable[[str], str],
        read_own_id: Callable[[str], str],
        early_s: float,
        partial_after_s: float,
    ) -> None:
        self._tools = tools
        self._accept = accept
        self._tracker = tracker
        self._read_address = read_address
        self._read_id = read_id
        self._read_own_id = read_own_id
        self._early_s = early_s
        self._partial_after_s = partial_after_s
        self._once: OrderedDict[str, _Once] = OrderedDict()
        self._partials: OrderedDict[str, _Partial] = OrderedDict()
        self._turns: dict[str, tuple[asyncio.Lock, int]] = {}

    async def take(self, message: ShortMessage, session: str, arrived: float, behind_s: float = 0.0) -> Taken:
        """Keep `message` durably and say what to answer."""
        try:
            receipt = read_receipt(message)
            if receipt is not None:
                return await self._take_receipt(message, receipt)
            if message.is_receipt:
                _log.warning("receipt.not_understood", endpoint=self._tools.endpoint)
                return Taken()
            if not message.source_addr:
                return Taken(CommandStatus.ESME_RX_P_APPN)
            async with self._turn(message.source_addr):
                concatenation, body = _split(message)
                if concatenation is None or concatenation.total == 1:
                    return await self._take_whole(message, body, session, arrived, behind_s)
                return await self._take_part(message, concatenation, body)
        except Exception as failure:  # noqa: BLE001 the rim: the message centre keeps what we could not, and comes again
            _log.warning("delivery.failed", endpoint=self._tools.endpoint, error=type(failure).__name__)
            return Taken(CommandStatus.ESME_RX_T_APPN)

    def answered(self, mark: str) -> None:
        """The answer to the text under `mark` was written."""
        once = self._once.get(mark)
        if once is not None:
            once.answered_at = asyncio.get_running_loop().time()

    async def confirm(self, marks: tuple[str, ...]) -> None:
        """The message centre read those answers: an equal text is a new message from now on."""
        for mark in dict.fromkeys(marks):
            once = self._once.get(mark)
            if once is None or once.answered_at is None:
                continue
            del self._once[mark]
            try:
                await self._tools.store.delete(mark)
            except Exception as failure:  # noqa: BLE001 the rim of a task: the entry ends by itself within the hour
                _log.warning("delivery.not_confirmed", endpoint=self._tools.endpoint, error=type(failure).__name__)

    async def resume_partials(self) -> None:
        """Find the texts again that were incomplete when a process ended."""
        for _, value in await self._tools.store.read_after("partials", 0, PARTIALS_MAX):
            partial = _Partial(**json.loads(value))
            if await self._tools.store.get(f"done/{partial.key}") is None:
                self._partials[partial.key] = partial

    async def file_partials(self) -> None:
        """File what has waited too long for its missing parts: words half read beat words lost."""
        now = self._tools.clock.now()
        for partial in [partial for partial in self._partials.values() if partial.due <= now]:
            if await self._tools.store.get(f"done/{partial.key}") is not None:
                self._partials.pop(partial.key, None)  # the last part came to another process
                continue
            parts = await self._tools.store.collect(partial.key, partial.part, partial.value, PARTS_TTL_S)
            if len(parts) < partial.total:
                _log.warning("message.filed_incomplete", endpoint=self._tools.endpoint, parts=len(parts))
            await self._accept_parts(partial, parts)

    @asynccontextmanager
    async def _turn(self, source: str) -> AsyncIterator[None]:
        """One text of a sender after the other, in the order they came."""
        lock, waiting = self._turns.get(source, (asyncio.Lock(), 0))
        self._turns[source] = (lock, waiting + 1)
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._turns.pop(source)
            if waiting > 1:
                self._turns[source] = (lock, waiting - 1)

    async def _take_whole(
        self, message: ShortMessage, body: bytes, session: str, arrived: float, behind_s: float
    ) -> Taken:
        """SMPP gives a customer's text no id: its own connection and our answer tell a repeat from a second message."""
        mark = f"once/{_digest(message, message.user_data)}"
        once = await self._recall(mark)
        if once is None or not self._is_redelivery(once, session, arrived, behind_s):
            first = arrived - behind_s
            once = _Once(message.receipted_message_id or f"{mark[5:]}-{uuid4().hex[:8]}", session, first)
            await self._tools.store.put(
                mark, json.dumps({"vendor_id": once.vendor_id, "session": session, "arrived": first}), ONCE_TTL_S
            )
        once = replace(once, session=session, answered_at=None)
        self._once.pop(mark, None)
        self._once[mark] = once
        if len(self._once) > ONCE_MAX:
            self._once.popitem(last=False)
        try:
            await self._accept(self._message(message, once.vendor_id, [(message.data_coding, body)]))
        except BaseException:  # a cancellation too
            # It may be durable all the same: when the message centre comes again, it is this one.
            once.arrived = -math.inf
            raise
        return Taken(mark=mark)

    async def _recall(self, mark: str) -> _Once | None:
        once = self._once.get(mark)
        if once is None:
            stored = await self._tools.store.get(mark)
            once = _Once(**json.loads(stored)) if stored is not None else None
        return once

    def _is_redelivery(self, once: _Once, session: str, arrived: float, behind_s: float) -> bool:
        if once.session != session:
            return True  # the connection ended before the message centre is known to have read our answer
        # While we stood still the message centre came again, on the same connection: all of it is read at once.
        if once.answered_at is not None and once.answered_at <= arrived - behind_s:
            return False
        return arrived - once.arrived >= REPEATED_AFTER_S

    async def _take_part(self, message: ShortMessage, concatenation: Concatenation, body: bytes) -> Taken:
        key = _parts_key(message, concatenation)
        value = json.dumps([message.data_coding, body.hex()])
        done = await self._tools.store.get(f"done/{key}")
        if done is not None:
            if json.loads(done).get(str(concatenation.part)) == _hash(value):
                return Taken()  # its message was accepted; only our answer was lost
            await self._forget_parts(key)
        parts = await self._tools.store.collect(key, concatenation.part, value, PARTS_TTL_S)
        partial = self._partials.get(key) or _Partial(
            key=key,
            part=concatenation.part,
            value=value,
            total=concatenation.total,
            source=self._read_address(message.source_addr_ton, message.source_addr),
            recipient=self._read_address(message.dest_addr_ton, message.destination_addr),
            due=self._tools.clock.now() + self._partial_after_s,
        )
        if len(parts) >= concatenation.total:
            await self._accept_parts(partial, parts)
        elif key not in self._partials:
            await self._remember_partial(partial)
        return Taken()

    async def _remember_partial(self, partial: _Partial) -> None:
        if len(self._partials) >= PARTIALS_MAX:
            _, oldest = self._partials.popitem(last=False)
            parts = await self._tools.store.collect(oldest.key, oldest.part, oldest.value, PARTS_TTL_S)
            await self._accept_parts(oldest, parts)
        fields = {name: getattr(partial, name) for name in _Partial.__slots__}
        await self._tools.store.append("partials", json.dumps(fields), PARTS_TTL_S)
        self._partials[partial.key] = partial

    async def _accept_parts(self, partial: _Partial, parts: dict[int, str]) -> None:
        bodies: list[tuple[int, bytes]] = []
        missing = False
        for number in range(1, partial.total + 1):
            if number in parts:
                coding, body = json.loads(parts[number])
                bodies.append((coding, bytes.fromhex(body)))
                missing = False
            elif not missing:
                bodies.append((1, b"[...]"))
                missing = True
        vendor_id = _hash(partial.key + "".join(f"{number}:{parts[number]}" for number in sorted(parts)))
        await self._accept(
            InboundMessage(
                endpoint=self._tools.endpoint,
                vendor_id=vendor_id,
                sender=Address(Channel.SMS, partial.source),
                text=clean_text(join_bodies(bodies)),
                sent_at=self._tools.clock.now(),
                recipient=partial.recipient,
            )
        )
        hashes = {str(number): _hash(value) for number, value in parts.items()}
        await self._tools.store.put(f"done/{partial.key}", json.dumps(hashes), PARTS_TTL_S)
        await self._tools.store.delete(partial.key)
        self._partials.pop(partial.key, None)

    async def _forget_parts(self, key: str) -> None:
        """The sender's reference came round again: another message begins under the same key."""
        await self._tools.store.delete(key)
        await self._tools.store.delete(f"done/{key}")
        self._partials.pop(key, None)

    def _message(self, message: ShortMessage, vendor_id: str, bodies: list[tuple[int, bytes]]) -> InboundMessage:
        octets = encoding_of(message.data_coding) is Encoding.OCTETS
        return InboundMessage(
            endpoint=self._tools.endpoint,
            vendor_id=vendor_id,
            sender=Address(Channel.SMS, self._read_address(message.source_addr_ton, message.source_addr)),
            text=clean_text(join_bodies(bodies)),
            sent_at=self._tools.clock.now(),
            recipient=self._read_address(message.dest_addr_ton, message.destination_addr),
            original=message.user_data if octets else b"",
        )

    async def _take_receipt(self, message: ShortMessage, receipt: DeliveryReceipt) -> Taken:
        # The optional parameter repeats what submit_sm_resp said; only the text comes in another notation.
        vendor_id = (self._read_id if message.receipted_message_id == "" else self._read_own_id)(receipt.message_id)
        reference = message.user_message_reference
        submission = self._tracker.find(vendor_id, reference, message.source_addr)
        if submission is None:
            await self._tracker.wait_for(vendor_id, self._early_s)
            submission = self._tracker.find(vendor_id, reference, message.source_addr)
        if submission is None and reference is not None:
            submission = await self._recall_submission(reference, message.source_addr)
        state, permanent = _STATES[receipt.state]
        if settle_receipt(submission, vendor_id, state):
            await self._accept(
                ReceiptEvent(
                    endpoint=self._tools.endpoint,
                    state=state,
                    at=self._tools.clock.now(),
                    token=submission.token if submission else "",
                    vendor_id=vendor_id,
                    reason=f"{receipt.state.name.lower()} {receipt.error}".strip(),
                    permanent=permanent,
                )
            )
        return Taken()

    async def remember_submission(self, submission: Submission, references: range) -> None:
        """Its outcome is unknown: whoever sees a receipt with one of our numbers can say what came of it."""
        value = json.dumps({"token": submission.token, "to": submission.to, "total": submission.total})
        for reference in references:
            await self._tools.store.put(f"reference/{reference & 0xFFFF}", value, REFERENCE_TTL_S)

    async def _recall_submission(self, reference: int, sender: str) -> Submission | None:
        stored = await self._tools.store.get(f"reference/{reference}")
        submission = Submission(**json.loads(stored)) if stored is not None else None
        return submission if submission is not None and submission.to.lstrip("+") == sender.lstrip("+") else None


def _split(message: ShortMessage) -> tuple[Concatenation | None, bytes]:
    """Which part this is, by its user data header or by SMPP's own parameters (section 5.3.2.22)."""
    if message.has_header:
        try:
            return split_header(message.user_data)
        except UdhError:
            return None, message.user_data  # shown as it came: nothing a customer sent is thrown away
    reference = find_tlv(message.tlvs, Tag.SAR_MSG_REF_NUM)
    total = find_tlv(message.tlvs, Tag.SAR_TOTAL_SEGMENTS)
    part = find_tlv(message.tlvs, Tag.SAR_SEGMENT_SEQNUM)
    if reference and total and part and 1 <= part[-1] <= total[-1]:
        return Concatenation(int.from_bytes(reference, "big"), total[-1], part[-1]), message.user_data
    return None, message.user_data


def _parts_key(message: ShortMessage, concatenation: Concatenation) -> str:
    return f"parts/{message.source_addr}/{message.destination_addr}/{concatenation.reference}/{concatenation.total}"


def _digest(message: ShortMessage, body: bytes) -> str:
    head = f"{message.source_addr}|{message.destination_addr}|{message.data_coding}|{message.esm_class}|"
    return hashlib.sha256(head.encode() + body).hexdigest()[:32]


def _hash(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:32]
