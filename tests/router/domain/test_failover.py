"""Failover and failback: who moves where, who waits until when, who stays."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.messages import Channel
from health.report import EndpointId, Status
from router.domain.conversation import MessageClass, SideName
from router.domain.failover import (
    AffectedSide,
    ForcedFailover,
    Limits,
    plan_failback,
    plan_failover,
    preview,
    with_forced,
)
from router.domain.pacing import learn_rate, refill, spare_rate
from router.domain.reasons import CAUSE_WORDS, Cause, Reason
from router.domain.routing import Wish

HOME = EndpointId("email/one")
SMS = EndpointId("sms/one")
PHONE = EndpointId("phone/one")


@pytest.fixture
def side(request_for, leg, now):
    """Make a customer's side at `email/one` with one pending message."""

    def make(name="v0-A", at="email/one", **given):
        request = request_for(conversation_id=name, current=leg(at))
        request = replace(request, message_class=given.pop("message_class", MessageClass.NORMAL))
        request = replace(request, wish=given.pop("wish", None))
        return AffectedSide(
            **{
                "name": SideName.CUSTOMER,
                "epoch": 3,
                "request": request,
                "pending": 1,
                "oldest_pending_at": now - 60,
                "home": HOME,
                **given,
            }
        )

    return make


@pytest.fixture
def outage(endpoint):
    """Mail is down; SMS and phone work."""
    return [
        endpoint("email/one", status_out=Status.DOWN, gate_open=False),
        endpoint("sms/one", price="0.05", rate_per_s=10.0),
        endpoint("phone/one", price="0.20", rate_per_s=1.0),
    ]


def test_every_cause_has_a_sentence():
    assert set(CAUSE_WORDS) == set(Cause)


def test_the_urgent_move_first_then_who_waits_for_us_then_the_open_then_who_waits_longest(side, outage, now):
    sides = [
        side("v0-4", oldest_pending_at=now - 5),
        side("v0-5", oldest_pending_at=now - 500),
        side("v0-2", waiting_since=now - 10),
        side("v0-3", waiting_since=now - 900, pending=0, oldest_pending_at=0.0),
        side("v0-9", message_class=MessageClass.URGENT, oldest_pending_at=now - 1),
    ]
    plan = plan_failover(sides, outage, {}, now, Limits())
    assert [move.conversation_id for move in plan.moves] == [
        "v0-9",
        "v0-3",
        "v0-2",
        "v0-5",
        "v0-4",
    ]
    first = plan.moves[0]
    assert (first.leg.endpoint, first.leg.reason, first.leg.since, first.epoch) == (SMS, "failover", now, 3)


def test_idle_sides_stay_unless_asked(side, outage, now):
    idle = side(pending=0, oldest_pending_at=0.0)
    assert plan_failover([idle], outage, {}, now, Limits()).stayed[0].cause is Cause.IDLE
    assert len(plan_failover([idle], outage, {}, now, Limits(move_idle=True)).moves) == 1


def test_a_side_whose_leg_works_stays(side, endpoint, now):
    plan = plan_failover([side()], [endpoint("email/one"), endpoint("sms/one")], {}, now, Limits())
    assert plan.stayed[0].cause is Cause.WORKS_HERE
    assert plan.moves == ()


def test_who_moved_within_a_minute_waits_until_a_named_time(side, outage, now):
    lately = side(moved_at=now - 20)
    (waiting,) = plan_failover([lately], outage, {}, now, Limits()).parked
    assert (waiting.cause, waiting.until) == (Cause.MOVED_LATELY, now + 40)
    assert len(plan_failover([lately], outage, {}, now + 40, Limits()).moves) == 1


