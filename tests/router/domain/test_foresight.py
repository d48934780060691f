"""Where the next message would go: what the plan of a failover says of it, and nothing else."""

import pytest

from channels.messages import Channel
from health.report import EndpointId, Status
from router.domain.conversation import MessageClass, SideName
from router.domain.failover import NOWHERE, AffectedSide, ForcedFailover, Limits, plan_failover
from router.domain.foresight import foresee
from router.domain.reasons import Cause, Reason

MAIL, SMS, PHONE = map(EndpointId, ("email/one", "sms/one", "phone/one"))


@pytest.fixture
def side(request_for, leg):
    """Makes an idle customer's side at `email/one`."""

    def make(at=MAIL, message_class=MessageClass.NORMAL, **given):
        request = request_for(conversation_id="v0-A", current=leg(at) if at else None, message_class=message_class)
        return AffectedSide(SideName.CUSTOMER, 3, request, **given)

    return make


@pytest.fixture
def outage(endpoint):
    """Mail is down; SMS and phone work."""
    down = endpoint(MAIL, status_out=Status.DOWN, gate_open=False)
    return [down, endpoint(SMS, rate_per_s=10.0), endpoint(PHONE, rate_per_s=1.0)]


def told(found):
    return found.endpoint, found.reason, found.waits_until


def test_where_it_is_while_that_works(side, endpoint, now):
    found = foresee(side(), [endpoint(MAIL), endpoint(SMS)], now, Limits())
    assert told(found) == (MAIL, Reason.CURRENT_LEG, 0.0)
    assert found.address.channel is Channel.EMAIL


def test_elsewhere_when_it_is_down_although_an_idle_side_would_not_be_moved(side, outage, now):
    assert plan_failover([side()], outage, {}, now, Limits()).moves == ()
    found = foresee(side(), outage, now, Limits())
    assert told(found) == (SMS, Reason.PREFERRED, 0.0)
    assert {one.endpoint: one.reason for one in found.route.choices}[MAIL] is Reason.STATUS_DOWN


def test_later_when_it_moved_lately_or_is_bulk(side, outage, now):
    assert told(foresee(side(moved_at=now - 20), outage, now, Limits())) == (SMS, Cause.MOVED_LATELY, now + 40)
    bulk = side(message_class=MessageClass.BULK)
    assert told(foresee(bulk, outage, now, Limits())) == (SMS, Cause.BULK_WAITS, now + 300)


def test_nowhere_without_a_way(side, endpoint, now):
    dark = [endpoint(one, status_out=Status.DOWN) for one in (MAIL, SMS, PHONE)]
    found = foresee(side(), dark, now, Limits())
    assert (told(found), found.address) == ((NOWHERE, Cause.NO_ROUTE, now + 30), None)


def test_a_side_that_is_nowhere_goes_where_there_is_a_way_again(side, outage, now):
    assert foresee(side(at=None), outage, now, Limits()).endpoint == SMS


def test_frozen_it_goes_on_where_it_works_and_waits_where_it_does_not(side, outage, endpoint, now):
    assert told(foresee(side(), outage, now, Limits(), frozen=True)) == (NOWHERE, Cause.FROZEN, 0.0)
    assert told(foresee(side(moved_at=now - 20), outage, now, Limits(), frozen=True)) == (NOWHERE, Cause.FROZEN, 0.0)
    assert foresee(side(), [endpoint(MAIL)], now, Limits(), frozen=True).endpoint == MAIL


def test_a_forced_failover_says_where_to(side, endpoint, now):
    forced = ForcedFailover("f0-1", frozenset({MAIL}), PHONE, "ops", "a drill", now - 1, now + 600)
    found = foresee(
        side(moved_at=now - 20), [endpoint(MAIL), endpoint(SMS), endpoint(PHONE)], now, Limits(), forced=forced
    )
    assert told(found) == (PHONE, Reason.FORCED_TARGET, 0.0)
