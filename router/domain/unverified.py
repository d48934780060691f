"""Numbers that nobody has verified: in which countries we write to them, and whether the hour has room for more."""

from dataclasses import dataclass
from functools import lru_cache

import phonenumbers

from channels.messages import Address, Channel
from router.domain.conversation import Binding
from router.domain.reasons import Reason

NUMBERED = frozenset({Channel.SMS, Channel.PHONE})
SHARED_BY_MANY = 1
"""The country code of North America and the Caribbean: no digit behind it may be taken on trust."""


@dataclass(frozen=True, slots=True)
class Unverified:
    """What holds for them now."""

    countries: frozenset[str] | None = None
    """ISO 3166 codes; None: every country."""
    spent: bool = False
    """This hour's numbers are used up: none is begun with before the next."""


ANYTHING = Unverified()


def against_unverified(limits: Unverified, binding: Binding, *, here: bool) -> Reason | None:
    """What speaks against writing to this binding; None for verified ones and whatever is no number.

    `here`: the conversation is there already, so it takes nothing of the hour.
    """
    if binding.verified or binding.address.channel not in NUMBERED:
        return None
    if not in_countries(limits, binding.address):
        return Reason.COUNTRY_NOT_ALLOWED
    return Reason.UNVERIFIED_LIMIT if limits.spent and not here else None


def in_countries(limits: Unverified, address: Address) -> bool:
    """Whether a number is of a country that may be written to unverified; True for what is no number."""
    if limits.countries is None or address.channel not in NUMBERED:
        return True
    return country_of(address.value) in limits.countries


@lru_cache(maxsize=10_000)
def country_of(number: str) -> str:
    """The country of a number in E.164, or ''. One that is not assigned counts as its code's main country."""
    try:
        parsed = phonenumbers.parse(number, None)
    except phonenumbers.NumberParseException:
        return ""
    region = phonenumbers.region_code_for_number(parsed)
    if region is None and parsed.country_code != SHARED_BY_MANY and parsed.country_code is not None:
        region = phonenumbers.region_code_for_country_code(parsed.country_code)
    return "" if region in {None, "ZZ", "001"} else str(region)
