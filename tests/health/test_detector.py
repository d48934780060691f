"""The state machine of one endpoint, rule by rule."""

import json
import math

import pytest

from health.detector import EndpointDetector
from health.report import Direction, EndpointId, Evidence, Report, Status, Verdict, Witness
from health.thresholds import DetectorSettings

E = EndpointId("sms/acme")
V = Verdict


class Play:
    """One detector, and evidence for it in few words."""

    def __init__(self, *, probed=True, **settings):
        self.settings = DetectorSettings(**settings)
        self.now = 1000.0
        self.detector = EndpointDetector(E, Direction.OUT, self.settings, now=self.now, probed=probed)
        self.doubt = 0.0
        self.seen = []
        self.say(V.OK)

    def say(self, verdict, *, token="", after_s=0.0, witness=Witness.OUTCOME, reason="refused", times=1, every_s=1.0):
        for _ in range(times):
            self.wait(after_s)
            said = Evidence(E, Direction.OUT, verdict, witness, self.now, token, reason)
            self._keep(self.detector.observe(said))
            self.wait(every_s if times > 1 else 0)
        return self.detector.status

    def probe(self, verdict, **more):
        return self.say(verdict, witness=Witness.PROBE, **more)

    def wait(self, seconds):
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 1)
            self._keep(self.detector.tick(self.now, self.doubt))
        return self.detector.status

    def hear(self, *reports):
        self._keep(self.detector.hear(self.now, reports))
        return self.detector.status

    def _keep(self, transition):
        if transition is not None:
            self.seen.append(transition)

    def take_down(self):
        assert self.say(V.FAILURE, times=6) is Status.DOWN
        return self


def test_it_begins_unknown_and_is_up_once_something_worked():
    """Unknown never closes a gate; the first success makes it up."""
    detector = EndpointDetector(E, Direction.OUT, DetectorSettings(), now=0)
    assert (detector.status, detector.share(0)) == (Status.UNKNOWN, 1.0)
    found = detector.observe(Evidence(E, Direction.OUT, V.OK, Witness.PROBE, 1))
    assert (found.before, found.after) == (Status.UNKNOWN, Status.UP)


def test_five_failures_in_a_row_confirm():
    """Suspect at the second, down at the fifth, words that say what and since when."""
    play = Play()
    assert play.say(V.FAILURE, times=2) is Status.SUSPECT
    assert play.say(V.FAILURE, times=2) is Status.SUSPECT
    assert play.say(V.FAILURE) is Status.DOWN
    assert play.seen[-1].reason in ("five_in_a_row", "cusum_fast")
    assert "refused" in play.detector.words
    assert "UTC" in play.detector.words
    assert play.detector.share(play.now) == 0


def test_one_broken_connection_is_not_an_outage():
    """Thirty sends that fail at the same instant are one event: a probe burst, no move."""
    play = Play()
    for number in range(30):
        play.say(V.FAILURE, token=f"t{number}")
    assert play.detector.wants_probe_burst
    for _ in range(3):
        play.probe(V.OK, after_s=1)
    assert play.wait(5) is Status.SUSPECT
    play.say(V.OK, times=40)
    assert play.detector.status is Status.UP


def test_a_success_breaks_the_row_but_not_the_sum():
    """Two thirds failing never makes five in a row, and is down all the same."""
    play = Play()
    for _ in range(8):
        play.say(V.FAILURE, times=2)
        play.say(V.OK, after_s=1)
    assert play.detector.status is Status.DOWN
    assert play.seen[-1].reason == "cusum_fast"


def test_failing_probes_confirm_a_sum_at_once():
    """At the trip two failed probes out of three are enough; without them it takes half as much again."""
    alone, seconded = Play(), Play()
    for play, probes in ((alone, V.OK), (seconded, V.FAILURE)):
        play.say(V.FAILURE, times=2)
        play.say(V.OK, after_s=1)
        play.probe(probes)
        play.say(V.FAILURE)
        play.probe(probes, after_s=1)
        play.say(V.FAILURE)
    assert alone.detector.status is Status.SUSPECT
    assert seconded.detector.status is Status.DOWN


def test_probes_never_clear_a_trip_by_real_sends():
    """The gray failure: probes pass, sends do not. Only sends that work bring it back."""
    play = Play()
    play.say(V.FAILURE, times=2)
    play.say(V.OK)
    play.say(V.FAILURE, times=2)
    for _ in range(30):
        play.probe(V.OK, after_s=10)
    assert play.detector.status is Status.SUSPECT
    play.say(V.OK, times=40)
    assert play.detector.status is Status.UP


