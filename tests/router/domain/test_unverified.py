"""Numbers that nobody has verified: by country, and by the hour's room; everything else goes on."""

import pytest

from channels.messages import Address, Channel
from router.domain.conversation import Binding
from router.domain.reasons import Reason
from router.domain.unverified import ANYTHING, Unverified, against_unverified, country_of

HOME = Unverified(countries=frozenset({"US", "GB", "DE"}))
SPENT = Unverified(countries=frozenset({"US"}), spent=True)


@pytest.mark.parametrize(
    ("number", "country"),
    [
        ("+12025550100", "US"),
        ("+18762345678", "JM"),  # the same code as the United States, and a price of its own
        ("+15550100000", ""),  # nobody's: behind a code that many countries share nothing is taken on trust
        ("+447700900123", "GB"),  # Ofcom's numbers for drama are assigned to nobody
        ("+4915112345678", "DE"),
        ("+881612345678", ""),  # a satellite
        ("+999123456789", ""),
        ("rubbish", ""),
    ],
)
def test_a_number_has_its_country(number: str, country: str) -> None:
    assert country_of(number) == country


@pytest.mark.parametrize(
    ("limits", "address", "given", "reason"),
    [
        pytest.param(ANYTHING, "sms:+18762345678", {}, None, id="no limits"),
        pytest.param(HOME, "sms:+12025550100", {}, None, id="at home"),
        pytest.param(HOME, "sms:+18762345678", {}, Reason.COUNTRY_NOT_ALLOWED, id="abroad"),
        pytest.param(HOME, "phone:+18762345678", {}, Reason.COUNTRY_NOT_ALLOWED, id="a call abroad"),
        pytest.param(HOME, "sms:+18762345678", {"verified": True}, None, id="abroad, and verified"),
        pytest.param(HOME, "email:ann@example.org", {}, None, id="a mailbox"),
        pytest.param(SPENT, "sms:+12025550100", {}, Reason.UNVERIFIED_LIMIT, id="the hour is spent"),
        pytest.param(SPENT, "sms:+12025550100", {"here": True}, None, id="spent, and here already"),
        pytest.param(SPENT, "sms:+12025550100", {"verified": True}, None, id="spent, and verified"),
        pytest.param(SPENT, "email:ann@example.org", {}, None, id="spent, and a mailbox"),
    ],
)
def test_what_speaks_against_a_number(
    limits: Unverified, address: str, given: dict[str, bool], reason: Reason | None
) -> None:
    channel, _, value = address.partition(":")
    binding = Binding(Address(Channel(channel), value), verified=given.get("verified", False))
    assert against_unverified(limits, binding, here=given.get("here", False)) is reason
