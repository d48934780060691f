"""Doubt in ourselves, and the rule that freezes reroutes."""

import pytest

from health.doubt import LocalDoubt, Onsets, Standing, we_are_broken
from health.report import Direction, EndpointId, Status
from health.thresholds import DetectorSettings

DOWN, UP, SUSPECT = Status.DOWN, Status.UP, Status.SUSPECT


def look(doubt, seconds, *, start=0.0, **signs):
    for quarter in range(int(seconds * 4)):
        doubt.notice(start + quarter / 4, **({"lag_s": 0.0, "redis_s": 0.001, "control_failed": None} | signs))
    return doubt.level


def test_each_bad_second_adds_a_level_and_each_clean_one_takes_one_off():
    """Up to eight, down to nothing."""
    doubt = LocalDoubt()
    assert look(doubt, 4.25, lag_s=0.3) == 4
    assert look(doubt, 20, start=10, lag_s=0.3) == 8
    assert look(doubt, 5, start=40) < 8
    assert look(doubt, 20, start=60) == 0


def test_one_slow_call_in_a_second_is_no_sign_most_of_them_are():
    """Redis, on a shared machine, is slow once in a while."""
    doubt = LocalDoubt()
    for quarter in range(40):
        doubt.notice(quarter / 4, lag_s=0, redis_s=0.2 if quarter % 4 == 0 else 0.001, control_failed=None)
    assert doubt.level == 0
    assert look(doubt, 3, start=20, redis_s=0.2) > 0


def test_a_failing_control_probe_alone_never_reaches_the_level_that_freezes():
    """Its host may be down by itself."""
    assert look(LocalDoubt(), 60, control_failed=True) == 3


def test_a_suspicion_that_is_confirmed_did_not_begin_anew():
    """Only one that was dropped does: else a freeze would follow a freeze."""
    onsets, acme = Onsets(), (EndpointId("sms/acme"), Direction.OUT)
    assert onsets.since(*acme, UP, 1.0) == 1.0
    assert onsets.since(*acme, SUSPECT, 20.0) == 20.0
    assert onsets.since(*acme, DOWN, 80.0) == 20.0
    assert onsets.since(EndpointId("sms/acme"), Direction.IN, DOWN, 80.0) == 80.0
    assert onsets.since(*acme, Status.RECOVERING, 120.0) == 120.0
    assert onsets.since(*acme, DOWN, 130.0) == 130.0


def broken(*rows, control=None, doubt=0, now=100.0):
    standings = [Standing(EndpointId(f"sms/{i}"), row[0], row[1], *row[2:]) for i, row in enumerate(rows)]
    return we_are_broken(standings, now, DetectorSettings(), control_failed=control, doubt=doubt) is not None


@pytest.mark.parametrize(
    ("rows", "control", "doubt", "expected", "why"),
    [
        ([("a", DOWN, 90), ("b", DOWN, 95), ("c", DOWN, 99), ("d", UP, 0)], None, 0, True, "three of four at once"),
        ([("a", DOWN, 90), ("b", SUSPECT, 95), ("c", SUSPECT, 99)], None, 0, True, "suspects count"),
        ([("a", DOWN, 90), ("b", DOWN, 95), ("c", DOWN, 10)], None, 0, False, "one went long before"),
        ([("a", DOWN, 90), ("b", DOWN, 95)], None, 0, False, "two prove nothing without a control probe"),
        ([("a", DOWN, 90), ("b", DOWN, 95)], True, 0, True, "two of two, and the control probe"),
        ([("a", DOWN, 90), ("b", UP, 0)], True, 0, False, "one of two works: the way out does"),
        ([("a", DOWN, 90), ("b", DOWN, 95), ("c", DOWN, 99)], False, 0, False, "the control probe works"),
        ([("a", DOWN, 90), ("a", DOWN, 95), ("a", DOWN, 99), ("b", UP, 0)], None, 0, False, "one family"),
        ([("a", DOWN, 90), ("b", DOWN, 95), ("", DOWN, 99)], None, 0, False, "our own web chat proves nothing"),
        ([("a", DOWN, 90, True), ("b", DOWN, 95), ("c", DOWN, 99)], None, 0, False, "a refused credential answers"),
        ([("a", UP, 0)], None, 4, True, "our senses fail"),
        ([("a", UP, 0), ("b", UP, 0)], True, 0, False, "all works, only the control host is down"),
        ([], True, 0, False, "nothing to judge"),
    ],
)
def test_when_we_think_that_it_is_us(rows, control, doubt, expected, why):
    """Counts of independent families, not percentages."""
    assert broken(*rows, control=control, doubt=doubt) is expected, why