def test_a_mere_suspicion_of_an_idle_endpoint_is_dropped_when_probes_pass():
    """Two failures, then nothing to send: half a minute of passing probes is enough."""
    play = Play()
    play.say(V.FAILURE, times=2)
    for _ in range(4):
        play.probe(V.OK, after_s=10)
    assert play.detector.status is Status.UP


def test_pressure_never_takes_down():
    """Throttling is a sign of life."""
    play = Play()
    assert play.say(V.PRESSURE, times=200, every_s=0.1) is Status.UP
    assert not play.detector.wants_probe_burst


def test_slowness_makes_suspect_but_never_down():
    """Half a failure each, however long it lasts."""
    play = Play()
    play.say(V.SLOW, times=100)
    assert play.detector.status is Status.SUSPECT


def test_misconfigured_is_down_at_once_and_says_who_must_act():
    """No second opinion on a refused credential, and no recovery before a probe passes."""
    play = Play(hold_s=1)
    assert play.say(V.MISCONFIGURED, reason="auth_rejected") is Status.DOWN
    assert play.seen[-1].reason == "misconfigured"
    assert "a person must correct" in play.detector.words
    for _ in range(5):
        play.probe(V.MISCONFIGURED, after_s=1)
    assert play.detector.status is Status.DOWN
    play.probe(V.OK, times=3)
    assert play.detector.status is Status.RECOVERING


def test_corrected_settings_of_what_cannot_be_probed_show_in_a_send_that_works():
    """Nothing else can tell."""
    play = Play(probed=False)
    assert play.say(V.MISCONFIGURED) is Status.DOWN
    assert play.wait(600) is Status.DOWN
    play.say(V.OK)
    assert play.wait(1) is Status.RECOVERING


@pytest.mark.parametrize("witness", [Witness.OUTCOME, Witness.PROBE, Witness.CANARY])
def test_whoever_must_correct_the_settings_reads_what_was_refused(witness):
    """The vendor's own reason, not that of some failure before it, and never none."""
    play = Play()
    play.say(V.FAILURE, reason="connect_failed")
    play.say(V.MISCONFIGURED, witness=witness, reason="auth_rejected")
    assert "(auth_rejected)" in play.detector.words


def test_a_provisional_failure_and_its_final_failure_count_once():
    """Two sends that hang and then fail are two failures, not four."""
    play = Play()
    for number in range(2):
        play.say(V.PROVISIONAL, token=f"t{number}", after_s=1)
    for number in range(2):
        play.say(V.FAILURE, token=f"t{number}", after_s=2)
    once = play.detector.snapshot()["tally"]
    assert once["sends"][0] == 2
    assert once["outstanding"] == []
    twice = Play()
    twice.say(V.FAILURE, times=2)
    assert once["sums"][:4] == pytest.approx(twice.detector.snapshot()["tally"]["sums"][:4], rel=0.05)
    play.say(V.FAILURE, token="t0")
    assert play.detector.snapshot()["tally"]["sends"][0] == 2, "said again, counted again"


def test_a_withdrawn_failure_leaves_nothing_against_the_endpoint():
    """It was slow, not dead."""
    play = Play()
    for number in range(3):
        play.say(V.PROVISIONAL, token=f"t{number}", after_s=0.5)
    assert play.detector.status is Status.SUSPECT
    for number in range(3):
        play.say(V.WITHDRAWN, token=f"t{number}", after_s=0.5)
    assert play.detector.snapshot()["tally"]["sums"][:2] == [0, 0]
    assert play.wait(31) is Status.UP


@pytest.mark.parametrize("rate", [1, 10, 50])
def test_an_endpoint_that_has_become_slow_is_not_taken_for_a_dead_one(rate):
    """Every answer takes 4 s instead of 0.1 s: provisional failures all the time, withdrawn, and a few real ones."""
    play = Play()
    events = []
    for number in range(60 * rate):
        sent = play.now + number / rate
        events += [(sent + 2, V.PROVISIONAL, f"t{number}"), (sent + 4, V.WITHDRAWN, f"t{number}")]
    events += [(play.now + 1.5 + 7 * number, V.FAILURE, f"f{number}") for number in range(9)]
    for at, verdict, token in sorted(events):
        play.now = max(play.now, at)
        play._keep(play.detector.tick(play.now, 0))
        play.say(verdict, token=token)
    assert Status.DOWN not in [found.after for found in play.seen]


