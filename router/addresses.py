"""Addresses as people write them, made into the one form that everything compares."""

import re
from collections.abc import Mapping

import phonenumbers

from channels.messages import Address, Channel
from router.core import Invalid

MAILBOX = re.compile(r"^[^\s@<>\"',;:\\()\[\]\x00-\x1f\x7f]{1,64}@[A-Za-z0-9.-]{1,253}$")
SESSION = re.compile(r"^[A-Za-z0-9_-]{1,64}$")

WHAT_IS_WRONG: Mapping[int, str] = {
    phonenumbers.NumberParseException.INVALID_COUNTRY_CODE: "begins with no country's code",
    phonenumbers.NumberParseException.NOT_A_NUMBER: "is no phone number",
    phonenumbers.NumberParseException.TOO_SHORT_AFTER_IDD: "is too short for a phone number",
    phonenumbers.NumberParseException.TOO_SHORT_NSN: "is too short for a phone number",
    phonenumbers.NumberParseException.TOO_LONG: "is too long for a phone number",
}
"""In our words, for whoever typed it."""


def normalise(address: Address, country: str) -> Address:
    """E.164 for SMS and phone (numbers without a prefix are taken for `country`'s), lower case for mailboxes.

    Raises:
        Invalid: it is no valid number, mailbox or session.
    """
    match address.channel:
        case Channel.SMS | Channel.PHONE:
            return Address(address.channel, _number(address.value, country))
        case Channel.EMAIL:
            value = address.value.strip()
            if not MAILBOX.match(value) or ".." in value or value.endswith("."):
                raise Invalid("bad_mailbox", f"{value[:80]!r} is no mail address.")
            return Address(Channel.EMAIL, value.lower())
        case Channel.CHAT:
            if not SESSION.match(address.value):
                raise Invalid("bad_session", "This is no chat session.")
            return address


def _number(text: str, country: str) -> str:
    try:
        number = phonenumbers.parse(text, country)
    except phonenumbers.NumberParseException as error:
        wrong = WHAT_IS_WRONG.get(error.error_type, "is no phone number")
        raise Invalid("bad_number", f"{text[:40]!r} {wrong}. Write it with its country, as in +12025550123.") from error
    if not phonenumbers.is_possible_number(number):
        raise Invalid("bad_number", f"{text[:40]!r} is no phone number that could exist.")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