def test_over_its_tokens_a_target_gives_way_to_the_next_then_sides_are_parked_with_a_rising_time(side, outage, now):
    sides = [side(f"v0-{number}", oldest_pending_at=now - 100 + number) for number in range(6)]
    plan = plan_failover(sides, outage, {SMS: 4.0, PHONE: 2.0}, now, Limits())
    assert [move.leg.endpoint for move in plan.moves] == [SMS, SMS, PHONE]
    assert plan.spent == {SMS: 4.0, PHONE: 2.0}
    assert [one.cause for one in plan.parked] == [Cause.PACED] * 3
    times = [one.until for one in plan.parked]
    assert times == sorted(times)
    assert all(now < time <= now + 3600 for time in times)
    assert all(one.route.best.endpoint == SMS for one in plan.parked)


def test_a_parked_time_follows_the_rate_of_the_target(side, endpoint, now):
    slow = [endpoint("email/one", status_out=Status.DOWN), endpoint("sms/one", rate_per_s=0.5)]
    sides = [side(f"v0-{number}") for number in range(3)]
    parked = plan_failover(sides, slow, {SMS: 0.0}, now, Limits()).parked
    assert [one.until - now for one in parked] == [2.0, 6.0, 10.0]


def test_bulk_is_parked_rather_than_spending_room(side, outage, now):
    plan = plan_failover([side(message_class=MessageClass.BULK)], outage, {SMS: 100.0}, now, Limits())
    assert (plan.parked[0].cause, plan.parked[0].until) == (Cause.BULK_WAITS, now + 300)
    assert plan.spent == {}


def test_without_any_route_a_side_is_parked_with_every_rejection(side, outage, now):
    nothing = [replace(view, status_out=Status.DOWN) for view in outage]
    (parked,) = plan_failover([side()], nothing, {}, now, Limits()).parked
    assert (parked.cause, parked.until) == (Cause.NO_ROUTE, now + 30)
    assert {choice.reason for choice in parked.route.choices} == {Reason.STATUS_DOWN}


def test_a_one_time_code_stays_parked_although_other_channels_work(side, outage, now):
    plan = plan_failover([side(message_class=MessageClass.SECRET)], outage, {}, now, Limits())
    assert plan.parked[0].cause is Cause.NO_ROUTE


def test_a_forced_failover_moves_to_its_target_even_those_who_moved_lately(side, endpoint, now):
    healthy = [endpoint("email/one"), endpoint("sms/one"), endpoint("phone/one", status_out=Status.DOWN)]
    forced = ForcedFailover("f1", frozenset({HOME}), PHONE, "ops", "maintenance", now, now + 600)
    plan = plan_failover([side(moved_at=now - 1)], healthy, {}, now, Limits(), forced=forced)
    assert (plan.moves[0].leg.endpoint, plan.moves[0].leg.reason) == (PHONE, "forced")
    anywhere = replace(forced, target=None)
    assert plan_failover([side()], healthy, {}, now, Limits(), forced=anywhere).moves[0].leg.endpoint == SMS


def test_a_forced_failover_ends_by_itself_or_when_somebody_ends_it(now):
    forced = ForcedFailover("f1", frozenset({HOME}), None, "ops", "drill", now, now + 600)
    assert [forced.active(now + at) for at in (-1, 0, 599, 600)] == [False, True, True, False]
    assert not replace(forced, ended_at=now + 10).active(now + 10)
    assert replace(forced, ended_at=now + 10).active(now + 9)


def test_active_forced_failovers_are_seen_on_the_endpoints_and_down_wins(endpoint, now):
    views = [endpoint("email/one"), endpoint("sms/one"), endpoint("phone/one")]
    one = ForcedFailover("f1", frozenset({HOME}), SMS, "ops", "", now, now + 60)
    two = ForcedFailover("f2", frozenset({SMS}), PHONE, "ops", "", now, now + 60)
    over = ForcedFailover("f3", frozenset({PHONE}), None, "ops", "", now - 60, now)
    assert [view.forced for view in with_forced(views, [one, two, over], now)] == ["down", "down", "up"]


