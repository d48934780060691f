"""When a canary is sent, what its loss comes to, and what one that came back proves."""

import pytest

from health.report import Direction, EndpointId, Evidence, Status, Verdict, Witness
from health.thresholds import DetectorSettings
from health.watch import EndpointWatch, MonitorTarget

ENDPOINT = EndpointId("sms/acme")
START = 1_000_000.0


def watching(every_s: float = 10.0) -> EndpointWatch:
    """An endpoint that is up, its canary due at once."""
    target = MonitorTarget("acme", canary=True, canary_every_s=every_s)
    watch = EndpointWatch(ENDPOINT, target, DetectorSettings(), now=START, random=lambda: 0.0)
    watch.observe(Evidence(ENDPOINT, Direction.OUT, Verdict.OK, Witness.OUTCOME, START))
    return watch


def send(watch: EndpointWatch, at: float, verdict: Verdict | None) -> list[str]:
    """One canary, which ends two seconds later; the reasons of what changed."""
    assert watch.canary_due(at)
    watch.canary_began(at)
    assert not watch.canary_due(at + 1), "one at a time"
    return [one.reason for one in watch.canary_ended(at + 2, verdict, "canary_lost")]


def test_one_is_sent_regularly_where_that_is_set():
    """Every ten seconds, give or take a tenth."""
    watch = watching()
    send(watch, START, Verdict.OK)
    assert not watch.canary_due(START + 8.9)
    assert watch.canary_due(START + 9.1)


def test_none_is_sent_unasked_where_it_is_not():
    """It costs money: without a setting only a suspicion sends one."""
    watch = watching(every_s=0.0)
    assert not any(watch.canary_due(START + second) for second in range(1000))


def test_a_second_one_lost_takes_it_down_and_one_that_comes_back_lets_it_recover():
    """One may be an accident. The next is sent soon; while it is down they go on."""
    watch = watching(every_s=3600.0)
    assert send(watch, START, Verdict.FAILURE) == []
    assert not watch.canary_due(START + 29)
    assert send(watch, START + 30, Verdict.FAILURE) == ["canary_lost"]
    assert watch.detectors[Direction.OUT].status is Status.DOWN
    assert watch.canary_due(START + 60), "only one that comes back can open the gate"


def test_one_that_could_not_be_sent_says_nothing():
    """Our own fault, or one that sends and probes judge."""
    watch = watching()
    for number in range(5):
        assert send(watch, START + 10 * number, None) == []
    assert watch.detectors[Direction.OUT].status is Status.UP
    assert watch.proven_at == 0.0


def test_an_endpoint_that_is_down_for_another_reason_is_left_to_its_probes():
    """A canary could say nothing new there."""
    watch = watching()
    watch.observe(Evidence(ENDPOINT, Direction.OUT, Verdict.MISCONFIGURED, Witness.PROBE, START + 1))
    assert watch.detectors[Direction.OUT].status is Status.DOWN
    assert not watch.canary_due(START + 100)


@pytest.mark.parametrize("restarted", [False, True])
def test_one_that_came_back_proves_what_was_taken_before_it(restarted):
    """But not while others were missing: some may get through a vendor that loses half. A new supervisor knows it."""
    watch = watching()
    send(watch, START, Verdict.OK)
    if restarted:
        saved, watch = watch.snapshot(), watching()
        watch.restore(saved)
    assert watch.proven_at == START
    send(watch, START + 11, Verdict.FAILURE)
    send(watch, START + 22, Verdict.OK)
    assert watch.proven_at == START, "the one before was lost"
    send(watch, START + 33, Verdict.OK)
    assert watch.proven_at == START + 33
