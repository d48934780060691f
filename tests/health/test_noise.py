"""What is normal for an endpoint, and what is chance: noise takes nothing down, and outages do not become normal."""

import math
import random

import pytest

from health.baseline import Baseline
from health.detector import EndpointDetector
from health.report import Direction, EndpointId, Evidence, Status, Verdict, Witness
from health.thresholds import DetectorSettings

E = EndpointId("sms/acme")


class Talk:
    """One detector, told of sends and probes at given times."""

    def __init__(self):
        self.detector = EndpointDetector(E, Direction.OUT, DetectorSettings(), now=0.0)
        self.now = 0.0
        self.after = []

    def say(self, *, ok, after_s=0.0, witness=Witness.OUTCOME, reason="http_503"):
        self.now += after_s
        verdict = Verdict.OK if ok else Verdict.FAILURE
        said = Evidence(E, Direction.OUT, verdict, witness, self.now, reason=reason)
        for found in (self.detector.observe(said), self.detector.tick(self.now, 0)):
            if found is not None:
                self.after.append(found.after)
        return self.detector.status

    def send(self, share, sends, *, seed=1, rate=1.0):
        dice = random.Random(seed)
        for _ in range(sends):
            self.say(ok=dice.random() >= share, after_s=dice.expovariate(rate))


def test_what_is_normal_is_learnt_within_a_few_hundred_sends():
    """Slowly enough that chance does not shift it, up to a fifth; before that, the floor."""
    for share, low, high in ((0.0, 0.02, 0.02), (0.05, 0.035, 0.065), (0.5, 0.2, 0.2)):
        baseline, dice = Baseline(DetectorSettings()), random.Random(3)
        assert baseline.share == 0.02 < baseline.share_most
        for _ in range(1000):
            baseline.sent(failed=dice.random() < share)
        assert low <= baseline.share <= high
        assert baseline.share <= baseline.share_most <= baseline.share + 0.015


def test_an_outage_does_not_become_normal_while_it_is_noticed():
    """The last hundred sends have taught nothing yet, and those of an outage never will."""
    talk = Talk()
    talk.send(0.0, 300)
    before = talk.detector.snapshot()["tally"]["baseline"]["share"]
    while talk.say(ok=False, after_s=1.0) is not Status.DOWN:
        pass
    tally = talk.detector.snapshot()["tally"]
    assert tally["baseline"]["share"] <= before
    assert tally["baseline"]["pending"] == ""


def test_neither_a_recovery_nor_our_own_trouble_teaches_what_is_normal():
    """What comes out of the first sends after an outage, and of any while we cannot trust ourselves, is no rule."""
    talk = Talk()
    while talk.say(ok=False, after_s=1.0) is not Status.DOWN:
        pass
    while talk.detector.status is not Status.RECOVERING:
        talk.say(ok=True, after_s=5.0, witness=Witness.PROBE)
    talk.send(0.0, 5)
    assert talk.detector.status is Status.RECOVERING
    assert talk.detector.snapshot()["tally"]["baseline"]["pending"] == ""
    doubted = Talk()
    doubted.send(0.0, 5)
    before = doubted.detector.snapshot()["tally"]["baseline"]
    assert before["pending"]
    doubted.detector.tick(doubted.now, math.inf)
    doubted.detector.observe(Evidence(E, Direction.OUT, Verdict.FAILURE, Witness.OUTCOME, doubted.now))
    assert doubted.detector.snapshot()["tally"]["baseline"] == before


def test_a_longer_row_is_needed_where_failures_are_normal():
    """Five in a row at 2 %, six at 7 %, where five come by chance now and then."""
    talk = Talk()
    for number in range(1000):
        talk.say(ok=number % 15 != 0, after_s=1.0)
    assert talk.detector.status is not Status.DOWN
    row = 0
    while talk.say(ok=False, after_s=1.0) is not Status.DOWN:
        row += 1
    assert row + 1 > DetectorSettings().row


@pytest.mark.parametrize(("reason", "rows"), [("connect_refused", 4), ("http_503", 5)])
def test_four_refused_connections_are_enough(reason, rows):
    """Nobody listens: that says nothing of the message, and an answer of the vendor's says more."""
    talk = Talk()
    talk.send(0.0, 50)
    for _ in range(rows - 1):
        assert talk.say(ok=False, after_s=1.0, reason=reason) is not Status.DOWN
        talk.say(ok=True, witness=Witness.PROBE)
    assert talk.say(ok=False, after_s=1.0, reason=reason) is Status.DOWN


def test_a_broken_connection_and_a_chance_failure_after_it_are_no_outage():
    """Twenty at once, everything well again, then one in fifty: it once was an outage two times in three."""
    for seed in range(20):
        talk = Talk()
        talk.send(0.02, 100, seed=seed)
        for _ in range(20):
            talk.say(ok=False, after_s=0.01)
        talk.send(0.02, 300, seed=seed + 100)
        assert Status.DOWN not in talk.after


def test_probes_that_fail_now_and_then_add_to_sends_that_do():
    """A fifth of the sends and a fifth of the probes: neither would do alone so soon."""
    alone, joint = Talk(), Talk()
    for talk in (alone, joint):
        talk.send(0.0, 300)
        for number in range(30):
            talk.say(ok=number % 5 != 0, after_s=0.5)
            if talk is joint:
                talk.say(ok=number % 5 != 2, after_s=0.5, witness=Witness.PROBE)
            else:
                talk.now += 0.5
    assert (alone.detector.status, joint.detector.status) == (Status.SUSPECT, Status.DOWN)


def test_probes_that_fail_now_and_then_do_not_outvote_sends_that_all_work():
    """What customers send is the better witness."""
    talk = Talk()
    talk.send(0.0, 50)
    for number in range(300):
        talk.say(ok=number % 4 != 0, after_s=0.7, witness=Witness.PROBE)
        talk.say(ok=True, after_s=0.3)
    assert Status.DOWN not in talk.after


def test_it_recovers_under_load_in_spite_of_its_usual_failures():
    """Strict for the first sends only: at twenty a second two chance failures come close together all the time."""
    talk = Talk()
    talk.send(0.0, 100)
    while talk.say(ok=False, after_s=1.0) is not Status.DOWN:
        pass
    while talk.detector.status is not Status.RECOVERING:
        talk.say(ok=True, after_s=5.0, witness=Witness.PROBE)
    for _ in range(25):
        talk.say(ok=True, after_s=0.5)
    talk.send(0.02, 3000, rate=20.0)
    assert talk.detector.status is Status.UP
    assert talk.after.count(Status.DOWN) == 1


def test_a_snapshot_of_the_version_before_keeps_the_status():
    """Its sums are begun anew; an endpoint that is down stays down through an upgrade."""
    talk = Talk()
    while talk.say(ok=False, after_s=1.0) is not Status.DOWN:
        pass
    saved = talk.detector.snapshot()
    saved["tally"] = {"fast": 1.0, "slow": 0.0, "baseline": 0.02, "sends": [0, 0.0, 0.0, 0], "probes": [0, 0.0, 0.0, 0]}
    renewed = EndpointDetector(E, Direction.OUT, DetectorSettings(), now=talk.now)
    renewed.restore(saved)
    assert renewed.status is Status.DOWN
