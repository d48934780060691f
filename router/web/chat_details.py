"""Where else a web chat customer may be reached: checked, consented, never proven."""

import hashlib
import json
from dataclasses import dataclass

import phonenumbers
import structlog

from channels.chat.session import OUTBOX_TTL_S
from channels.messages import Address, Channel
from channels.tools import AdapterStore
from channels.wire.mail_address import normalise_mailbox
from health.report import EndpointId
from router.domain.conversation import Binding
from router.switchboard import Invalid, Switchboard
from router.web.chat_frames import Details
from router.web.chat_view import Elsewhere, mask_address

COSTLY = frozenset(
    {
        phonenumbers.PhoneNumberType.PREMIUM_RATE,
        phonenumbers.PhoneNumberType.SHARED_COST,
        phonenumbers.PhoneNumberType.TOLL_FREE,
        phonenumbers.PhoneNumberType.PAGER,
        phonenumbers.PhoneNumberType.UAN,
        phonenumbers.PhoneNumberType.VOICEMAIL,
    }
)
"""Numbers a public form must not make us write to: they cost, or nobody reads there."""
ORDER = {Channel.SMS: 1, Channel.EMAIL: 2}
"""After the chat itself; a text message is seen sooner than a mail."""
LEFT_MAX = 2
"""Unproven addresses of a channel that one customer may leave, for a slip and its correction: whoever could leave
fifty could have fifty strangers written to."""


log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Left:
    """An address that a session left, as much of it as may be shown and compared."""

    channel: Channel
    shown: str
    mark: str

    @classmethod
    def of(cls, session: str, address: Address) -> "_Left":
        mark = hashlib.sha256(f"{session}|{address}".encode()).hexdigest()[:16]
        return cls(address.channel, mask_address(address), mark)


async def leave_details(
    switchboard: Switchboard, store: AdapterStore, endpoint: EndpointId, session: str, details: Details, locale: str
) -> str:
    """Add what the customer left to their bindings; empty, or why it was refused, machine-readable.

    Whoever fills in a form has proven nothing, so they learn nothing: an address that sent STOP, or that is an
    agent's, is answered like any other. The first is kept without consent until START comes from there; the second
    stays the agent's. A binding that is there stays as it is: a form cannot unverify it, nor undo a STOP.

    Raises StoreUnavailable, LocalFault: leave them again.
    """
    if not details.consent:
        return "no_consent"
    try:
        addresses = _addresses(details)
    except ValueError as error:
        return str(error)
    if not all(switchboard.may_be_left(address) for address in addresses):
        return "bad_phone"
    customers = await switchboard.find_customers(Address(Channel.CHAT, session), endpoint)
    if not customers:
        return "say_first"
    customer = customers[0]
    known = {binding.address: binding for binding in customer.bindings}
    if any(one in known and known[one].verified and not known[one].consent for one in addresses):
        return "opted_out"  # they have proven it theirs, so they may know
    earlier = await _read_left(store, session)
    unproven = {_Left.of(session, one.address) for one in customer.bindings if not one.verified} | set(earlier)
    new = [one for one in addresses if one not in known and _Left.of(session, one) not in unproven]
    channels = [one.channel for one in unproven]
    if any(channels.count(address.channel) >= LEFT_MAX for address in new):
        return "enough"
    await switchboard.learn_name(customer.id, details.name)
    for address in new:
        await _bind(switchboard, customer.id, address, locale)
    left = [*earlier, *(_Left.of(session, one) for one in addresses if one not in known or not known[one].verified)]
    rows = [[one.channel.value, one.shown, one.mark] for one in dict.fromkeys(left)]
    await store.put(_key(session), json.dumps(rows), OUTBOX_TTL_S)
    return ""


async def left_by(store: AdapterStore, session: str) -> tuple[Elsewhere, ...]:
    """Where a session asked to be reached, masked, whatever became of it. Raises LocalFault."""
    return tuple(Elsewhere(ORDER[one.channel], one.channel, one.shown) for one in await _read_left(store, session))


async def _bind(switchboard: Switchboard, customer_id: str, address: Address, locale: str) -> None:
    owners = await switchboard.find_customers(address)
    stopped = any(one.address == address and not one.consent for owner in owners for one in owner.bindings)
    binding = Binding(address=address, verified=False, consent=not stopped, order=ORDER[address.channel], locale=locale)
    try:
        await switchboard.set_binding(customer_id, binding)
    except Invalid as refused:
        log.warning("chat.address_not_bound", customer=customer_id, channel=address.channel, reason=refused.reason)


async def _read_left(store: AdapterStore, session: str) -> list[_Left]:
    rows = json.loads(await store.get(_key(session)) or "[]")
    return [_Left(Channel(channel), shown, mark) for channel, shown, mark in rows]


def _key(session: str) -> str:
    return f"left:{session}"


def _addresses(details: Details) -> list[Address]:
    found: list[Address] = []
    if details.phone.strip():
        found.append(Address(Channel.SMS, _mobile(details.phone)))
    if details.email.strip():
        try:
            found.append(Address(Channel.EMAIL, normalise_mailbox(details.email)))
        except ValueError:
            raise ValueError("bad_email") from None
    return found


def _mobile(typed: str) -> str:
    """E.164. Drama numbers (`+44 7700 900...`) are possible but not assigned: they pass, for demonstrations."""
    try:
        number = phonenumbers.parse(typed, None)
    except phonenumbers.NumberParseException:
        raise ValueError("bad_phone") from None
    if not phonenumbers.is_possible_number(number) or phonenumbers.number_type(number) in COSTLY:
        raise ValueError("bad_phone")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
