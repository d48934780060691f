"""Silence, tested: beats, receipts, inbound traffic."""

import random

import pytest

from health.report import Direction, EndpointId, Evidence, Status, Verdict, Witness
from health.silence import InboundSilence, PhiAccrual, ReceiptDeficit, poisson_at_most
from health.thresholds import DetectorSettings
from health.watch import EndpointWatch, MonitorTarget

MAIL = EndpointId("email/support")


def first_over(phi, now, threshold=8.0):
    while phi.phi(now) < threshold:
        now += 0.01
    return now


def test_a_missing_beat_is_certain_after_three_and_a_half_seconds():
    """Beats each second: 1 s + 1.5 s of grace + 5.6 deviations of 0.2 s."""
    phi = PhiAccrual(DetectorSettings(), 0.0)
    for second in range(1, 60):
        phi.beat(float(second))
    assert phi.phi(59.9) < 1
    assert first_over(phi, 59.0) - 59 == pytest.approx(3.6, abs=0.1)


def test_a_worker_that_beats_irregularly_is_given_longer():
    """What is usual is learnt from its own intervals."""
    steady, ragged = PhiAccrual(DetectorSettings(), 0.0), PhiAccrual(DetectorSettings(), 0.0)
    source, at = random.Random(1), 0.0
    for second in range(1, 200):
        steady.beat(float(second))
        at += source.uniform(0.2, 3.0)
        ragged.beat(at)
    assert first_over(ragged, at) - at > first_over(steady, 199.0) - 199 + 2


def receipts(rate, seconds, *, lost_from=float("inf"), lost_share=1.0, seed=1):
    """Sends and their receipts (median lag 4 s), ticked every second; yields the deficit at each."""
    source, deficit = random.Random(seed), ReceiptDeficit()
    events, at, number = [], 0.0, 0
    while at < seconds:
        at += source.expovariate(rate)
        number += 1
        events.append((at, 0, f"t{number}"))
        if at < lost_from or source.random() >= lost_share:
            events.append((at + source.lognormvariate(1.386, 0.6), 1, f"t{number}"))
    events.sort()
    index = 0
    for now in range(int(seconds)):
        while index < len(events) and events[index][0] <= now:
            at, kind, token = events[index]
            (deficit.received if kind else deficit.sent)(token, at)
            index += 1
        yield now, deficit.test(float(now))


def test_a_receipt_heard_of_before_its_send_is_not_missed():
    """Receipts and sends are told by different processes: a browser's receipt is often the first to be heard."""
    deficit = ReceiptDeficit()
    for number in range(200):
        at = number * 0.2
        first, second = (deficit.received, deficit.sent) if number % 2 else (deficit.sent, deficit.received)
        first(f"t{number}", at)
        second(f"t{number}", at + 0.01)
    assert deficit.test(41.0) is None


@pytest.mark.parametrize(("rate", "share", "within_s"), [(0.5, 1.0, 60), (2.0, 1.0, 30), (2.0, 0.5, 45)])
def test_lost_receipts_are_noticed(rate, share, within_s):
    """Median over seeds: a minute at one message every two seconds, half of that at four times the rate."""
    times = []
    for seed in range(9):
        tripped = [
            now - 900
            for now, found in receipts(rate, 1100, lost_from=900, lost_share=share, seed=seed)
            if found is not None and found.tripped
        ]
        times.append(tripped[0] if tripped else 10_000)
    assert sorted(times)[4] <= within_s
    assert min(times) > 0


def test_receipts_that_come_as_usual_accuse_nobody():
    """Two hours, two seeds, not once."""
    for seed in range(2):
        assert not [found for _, found in receipts(1.0, 7200, seed=seed) if found is not None and found.tripped]


def test_an_endpoint_that_never_gave_receipts_is_not_accused():
    """No baseline, no judgement."""
    assert not [found for _, found in receipts(2.0, 1000, lost_from=0) if found is not None]


WEEK_S = 7 * 24 * 3600


def inbound(silence, rate, hours, *, start=0.0, seed=3):
    """Poisson arrivals for some hours, tested every 5 s; whether it was ever called silent."""
    source, spoke = random.Random(seed), False
    at = start + source.expovariate(rate)
    for now in range(int(start), int(start + hours * 3600), 5):
        while at <= now:
            silence.arrived(at)
            at += source.expovariate(rate)
        spoke = spoke or silence.test(float(now)) is not None
    return spoke


@pytest.mark.parametrize(("rate", "within_s"), [(0.1, 300), (2.0, 60)])
def test_inbound_silence_is_noticed_where_plenty_was_usual_a_week_ago(rate, within_s):
    """A message every 10 s at this hour of last week and just now; then nothing: said within five minutes."""
    silence = InboundSilence(0.0)
    assert not inbound(silence, rate, 6)
    silence.reset(WEEK_S)
    assert not inbound(silence, rate, 4, start=WEEK_S)
    ended = WEEK_S + 4 * 3600
    spoke = next(now for now in range(ended, ended + 3600, 5) if silence.test(float(now)))
    assert spoke - ended <= within_s


def play_inbound(watch, begins, ends, every_s=0):
    """Ticks each second, and a message each `every_s` (0: none); every transition."""
    found = []
    for now in range(begins, ends):
        if every_s and now % every_s == 0:
            found += watch.observe(Evidence(MAIL, Direction.IN, Verdict.OK, Witness.OUTCOME, float(now)))
        found += watch.tick(float(now), 0.0)
    return [(one.at, one.after, one.reason) for one in found if one.direction is Direction.IN]


def test_an_endpoint_nothing_comes_in_from_any_more_is_suspect_once_until_something_comes():
    """For as long as it lasts, and no longer: the first message ends it, though an hour's worth is missing."""
    target = MonitorTarget("acme", directions=frozenset({Direction.OUT, Direction.IN}), silence=True)
    watch = EndpointWatch(MAIL, target, DetectorSettings(), now=0.0, random=lambda: 0.5)
    watch.silence.restore({"counts": [360.0] * 168, "exposure_h": [1.0] * 168})
    assert [after for _, after, _ in play_inbound(watch, 0, 1800, every_s=10)] == [Status.UP]
    ((at, after, reason),) = play_inbound(watch, 1800, 9000)
    assert (after, reason) == (Status.SUSPECT, "inbound_silent")
    assert at - 1800 <= 300
    ((at, after, _),) = play_inbound(watch, 9000, 12600, every_s=10)
    assert (at, after) == (9000, Status.UP)


def test_a_quiet_night_is_no_silence():
    """Nothing has ever come at this hour: nothing is missing."""
    silence = InboundSilence(0.0)
    assert not any(silence.test(float(now)) for now in range(0, 8 * 3600, 30))


def test_the_poisson_tail():
    """Against the closed form for none and one."""
    assert poisson_at_most(0, 13.0) == pytest.approx(2.26e-6, rel=0.01)
    assert poisson_at_most(1, 3.0) == pytest.approx(4 * 2.718281828**-3, rel=1e-6)
    assert poisson_at_most(5, 3.0) == 1.0
