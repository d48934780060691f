"""The journal: what is written can be read back, holds no address, and stays small."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from health.report import EndpointId, Status
from router.domain.conversation import MessageClass, SideName
from router.domain.failover import AffectedSide, Limits, plan_failover
from router.domain.journal import (
    BYTES_MAX,
    CHOICES_MAX,
    Decision,
    DecisionKind,
    JudgedChoice,
    UnreadableDecision,
    decisions_of,
    describe,
    judged,
    read_decision,
    write_decision,
)
from router.domain.reasons import Reason
from router.domain.routing import choose_route

MOVED = Decision(
    kind=DecisionKind.MOVED,
    conversation_id="v0-A",
    side=SideName.CUSTOMER,
    at=1_700_000_000.25,
    words="Mail went down; moved to SMS.",
    evidence=("email/one out down five_in_a_row",),
    choices=(
        JudgedChoice(EndpointId("sms/one"), 1, True, Reason.PREFERRED),
        JudgedChoice(EndpointId("email/one"), 0, False, Reason.STATUS_DOWN),
    ),
)


def test_a_decision_is_read_back_as_it_was_written():
    assert read_decision(write_decision(MOVED)) == MOVED
    assert read_decision(write_decision(MOVED).encode()) == MOVED


def test_a_route_is_kept_without_any_address(endpoint, request_for):
    route = choose_route(request_for(), [endpoint("email/one"), endpoint("sms/one", gate_open=False)])
    written = write_decision(
        Decision(DecisionKind.ROUTED, "v0-A", None, 1.0, "", choices=judged(route)),
    )
    assert "example.com" not in written
    assert "+1555" not in written
    kept = read_decision(written).choices
    assert [(one.endpoint, one.binding, one.reason) for one in kept] == [
        ("email/one", 0, Reason.PREFERRED),
        ("sms/one", 1, Reason.GATE_CLOSED),
    ]
    assert describe(kept)[1] == "rejected sms/one: The gate is closed: nothing may begin here now."


def test_a_plan_leaves_one_decision_a_side_with_the_evidence(endpoint, request_for, leg, now):
    views = [endpoint("email/one", status_out=Status.DOWN), endpoint("sms/one")]
    kinds = (("v0-A", MessageClass.NORMAL, 1), ("v0-B", MessageClass.BULK, 1), ("v0-C", MessageClass.NORMAL, 0))
    sides = [
        AffectedSide(
            SideName.CUSTOMER,
            1,
            request_for(conversation_id=name, message_class=message_class, current=leg("email/one")),
            pending=pending,
        )
        for name, message_class, pending in kinds
    ]
    plan = plan_failover(sides, views, {}, now, Limits())
    made = list(decisions_of(plan, now, ("email/one out down",)))
    assert [(one.kind, one.conversation_id) for one in made] == [
        (DecisionKind.MOVED, "v0-A"),
        (DecisionKind.PARKED, "v0-B"),
        (DecisionKind.STAYED, "v0-C"),
    ]
    assert all(one.evidence == ("email/one out down",) for one in made)
    assert made[1].words == "Parked for 300 s. Bulk messages wait, so that conversations get the room."
    assert made[0].choices[0].reason is Reason.PREFERRED


def test_evidence_goes_before_words_and_words_before_choices():
    choices = tuple(JudgedChoice(EndpointId(f"sms/e{n}"), 0, n == 0, Reason.NO_BINDING) for n in range(150))
    decision = Decision(DecisionKind.MOVED, "v0-A", None, 1.0, "ж" * 1000, ("ж" * 300,) * 20, choices)
    kept = read_decision(write_decision(decision))
    assert len(kept.choices) == 150
    assert kept.choices_left_out == 0
    assert len(kept.evidence) < 20


def test_choices_are_left_out_from_the_end_and_counted():
    choices = tuple(JudgedChoice(EndpointId(f"sms/e{n:034}"), 0, n == 0, Reason.NO_BINDING) for n in range(600))
    kept = read_decision(write_decision(Decision(DecisionKind.MOVED, "v0-A", None, 1.0, "why", choices=choices)))
    assert kept.choices == choices[: len(kept.choices)]
    assert 0 < len(kept.choices) < CHOICES_MAX
    assert kept.choices_left_out == 600 - len(kept.choices)
    assert kept.words == "why"


@pytest.mark.parametrize(
    "stored",
    ["", "no", "[]", "3", "{}", '{"v":2}', write_decision(MOVED).replace("preferred", "whim"), b"\xff"]
    + [json.dumps({**json.loads(write_decision(MOVED)), key: None}) for key in "kterx"],
)
def test_what_is_no_record_is_said_to_be_unreadable(stored):
    with pytest.raises(UnreadableDecision):
        read_decision(stored)


@given(
    st.text(max_size=2000),
    st.lists(st.text(max_size=500), max_size=30),
    st.lists(
        st.builds(
            JudgedChoice,
            st.text(max_size=45).map(EndpointId),
            st.integers(-1, 20),
            st.booleans(),
            st.sampled_from(Reason),
        ),
        max_size=60,
    ),
    st.floats(0, 4e9),
)
def test_every_record_is_small_and_readable(words, evidence, choices, at):
    decision = Decision(DecisionKind.MATCHED, "v0-A", SideName.AGENT, at, words, tuple(evidence), tuple(choices))
    written = write_decision(decision)
    assert len(written.encode()) <= BYTES_MAX
    kept = read_decision(written)
    assert kept.choices == tuple(choices)[: len(kept.choices)]
    assert abs(kept.at - at) < 0.001
