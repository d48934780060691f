"""Routes: which endpoint is taken, which rejected, and why."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.contract import Capabilities
from channels.messages import Address, Channel
from health.report import EndpointId, Status
from router.domain.conversation import Binding, Leg, MessageClass
from router.domain.reasons import TAKEN, WORDS, Reason
from router.domain.routing import EndpointView, Policy, RouteRequest, Wish, choose_route, takes_share

NOW = 1_700_000_000.0


def reason_at(route, endpoint):
    """The one reason given for an endpoint."""
    (choice,) = [choice for choice in route.choices if choice.endpoint == endpoint]
    return choice.reason


def test_every_reason_has_a_sentence():
    assert set(WORDS) == set(Reason)
    assert all(sentence.endswith(".") for sentence in WORDS.values())


def test_another_endpoint_of_the_same_channel_comes_before_another_channel(endpoint, request_for, leg):
    endpoints = [endpoint("email/one", status_out=Status.DOWN), endpoint("email/two"), endpoint("sms/one")]
    route = choose_route(request_for(current=leg("email/one")), endpoints)
    assert [choice.endpoint for choice in route.taken] == ["email/two", "sms/one"]
    assert reason_at(route, "email/two") is Reason.SAME_CHANNEL
    assert reason_at(route, "email/one") is Reason.STATUS_DOWN


def test_the_address_they_use_comes_before_another_on_the_same_channel(endpoint, request_for, leg, binding):
    bindings = (binding("sms", "+15550199", order=0), binding("sms", order=1))
    endpoints = [endpoint("sms/one", status_out=Status.DOWN), endpoint("sms/two")]
    route = choose_route(request_for(bindings=bindings, current=leg("sms/one")), endpoints)
    assert [choice.address for choice in route.taken] == [bindings[1].address, bindings[0].address]


def test_a_new_conversation_begins_where_the_person_prefers(endpoint, request_for):
    route = choose_route(request_for(new=True), [endpoint("sms/one"), endpoint("email/one"), endpoint("phone/one")])
    assert [choice.endpoint for choice in route.taken] == ["email/one", "sms/one", "phone/one"]
    assert [choice.reason for choice in route.taken] == [Reason.PREFERRED, Reason.OTHER_CHANNEL, Reason.OTHER_CHANNEL]


def test_where_the_person_last_wrote_comes_first_when_healthy(endpoint, request_for, leg, binding):
    wish = Wish(EndpointId("sms/one"), binding("sms").address)
    asked = request_for(current=leg("email/one"), wish=wish)
    route = choose_route(asked, [endpoint("email/one"), endpoint("sms/one")])
    assert route.best.endpoint == "sms/one"
    assert route.best.reason is Reason.WISH
    suspected = choose_route(asked, [endpoint("email/one"), endpoint("sms/one", status_in=Status.SUSPECT)])
    assert suspected.best.endpoint == "email/one"


def test_a_suspicion_moves_nobody_but_nobody_moves_into_it(endpoint, request_for, leg):
    suspect = endpoint("email/one", status_out=Status.SUSPECT)
    stays = choose_route(request_for(current=leg("email/one")), [suspect, endpoint("sms/one")])
    assert stays.best.endpoint == "email/one"
    new = choose_route(request_for(), [suspect, endpoint("sms/one")])
    assert [choice.reason for choice in new.taken] == [Reason.PREFERRED, Reason.SUSPECT]
    only = choose_route(request_for(), [suspect])
    assert only.best.reason is Reason.LAST_WORKING_PATH


def test_unknown_is_as_good_as_up(endpoint, request_for):
    unknown = endpoint("email/one", status_out=Status.UNKNOWN, status_in=Status.UNKNOWN)
    assert choose_route(request_for(), [unknown, endpoint("sms/one")]).best.endpoint == "email/one"


@pytest.mark.parametrize(
    ("of_endpoint", "of_request", "reason"),
    [
        ({"status_out": Status.DOWN}, {}, Reason.STATUS_DOWN),
        ({"status_in": Status.DOWN}, {}, Reason.INBOUND_DOWN),
        ({"gate_open": False}, {}, Reason.GATE_CLOSED),
        ({"gate_open": False, "forced": "up"}, {}, Reason.GATE_CLOSED),
        ({"forced": "down"}, {}, Reason.FORCED_DOWN),
        ({"replyable": False}, {}, Reason.NOT_REPLYABLE),
        ({"text_max": 10}, {"text_length": 11}, Reason.TEXT_TOO_LONG),
        ({}, {"files_bytes": 1, "files_must_go": True}, Reason.FILES_NOT_CARRIED),
        ({}, {"policy": Policy(forbidden={MessageClass.NORMAL: frozenset({Channel.SMS})})}, Reason.CLASS_FORBIDS),
        ({}, {"message_class": MessageClass.SECRET}, Reason.CLASS_FORBIDS),
        ({}, {"message_class": MessageClass.SECRET, "own_channel": Channel.EMAIL}, Reason.CLASS_FORBIDS),
    ],
)
def test_an_endpoint_is_rejected_with_its_reason(endpoint, request_for, of_endpoint, of_request, reason):
    route = choose_route(request_for(**of_request), [endpoint("sms/one", **of_endpoint)])
    assert route.best is None
    assert reason_at(route, "sms/one") is reason


@pytest.mark.parametrize(
    ("of_binding", "reason"),
    [
        ({"consent": False}, Reason.NO_CONSENT),
        ({"endpoint": EndpointId("sms/two")}, Reason.BOUND_ELSEWHERE),
        ({"unreachable_until": NOW + 1}, Reason.ADDRESS_UNREACHABLE),
        ({"verified": False}, Reason.NOT_VERIFIED),
    ],
)
def test_an_address_is_rejected_with_its_reason(endpoint, request_for, binding, of_binding, reason):
    policy = Policy(verified_only=frozenset({MessageClass.NORMAL}))
    asked = request_for(bindings=(binding("sms", **of_binding),), policy=policy)
    assert reason_at(choose_route(asked, [endpoint("sms/one")]), "sms/one") is reason


def test_a_refused_attempt_excludes_only_its_own_address(endpoint, request_for, binding):
    bindings = (binding("sms"), binding("sms", "+15550199"))
    excluded = frozenset({(EndpointId("sms/one"), bindings[0].address)})
    route = choose_route(request_for(bindings=bindings, excluded=excluded), [endpoint("sms/one")])
    assert route.best.address == bindings[1].address
    assert route.choices[1].reason is Reason.EXCLUDED_BY_ATTEMPT


def test_an_endpoint_on_a_channel_without_address_gets_one_reason(endpoint, request_for):
    route = choose_route(request_for(), [endpoint("chat/one")])
    assert reason_at(route, "chat/one") is Reason.NO_BINDING
    assert route.choices[0].address is None


def test_a_secret_may_change_its_endpoint_never_its_channel(endpoint, request_for, leg):
    asked = request_for(message_class=MessageClass.SECRET, current=leg("sms/one"))
    endpoints = [endpoint("sms/one", status_out=Status.DOWN), endpoint("sms/two"), endpoint("email/one")]
    assert [choice.endpoint for choice in choose_route(asked, endpoints).taken] == ["sms/two"]


def test_a_notice_alone_may_use_a_one_way_endpoint_and_one_whose_inbound_is_down(endpoint, request_for):
    endpoints = [endpoint("sms/one", replyable=False), endpoint("email/one", status_in=Status.DOWN)]
    assert choose_route(request_for(), endpoints).best is None
    assert len(choose_route(request_for(notice_only=True), endpoints).taken) == 2


def test_unverified_addresses_come_last(endpoint, request_for, binding):
    bindings = (binding("email", verified=False, order=0), binding("sms", order=1))
    route = choose_route(request_for(bindings=bindings), [endpoint("email/one"), endpoint("sms/one")])
    assert [(choice.endpoint, choice.reason) for choice in route.taken] == [
        ("sms/one", Reason.PREFERRED),
        ("email/one", Reason.UNVERIFIED),
    ]


def test_files_prefer_an_endpoint_that_carries_them(endpoint, request_for):
    endpoints = [endpoint("sms/one"), endpoint("email/one", status_out=Status.DOWN), endpoint("chat/one")]
    asked = request_for(files_bytes=10)
    assert choose_route(asked, endpoints).best.endpoint == "sms/one"
    carrying = endpoint("phone/one", files_max_bytes=100)
    assert choose_route(asked, [*endpoints, carrying]).best.endpoint == "phone/one"


def test_price_then_room_decide_between_equals(endpoint, request_for, binding):
    asked = request_for(bindings=(binding("sms"),))
    dear, cheap = endpoint("sms/a", price="0.08"), endpoint("sms/b", price="0.05")
    assert choose_route(asked, [dear, cheap]).best.endpoint == "sms/b"
    full, free = endpoint("sms/a", room=1.0), endpoint("sms/b", room=5.0)
    assert choose_route(asked, [full, free]).best.endpoint == "sms/b"


def test_a_full_endpoint_is_left_out_unless_it_is_the_last_or_the_present_one(endpoint, request_for, leg):
    full = endpoint("email/one", room=0.0)
    route = choose_route(request_for(), [full, endpoint("sms/one")])
    assert reason_at(route, "email/one") is Reason.NO_ROOM
    assert choose_route(request_for(), [full]).best.reason is Reason.LAST_WORKING_PATH
    assert choose_route(request_for(current=leg("email/one")), [full]).best.reason is Reason.CURRENT_LEG


def test_a_recovering_endpoint_takes_its_share_of_new_conversations_and_the_same_ones_again(endpoint, request_for):
    recovering = endpoint("email/one", status_out=Status.RECOVERING, share=0.3)
    endpoints = [recovering, endpoint("sms/one")]
    asked = [request_for(conversation_id=f"v0-{number}", new=True) for number in range(1000)]
    first = [choose_route(one, endpoints).best.endpoint for one in asked]
    assert 250 < first.count("email/one") < 350
    assert first == [choose_route(one, endpoints).best.endpoint for one in asked]
    more = [choose_route(one, [replace(recovering, share=0.6), endpoint("sms/one")]).best.endpoint for one in asked]
    assert all(later == "email/one" for early, later in zip(first, more, strict=True) if early == "email/one")


def test_a_recovering_endpoint_is_used_when_it_is_the_last_working_path(endpoint, request_for):
    recovering = endpoint("email/one", status_out=Status.RECOVERING, share=0.0)
    route = choose_route(request_for(new=True), [recovering, endpoint("sms/one", status_out=Status.DOWN)])
    assert route.best.reason is Reason.LAST_WORKING_PATH
    other = choose_route(request_for(new=True), [recovering, endpoint("sms/one")])
    assert reason_at(other, "email/one") is Reason.RECOVERING_SHARE


def test_nobody_fails_over_to_a_recovering_endpoint_before_those_that_are_up(endpoint, request_for, leg):
    recovering = endpoint("email/two", status_out=Status.RECOVERING)
    down = endpoint("email/one", status_out=Status.DOWN)
    route = choose_route(request_for(current=leg("email/one")), [down, recovering, endpoint("sms/one")])
    assert [choice.endpoint for choice in route.taken] == ["sms/one", "email/two"]


def test_who_writes_to_a_recovering_endpoint_is_answered_there(endpoint, request_for, leg, binding):
    recovering = endpoint("email/one", status_out=Status.RECOVERING, status_in=Status.RECOVERING)
    wish = Wish(EndpointId("email/one"), binding("email").address)
    route = choose_route(request_for(current=leg("sms/one"), wish=wish), [recovering, endpoint("sms/one")])
    assert (route.best.endpoint, route.best.reason) == ("email/one", Reason.WISH)


def test_a_forced_failover_overrides_health_both_ways_but_not_consent(endpoint, request_for, leg, binding):
    endpoints = [endpoint("email/one", forced="down"), endpoint("sms/one", status_out=Status.DOWN, forced="up")]
    asked = request_for(current=leg("email/one"), target=EndpointId("sms/one"))
    assert choose_route(asked, endpoints).best.reason is Reason.FORCED_TARGET
    refused = replace(asked, bindings=(binding("email"), binding("sms", consent=False)))
    assert choose_route(refused, endpoints).best is None


def test_a_share_of_nothing_takes_nobody_and_all_takes_everybody():
    ids = [f"v0-{number}" for number in range(200)]
    assert not any(takes_share(one, EndpointId("sms/one"), 0.0) for one in ids)
    assert all(takes_share(one, EndpointId("sms/one"), 1.0) for one in ids)


NAMES = [f"{channel}/{name}" for channel in Channel for name in ("one", "two")]
VALUES = {channel: [f"{channel}-a", f"{channel}-b"] for channel in Channel}


@st.composite
def endpoint_views(draw):
    """Any endpoints, each named once."""
    views = []
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=6)):
        capabilities = Capabilities(
            channel=Channel(name.partition("/")[0]),
            provider="test",
            text_max=draw(st.sampled_from([10, 1000])),
            io_s=5.0,
            replyable=draw(st.booleans()),
            files_max_bytes=draw(st.sampled_from([0, 100])),
        )
        views.append(
            EndpointView(
                EndpointId(name),
                capabilities,
                status_out=draw(st.sampled_from(Status)),
                status_in=draw(st.sampled_from(Status)),
                gate_open=draw(st.booleans()),
                forced=draw(st.sampled_from([None, None, "up", "down"])),
                share=draw(st.floats(0, 1)),
                room=draw(st.sampled_from([0.0, 1.0, 10.0])),
            )
        )
    return views


@st.composite
def route_requests(draw):
    """Any request with up to five bindings."""
    bindings = []
    for channel in draw(st.lists(st.sampled_from(Channel), max_size=5)):
        bound = draw(st.sampled_from([None, None, *NAMES]))
        bindings.append(
            Binding(
                Address(channel, draw(st.sampled_from(VALUES[channel]))),
                endpoint=EndpointId(bound) if bound else None,
                verified=draw(st.booleans()),
                consent=draw(st.booleans()),
                order=draw(st.integers(0, 3)),
                unreachable_until=draw(st.sampled_from([0.0, NOW + 60])),
            )
        )
    address = st.sampled_from(bindings).map(lambda one: one.address) if bindings else st.none()
    current, wished = draw(st.one_of(st.none(), address)), draw(st.one_of(st.none(), address))
    names = st.sampled_from(NAMES).map(EndpointId)
    return RouteRequest(
        conversation_id=draw(st.text(max_size=8)),
        bindings=tuple(bindings),
        now=NOW,
        message_class=draw(st.sampled_from(MessageClass)),
        current=Leg(draw(names), current, NOW, "opened") if current else None,
        wish=Wish(draw(names), wished) if wished else None,
        own_channel=draw(st.sampled_from([None, *Channel])),
        new=draw(st.booleans()),
        notice_only=draw(st.booleans()),
        text_length=draw(st.sampled_from([0, 500])),
        files_bytes=draw(st.sampled_from([0, 50])),
        files_must_go=draw(st.booleans()),
        target=draw(st.one_of(st.none(), names)),
    )


@given(route_requests(), endpoint_views())
def test_nobody_is_sent_anything_without_consent_or_off_its_channel(asked, endpoints):
    by_id = {view.id: view for view in endpoints}
    for choice in choose_route(asked, endpoints).taken:
        used = asked.bindings[choice.binding]
        view = by_id[choice.endpoint]
        assert used.consent and used.address == choice.address
        assert used.endpoint in (None, choice.endpoint)
        assert used.address.channel is view.capabilities.channel
        assert view.gate_open and view.forced != "down"
        assert view.status_out is not Status.DOWN or view.forced == "up"
        if not asked.notice_only:
            assert view.capabilities.replyable
            assert view.status_in is not Status.DOWN or view.forced == "up"
        if asked.message_class is MessageClass.SECRET and asked.own_channel is not None:
            assert choice.address.channel is asked.own_channel


@given(route_requests(), endpoint_views())
def test_every_endpoint_and_binding_gets_one_reason(asked, endpoints):
    choices = choose_route(asked, endpoints).choices
    pairs = [(choice.endpoint, choice.binding) for choice in choices]
    expected = []
    for view in endpoints:
        met = [
            index
            for index, binding in enumerate(asked.bindings)
            if binding.address.channel is view.capabilities.channel
        ]
        expected += [(view.id, index) for index in met or [-1]]
    assert sorted(pairs) == sorted(expected)
    assert all(choice.taken is (choice.reason in TAKEN) for choice in choices)
    taken = [choice.taken for choice in choices]
    assert taken == sorted(taken, reverse=True)


@given(route_requests(), endpoint_views(), st.randoms())
def test_the_same_question_has_the_same_answer_in_any_order(asked, endpoints, chance):
    shuffled = list(endpoints)
    chance.shuffle(shuffled)
    assert choose_route(asked, shuffled) == choose_route(asked, endpoints)


@given(route_requests(), endpoint_views())
def test_a_percentage_never_takes_the_last_working_path(asked, endpoints):
    route = choose_route(asked, endpoints)
    spared = {Reason.RECOVERING_SHARE, Reason.NO_ROOM}
    assert route.best is not None or not any(choice.reason in spared for choice in route.choices)


@given(route_requests(), endpoint_views())
def test_a_suspect_never_comes_before_one_that_is_up_unless_it_is_the_present_leg_or_forced(asked, endpoints):
    asked = replace(asked, target=None)
    by_id = {view.id: view for view in endpoints}
    best = choose_route(asked, endpoints).best
    if best is None or best.reason is Reason.CURRENT_LEG:
        return
    view = by_id[best.endpoint]
    if view.forced == "up" or Status.SUSPECT not in (view.status_out, view.status_in) or asked.notice_only:
        return
    others = [choice for choice in choose_route(asked, endpoints).taken if asked.bindings[choice.binding].verified]
    statuses = [{by_id[one.endpoint].status_out, by_id[one.endpoint].status_in} for one in others]
    assert {Status.UP} not in statuses