def test_hanging_sends_are_seen_before_they_time_out_for_good():
    """Mail may take a minute to fail for good; five unanswered sends over 3 s and no answer at all are enough."""
    play = Play()
    for number in range(5):
        play.say(V.PROVISIONAL, token=f"t{number}", after_s=1)
    assert play.detector.status is Status.DOWN


def test_a_burst_of_hanging_sends_is_confirmed_by_the_probe_that_times_out_after_it():
    """All in flight began together, so nothing but the probe's own end tells that time has passed."""
    play = Play()
    for number in range(20):
        play.say(V.PROVISIONAL, token=f"t{number}", after_s=0.05)
    assert play.probe(V.PROVISIONAL, after_s=1.5) is Status.SUSPECT
    assert play.probe(V.FAILURE, after_s=3) is Status.DOWN


def test_recovery_is_slow_and_proven():
    """Hold, three probes, a tenth of the traffic, a ramp, twenty successes; then up."""
    play = Play().take_down()
    play.probe(V.OK, times=3)
    assert play.detector.status is Status.DOWN, "the hold was cut short"
    play.wait(30)
    assert play.probe(V.OK) is Status.RECOVERING
    assert play.detector.share(play.now) == pytest.approx(0.10)
    play.say(V.OK, times=60)
    assert play.detector.share(play.now) == pytest.approx(0.5, abs=0.05)
    assert play.detector.status is Status.RECOVERING
    play.say(V.OK, times=61)
    assert play.detector.status is Status.UP


def test_a_quiet_recovery_takes_twice_the_ramp():
    """Nothing to send proves nothing; two ramps of passing probes must do."""
    play = Play(ramp_s=60).take_down()
    play.wait(30)
    play.probe(V.OK, times=4)
    while play.now < play.detector.since + 119:
        assert play.probe(V.OK) is Status.RECOVERING
        play.wait(1)
    play.wait(2)
    assert play.detector.status is Status.UP


def test_two_failures_while_recovering_take_it_down_for_longer():
    """Stricter while recovering, and the hold doubles."""
    play = Play().take_down()
    play.wait(30)
    play.probe(V.OK, times=3)
    assert play.detector.status is Status.RECOVERING
    assert play.say(V.FAILURE, times=2) is Status.DOWN
    play.wait(45)
    assert play.probe(V.OK, times=4) is Status.DOWN
    play.wait(15)
    assert play.probe(V.OK) is Status.RECOVERING


def test_ten_flaps_in_a_minute_make_one_move():
    """3 s down, 3 s up, ten times: down once, and not up again within that minute."""
    play = Play()
    for _ in range(10):
        for verdict in (V.FAILURE, V.OK):
            for _ in range(6):
                play.say(verdict)
                if play.detector.wants_probe_burst or play.detector.status is Status.DOWN:
                    play.probe(verdict)
                play.wait(0.5)
    downs = [found for found in play.seen if found.after is Status.DOWN]
    ups = [found for found in play.seen if found.after is Status.UP and found.at > downs[0].at]
    assert len(downs) >= 1
    assert ups == []


def test_flaps_delay_failback_and_nothing_else():
    """Three outages a minute apart: back for new work after hold and ramp, nobody moved home for minutes."""
    play = Play(hold_s=5, ramp_s=10)
    for _ in range(3):
        play.say(V.FAILURE, times=6)
        assert play.detector.status is Status.DOWN
        while play.detector.status is not Status.UP:
            play.probe(V.OK)
            play.say(V.OK, after_s=1)
    assert play.detector.failback_suppressed(play.now)
    assert play.detector.failback_suppressed_until(play.now) > play.now + 60
    play.wait(700)
    assert not play.detector.failback_suppressed(play.now)
    once = Play().take_down()
    assert not once.detector.failback_suppressed(once.now)


def test_doubt_in_ourselves_scales_every_threshold():
    """At a doubt of one it takes ten in a row; frozen, nothing is confirmed but a refused credential."""
    play = Play()
    play.doubt = 1
    play.wait(1)
    assert play.say(V.FAILURE, times=5, every_s=0.5) is not Status.DOWN
    assert play.say(V.FAILURE, times=6, every_s=0.5) is Status.DOWN
    frozen = Play()
    frozen.doubt = math.inf
    frozen.wait(1)
    frozen.say(V.FAILURE, times=100)
    frozen.probe(V.FAILURE, times=10)
    assert frozen.detector.status is not Status.DOWN
    assert frozen.say(V.MISCONFIGURED) is Status.DOWN


