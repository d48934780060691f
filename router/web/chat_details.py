"""Where else a web chat customer may be reached: checked, consented, never proven."""

import phonenumbers

from channels.messages import Address, Channel
from channels.wire.mail_address import normalise_mailbox
from health.report import EndpointId
from router.domain.conversation import Binding
from router.switchboard import Switchboard
from router.web.chat_frames import Details

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


async def leave_details(
    switchboard: Switchboard, endpoint: EndpointId, session: str, details: Details, locale: str
) -> str:
    """Add what the customer left to their bindings; empty, or why it was refused, machine-readable.

    All or nothing. A binding that is there stays as it is: a form cannot unverify it, nor undo a STOP.
    Raises StoreUnavailable.
    """
    if not details.consent:
        return "no_consent"
    try:
        addresses = _addresses(details)
    except ValueError as error:
        return str(error)
    customers = await switchboard.find_customers(Address(Channel.CHAT, session), endpoint)
    if not customers:
        return "say_first"
    customer = customers[0]
    for address in addresses:
        for owner in await switchboard.find_customers(address):
            if any(binding.address == address and not binding.consent for binding in owner.bindings):
                return "opted_out"
    known = {binding.address for binding in customer.bindings}
    new = [address for address in addresses if address not in known]
    unproven = [binding.address.channel for binding in customer.bindings if not binding.verified]
    if any(unproven.count(address.channel) >= LEFT_MAX for address in new):
        return "enough"
    for address in new:
        binding = Binding(address=address, verified=False, consent=True, order=ORDER[address.channel], locale=locale)
        await switchboard.set_binding(customer.id, binding)
    return ""


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