def test_the_preview_counts_and_prices_what_would_happen(side, outage, now):
    sides = [side("v0-a", pending=3), side("v0-b"), side("v0-c", message_class=MessageClass.BULK)]
    sides.append(side("v0-d", pending=0, oldest_pending_at=0.0))
    seen = preview(plan_failover(sides, outage, {}, now, Limits()))
    assert seen.moved == {SMS: 2}
    assert seen.parked == {Cause.BULK_WAITS: 1}
    assert seen.stayed == {Cause.IDLE: 1}
    assert seen.messages == 6
    assert seen.cost == Decimal("0.30")
    assert seen.parked_until == now + 300


@pytest.fixture
def away(side, now):
    """Make a quiet side that moved from mail to SMS an hour ago."""

    def make(**given):
        quiet = {"pending": 0, "oldest_pending_at": 0.0, "last_inbound_at": now - 3600, "moved_at": now - 3600}
        return side(at="sms/one", **{**quiet, **given})

    return make


@pytest.fixture
def healthy(endpoint):
    """Everything is up."""
    return [endpoint("email/one"), endpoint("sms/one")]


def test_a_quiet_conversation_goes_home_once_home_is_up(away, healthy, now):
    (move,) = plan_failback([away()], healthy, {}, now, Limits()).moves
    assert (move.leg.endpoint, move.leg.reason, move.epoch) == (HOME, "failback", 3)


@pytest.mark.parametrize(
    ("given_side", "given_home", "cause"),
    [
        ({"pending": 1}, {}, Cause.MID_TURN),
        ({"busy": True}, {}, Cause.MID_TURN),
        ({"waiting_since": 1_699_999_000.0}, {}, Cause.MID_TURN),
        ({"last_inbound_at": 1_699_999_500.0}, {}, Cause.JUST_WROTE),
        ({"moved_at": 1_699_999_990.0}, {}, Cause.MOVED_LATELY),
        ({"recent_returns": (1_699_997_000.0, 1_699_998_000.0, 1_699_999_000.0)}, {}, Cause.RETURNED_OFTEN),
        ({"home": EndpointId("email/gone")}, {}, Cause.AT_HOME),
        ({"home": SMS}, {}, Cause.AT_HOME),
        ({}, {"status_in": Status.RECOVERING}, Cause.HOME_NOT_READY),
        ({}, {"status_out": Status.SUSPECT}, Cause.HOME_NOT_READY),
        ({}, {"gate_open": False}, Cause.HOME_NOT_READY),
        ({}, {"forced": "down"}, Cause.HOME_NOT_READY),
        ({}, {"replyable": False}, Cause.HOME_NOT_READY),
    ],
)
def test_a_conversation_stays_away_and_says_why(away, endpoint, now, given_side, given_home, cause):
    endpoints = [endpoint("email/one", **given_home), endpoint("sms/one")]
    plan = plan_failback([away(**given_side)], endpoints, {}, now, Limits())
    assert plan.moves == ()
    assert plan.stayed[0].cause is cause


def test_a_conversation_that_returned_often_may_again_when_an_hour_has_passed(away, healthy, now):
    side = away(recent_returns=(now - 3000, now - 2000, now - 1000))
    (stayed,) = plan_failback([side], healthy, {}, now, Limits()).stayed
    assert stayed.until == now + 600
    assert len(plan_failback([side], healthy, {}, stayed.until, Limits()).moves) == 1


def test_a_customer_who_writes_elsewhere_pins_the_conversation(away, healthy, binding, now):
    pinned = away(wish=Wish(SMS, binding("sms").address))
    assert plan_failback([pinned], healthy, {}, now, Limits()).stayed[0].cause is Cause.PINNED
    at_home = away(wish=Wish(HOME, binding("email").address))
    assert len(plan_failback([at_home], healthy, {}, now, Limits()).moves) == 1


def test_nobody_goes_home_to_an_endpoint_that_flapped(away, healthy, now):
    plan = plan_failback([away()], healthy, {}, now, Limits(), suppressed={HOME})
    assert plan.stayed[0].cause is Cause.FAILBACK_SUPPRESSED