def test_doubt_is_remembered_until_what_it_spoilt_is_washed_out():
    """Failures counted during our own stall do not take effect the moment the stall is over."""
    play = Play()
    play.doubt = 2
    play.wait(1)
    play.say(V.FAILURE, times=4, every_s=0.5)
    play.doubt = 0
    play.wait(1)
    play.say(V.FAILURE)
    assert play.detector.status is not Status.DOWN


def report(source, status=Status.DOWN):
    return Report(E, Direction.OUT, status, "unbound", "The session was closed.", 0, 60, source)


def test_a_status_page_confirms_but_never_decides():
    """It seconds real failures; alone it does nothing."""
    play = Play()
    for _ in range(60):
        play.hear(report("status-page:acme"))
        play.wait(1)
    assert play.detector.status is Status.UP
    play.say(V.FAILURE, times=2)
    play.say(V.OK)
    play.say(V.FAILURE, times=2, after_s=1)
    assert play.detector.status is Status.DOWN


def test_an_adapters_own_claim_decides_only_where_nothing_can_be_probed():
    """An IMAP listener that cannot log in says so for 5 s; a probed direction is asked by probes instead."""
    for probed, expected in ((False, Status.DOWN), (True, Status.SUSPECT)):
        play = Play(probed=probed)
        for _ in range(8):
            play.hear(report("adapter"))
            if probed:
                play.probe(V.OK)
            play.wait(1)
        assert play.detector.status is expected
    play = Play(probed=False)
    for _ in range(8):
        play.hear(report("adapter"))
        play.wait(1)
    play.wait(40)
    assert play.detector.status is Status.DOWN, "the claim still stands"
    play.hear()
    play.wait(1)
    assert play.detector.status is Status.RECOVERING


def test_missing_receipts_ask_for_a_canary_and_the_canary_decides():
    """Lost: down. Arrived: only the receipts are missing; keep sending."""
    for verdict, expected in ((V.FAILURE, Status.DOWN), (V.OK, Status.UP)):
        play = Play()
        assert play.detector.accuse(play.now, Witness.RECEIPT, ("receipts_missing", "0 of 20")).after is Status.SUSPECT
        assert play.detector.wants_canary
        play.wait(300 if verdict is V.FAILURE else 60)
        assert play.detector.status is Status.SUSPECT, "missing receipts alone never take down"
        play.say(verdict, witness=Witness.CANARY)
        play.detector.accuse(play.now, Witness.RECEIPT, ("receipts_missing", "0 of 30"))
        play.wait(31)
        assert play.detector.status is expected
        assert play.detector.receipts_degraded is (verdict is V.OK)


def test_nobody_heard_for_long_is_unknown_again():
    """We do not claim to know."""
    play = Play()
    assert play.wait(301) is Status.UNKNOWN
    assert play.say(V.OK) is Status.UP


def test_time_does_not_run_backwards_with_a_late_worker_clock():
    """Evidence dated in the past counts now."""
    play = Play()
    play.wait(10)
    found = play.detector.observe(Evidence(E, Direction.OUT, V.MISCONFIGURED, Witness.OUTCOME, 1.0))
    assert found.at == play.now


def test_a_restart_changes_nothing():
    """Restored in the middle of a row, of a hold and of a ramp, it goes on as the original does."""
    play = Play()
    script = [(V.FAILURE, Witness.OUTCOME)] * 6 + [(V.OK, Witness.PROBE)] * 45 + [(V.OK, Witness.OUTCOME)] * 150
    twin = EndpointDetector(E, Direction.OUT, play.settings, now=play.now)
    twin.restore(json.loads(json.dumps(play.detector.snapshot())))
    statuses = set()
    for verdict, witness in script:
        play.say(verdict, witness=witness, after_s=1)
        renewed = EndpointDetector(E, Direction.OUT, play.settings, now=play.now)
        renewed.restore(json.loads(json.dumps(twin.snapshot())))
        twin = renewed
        twin.tick(play.now, 0)
        twin.observe(Evidence(E, Direction.OUT, verdict, witness, play.now, "", "refused"))
        statuses.add(play.detector.status)
        assert (twin.status, twin.since) == (play.detector.status, play.detector.since)
        assert twin.snapshot()["damping"] == play.detector.snapshot()["damping"], "one outage, charged once"
    assert statuses == {Status.UP, Status.SUSPECT, Status.DOWN, Status.RECOVERING}