def test_going_home_is_paced_too_whoever_is_quiet_longest_first(away, side, healthy, now):
    sides = [away(last_inbound_at=now - 1000), away(last_inbound_at=now - 5000, epoch=9)]
    plan = plan_failback(sides, healthy, {HOME: 1.0}, now, Limits())
    assert [move.epoch for move in plan.moves] == [9]
    assert plan.stayed[0].cause is Cause.PACED
    assert plan.stayed[0].until > now


@given(
    st.lists(st.tuples(st.sampled_from(MessageClass), st.integers(0, 5), st.booleans(), st.booleans()), max_size=20),
    st.floats(0, 10),
    st.floats(0, 10),
)
def test_every_side_moves_waits_or_stays_and_tokens_are_never_overdrawn_by_more_than_one_side(kinds, sms, phone):
    from channels.contract import Capabilities
    from channels.messages import Address
    from router.domain.conversation import Binding, Leg
    from router.domain.routing import EndpointView, RouteRequest

    now = 1_700_000_000.0
    views = [
        EndpointView(name, Capabilities(Channel(name.partition("/")[0]), "test", 1600, 5.0), status_out=status)
        for name, status in ((HOME, Status.DOWN), (SMS, Status.UP), (PHONE, Status.UP))
    ]
    mail, phone_address = Address(Channel.EMAIL, "ana@example.com"), Address(Channel.PHONE, "+15550100")
    bindings = (Binding(mail), Binding(Address(Channel.SMS, "+15550100")), Binding(phone_address))
    sides = [
        AffectedSide(
            name=SideName.CUSTOMER,
            epoch=1,
            request=RouteRequest(f"v0-{n}", bindings, now, kind, current=Leg(HOME, mail, now, "opened")),
            pending=pending,
            oldest_pending_at=now - 9 if pending else 0.0,
            waiting_since=now - 99 if waits else 0.0,
            moved_at=now - 30 if lately else 0.0,
        )
        for n, (kind, pending, waits, lately) in enumerate(kinds)
    ]
    budgets = {SMS: sms, PHONE: phone}
    plan = plan_failover(sides, views, budgets, now, Limits())
    assert len(plan.moves) + len(plan.parked) + len(plan.stayed) == len(sides)
    assert all(one.until > now for one in plan.parked)
    for target, tokens in budgets.items():
        moved = [move.messages for move in plan.moves if move.leg.endpoint == target]
        assert plan.spent.get(target, 0) == sum(moved)
        assert not moved or tokens - sum(moved[:-1]) >= 1
    assert plan == plan_failover(sides[::-1], views, budgets, now, Limits())


def test_a_bucket_fills_at_its_rate_to_its_burst_and_never_by_a_clock_that_runs_back():
    assert refill(1.0, 2.0, 10.0, 3.0) == 7.0
    assert refill(9.0, 2.0, 10.0, 3.0) == 10.0
    assert refill(-5.0, 2.0, 10.0, 1.0) == -3.0
    assert refill(4.0, 2.0, 10.0, -60.0) == 4.0


def test_a_rate_falls_by_three_tenths_when_throttled_and_is_back_after_half_a_minute():
    fallen = learn_rate(10.0, 10.0, throttled=True, elapsed=0.0)
    assert fallen == pytest.approx(7.0)
    assert learn_rate(fallen, 10.0, throttled=False, elapsed=1.0) == pytest.approx(7.1)
    assert learn_rate(fallen, 10.0, throttled=False, elapsed=30.0) == pytest.approx(10.0)
    assert learn_rate(fallen, 10.0, throttled=False, elapsed=900.0) == 10.0
    rate = 10.0
    for _ in range(50):
        rate = learn_rate(rate, 10.0, throttled=True, elapsed=0.0)
    assert rate == pytest.approx(0.5)


def test_moved_conversations_get_what_own_traffic_and_the_urgent_leave():
    assert spare_rate(10.0, 3.0) == pytest.approx(5.0)
    assert spare_rate(10.0, 9.0) == 0.0
