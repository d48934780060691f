"""Up or down? The state machine of one endpoint and direction; pure: no clock, no I/O."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from health.burst import Burst
from health.cusum import Tally
from health.damping import FlapDamping, Hold
from health.report import Direction, EndpointId, Evidence, Report, Status, Transition, Verdict, Witness
from health.thresholds import DetectorSettings
from health.wording import describe

STATUS_PAGE = "status-page"
"""Reports whose source begins like this come from a vendor's page: they confirm, they never decide."""
RECEIPTS_MISSING = "receipts_missing"
"""The receipt test has tripped; together with one lost canary that is an outage."""
CANARIES_LOST = 2
"""Canaries in a row whose loss is an outage by itself."""
AGAINST = frozenset({Verdict.FAILURE, Verdict.PROVISIONAL, Verdict.MISCONFIGURED})

Finding = tuple[str, str]
"""A machine-readable reason and what was counted."""


class EndpointDetector:
    """Turns evidence about one endpoint and direction into a status.

    `up -> suspect -> (confirmed) down -> recovering -> up`, fast down, slow up. Recipient errors never arrive here,
    pressure never counts. A probe's success never clears a trip by real sends. `jitter` returns a factor around 1
    that spreads the ends of holds.
    """

    def __init__(
        self,
        endpoint: EndpointId,
        direction: Direction,
        settings: DetectorSettings,
        *,
        now: float,
        jitter: Callable[[], float] = lambda: 1.0,
        probed: bool = True,
    ) -> None:
        self.endpoint = endpoint
        self.direction = direction
        self.status = Status.UNKNOWN
        self.since = now
        self.reason = "not_heard_yet"
        self.words = describe(endpoint, direction, Status.UNKNOWN, reason=self.reason, counted="", began_at=now)
        self.probe_ok_at: float | None = None
        self.probe_failed_at: float | None = None
        self.receipts_degraded = False
        """Messages arrive but their receipts do not: keep sending, infer nothing from missing receipts."""
        self._settings = settings
        self._jitter = jitter
        self._probed = probed
        self._tally = Tally(settings)
        self._hold = Hold(settings)
        self._damping = FlapDamping(settings)
        self._now = now
        self._factor = 1.0
        self._frozen = False
        self._doubts: deque[tuple[float, float]] = deque(maxlen=64)
        self._burst = Burst(settings)
        self._suspected_at: float | None = None
        self._probes: deque[tuple[float, bool]] = deque(maxlen=3)
        self._probes_ok = 0
        self._probe_waiting = False
        self._heard_at = now
        self._ok_at: float | None = None
        self._failed_at: float | None = None
        self._last_reason = ""
        self._misconfigured = False
        self._accused: dict[Witness, Finding] = {}
        self._canaries_lost = 0
        self._reported_since: float | None = None
        self._witnessed = False

    @property
    def wants_probe_burst(self) -> bool:
        """Probe every `burst_spacing_s` for now."""
        return self._burst.wanted

    @property
    def wants_canary(self) -> bool:
        """Only a message really delivered can tell: receipts are missing, or a canary was lost."""
        return Witness.RECEIPT in self._accused or self._canaries_lost > 0

    def share(self, now: float) -> float:
        """Of the traffic that it may take, 0 to 1."""
        if self.status is Status.DOWN:
            return 0.0
        if self.status is Status.RECOVERING:
            ramped = (now - self.since) / self._settings.ramp_s
            return min(1.0, max(self._settings.ramp_share_min, ramped))
        return 1.0

    def failback_suppressed(self, now: float) -> bool:
        """It has flapped: nobody is moved home to it yet. Moving away from elsewhere to it is not hindered."""
        return self._damping.suppressed_until(now) is not None

    def failback_suppressed_until(self, now: float) -> float | None:
        """When that ends; None: it is not suppressed."""
        return self._damping.suppressed_until(now)

    def observe(self, evidence: Evidence) -> Transition | None:
        """Count one piece of evidence; time never runs backwards, whatever its clock says."""
        self._now = max(self._now, evidence.at)
        if evidence.verdict is Verdict.PRESSURE:
            self._heard_at = self._now
            return None
        if evidence.verdict is Verdict.MISCONFIGURED:
            self._misconfigured, self._last_reason = True, evidence.reason or evidence.verdict.value
        match evidence.witness:
            case Witness.PROBE:
                self._observe_probe(evidence)
            case Witness.CANARY:
                self._observe_canary(evidence)
            case Witness.OUTCOME | Witness.REPORT:
                self._observe_send(evidence)
            case Witness.RECEIPT | Witness.BEAT | Witness.SILENCE:
                if evidence.verdict is Verdict.FAILURE:
                    self._observe_send(evidence)
        return self._judge()

    def tick(self, now: float, doubt: float) -> Transition | None:
        """Let time pass. `doubt` in ourselves, 0 to 8 (infinite: frozen), scales every threshold by 1 + doubt."""
        self._now = max(self._now, now)
        while self._doubts and self._now - self._doubts[0][0] > self._settings.doubt_memory_s:
            self._doubts.popleft()
        if math.isinf(doubt):
            self._factor, self._frozen = doubt, True
            return self._judge()
        if self._frozen:
            # What was counted while we were broken says nothing; a real outage shows again within seconds.
            self._frozen = False
            self._tally.forgive()
        if doubt > 0 and (not self._doubts or self._now - self._doubts[-1][0] >= 0.25 or doubt > self._doubts[-1][1]):
            self._doubts.append((self._now, doubt))
        self._factor = 1 + max((level for _, level in self._doubts), default=0.0)
        return self._judge()

    def hear(self, now: float, reports: Sequence[Report]) -> Transition | None:
        """Take the live reports about this endpoint and direction; all of them, or none, each time."""
        self._now = max(self._now, now)
        against = [report for report in reports if report.status is Status.DOWN]
        own = [report for report in against if not report.source.startswith(STATUS_PAGE)]
        self._witnessed = bool(against)
        if not own:
            self._reported_since = None
            self._accused.pop(Witness.REPORT, None)
        else:
            if self._reported_since is None:
                self._reported_since = self._now
                self._want_burst()
            self._accused[Witness.REPORT] = (own[0].reason, own[0].words)
        if any(report.status is Status.UP for report in reports) and not against:
            self._ok_at = self._heard_at = self._now
        return self._judge()

    def accuse(self, now: float, witness: Witness, finding: Finding | None) -> Transition | None:
        """A test of silence (receipts, inbound) speaks against the endpoint, or (None) no longer does."""
        self._now = max(self._now, now)
        if finding is None:
            self._accused.pop(witness, None)
            if witness is Witness.RECEIPT:
                self.receipts_degraded = False
        elif not (witness is Witness.RECEIPT and self.receipts_degraded):
            if witness not in self._accused:
                self._want_burst()
            self._accused[witness] = finding
        return self._judge()

    def _observe_send(self, evidence: Evidence) -> None:
        self._heard_at = self._now
        if self.status is Status.DOWN:
            if not self._probed and evidence.verdict in (Verdict.OK, Verdict.WITHDRAWN):
                self._misconfigured = False
            return
        learn = self.status in (Status.UP, Status.SUSPECT) and not self._frozen
        if self._tally.send(evidence.verdict, self._now, evidence.token, learn=learn, reason=evidence.reason):
            self._failed(evidence)
        elif evidence.verdict in (Verdict.OK, Verdict.WITHDRAWN, Verdict.SLOW):
            self._ok_at = self._now

    def _observe_probe(self, evidence: Evidence) -> None:
        self._heard_at = self._now
        against = evidence.verdict in AGAINST
        first = not self._probe_waiting
        self._probe_waiting = evidence.verdict is Verdict.PROVISIONAL
        if against and first:
            self._probes.append((self._now, True))
        elif not against:
            if not first and self._probes:
                self._probes.pop()
            self._probes.append((self._now, False))
        self._probes_ok = 0 if against else self._probes_ok + 1
        if not against:
            self.probe_ok_at = self._ok_at = self._now
            if self.status is Status.DOWN:
                self._misconfigured = False
        else:
            self.probe_failed_at = self._now
        if self.status is not Status.DOWN:
            self._tally.probe(evidence.verdict, self._now, counted=not first, reason=evidence.reason)
        if not self._probe_waiting:
            more = self.status is not Status.DOWN and self._tally.joint_most(self._now) >= self._settings.trip / 4
            self._burst.probed(self._now, more=more and self._probed)
        if against:
            self._failed(evidence)

    def _observe_canary(self, evidence: Evidence) -> None:
        self._heard_at = self._now
        if evidence.verdict in AGAINST:
            self._canaries_lost += 1
            self._failed(evidence)
            return
        self._canaries_lost = 0
        self._ok_at = self._now
        if self._accused.pop(Witness.RECEIPT, None):
            self.receipts_degraded = True

    def _failed(self, evidence: Evidence) -> None:
        self._failed_at = self._now
        self._last_reason = evidence.reason or evidence.verdict.value
        if self.status is not Status.DOWN:
            self._want_burst()

    def _want_burst(self) -> None:
        """Begin a burst, unless one is under way or a mere single failure began one just now."""
        if self._probed:
            serious = self._most() >= self._settings.trip / 2 or self._tally.row >= 2
            self._burst.begin(self._now, serious=serious)

    def _most(self) -> float:
        return max(self._tally.most(self._now), self._tally.joint_most(self._now))

    def _judge(self) -> Transition | None:
        match self.status:
            case Status.UNKNOWN | Status.UP | Status.SUSPECT:
                return self._judge_serving()
            case Status.DOWN:
                return self._judge_down()
            case Status.RECOVERING:
                return self._judge_recovering()

    def _judge_serving(self) -> Transition | None:
        if finding := self._confirmed():
            return self._become(Status.DOWN, *finding)
        suspicion = self._suspected()
        if self.status is not Status.SUSPECT and suspicion:
            return self._become(Status.SUSPECT, *suspicion)
        if self.status is Status.SUSPECT and self._clean() and (not suspicion or self._forgivable()):
            self._tally.forgive()
            return self._become(Status.UP, "clean", "")
        if self.status is Status.UNKNOWN and self._ok_at is not None and self._ok_at >= self.since:
            return self._become(Status.UP, "heard", "")
        # That nothing is heard may be the very thing it is accused of: then we do claim to know something.
        silent = self._now - self._heard_at > self._settings.unknown_after_s and Witness.SILENCE not in self._accused
        if self.status is not Status.UNKNOWN and silent:
            self._ok_at = None
            return self._become(Status.UNKNOWN, "not_heard_lately", "")
        return None

    def _judge_down(self) -> Transition | None:
        if self._now < self._hold.until or self._misconfigured or Witness.REPORT in self._accused:
            return None
        if self._probed and self._probes_ok < self._settings.recovery_probes:
            return None
        if self._canaries_lost:
            return None
        return self._become(Status.RECOVERING, "probes_ok" if self._probed else "report_withdrawn", "")

    def _judge_recovering(self) -> Transition | None:
        if finding := self._tripped_again():
            return self._become(Status.DOWN, *finding)
        age_s = self._now - self.since
        if age_s < self._settings.ramp_s:
            return None
        failed_at = self._failed_at if self._failed_at is not None else self.since
        calm = self._now - failed_at >= self._settings.ramp_s and (not self._probed or self._probes_ok > 0)
        if self._tally.successes >= self._settings.ramp_successes:
            return self._become(Status.UP, "ramp_done", f"{self._tally.successes} sends taken")
        if age_s >= 2 * self._settings.ramp_s and calm:
            return self._become(Status.UP, "ramp_quiet", "")
        return None

    def _confirmed(self) -> Finding | None:
        """What makes it down, if anything does."""
        settings, tally, factor = self._settings, self._tally, self._factor
        if self._misconfigured:
            return "misconfigured", self._last_reason
        apart_s = settings.row_span_s if tally.hard else settings.provisional_span_s
        if self._in_a_row(apart_s):
            return "five_in_a_row", f"{tally.row} failures in a row, last: {self._last_reason}"
        probes = tally.probes
        if (
            probes.count >= settings.probe_row * factor
            and probes.last_at - probes.began_at >= settings.probe_row_span_s
        ):
            return "probes_failed", f"{probes.count} probes in a row failed, last: {self._last_reason}"
        if tally.apart_s() >= apart_s and (finding := self._summed_up(settings.trip * factor)):
            return finding
        missing = self._accused.get(Witness.RECEIPT, ("", ""))[0] == RECEIPTS_MISSING
        if self._canaries_lost >= CANARIES_LOST or (self._canaries_lost and missing):
            return "canary_lost", "a message that we sent to ourselves did not arrive"
        return self._reported()

    def _in_a_row(self, apart_s: float) -> bool:
        """So many failures in a row, sends and probes together, that chance is no explanation."""
        settings, tally = self._settings, self._tally
        needed = tally.baseline.row * self._factor
        if tally.row >= needed and tally.row_apart_s() >= apart_s:
            return True
        needed -= (settings.row - settings.row_refused) * self._factor
        return tally.refused >= needed and tally.row_apart_s() >= settings.row_refused_span_s

    def _summed_up(self, trip: float) -> Finding | None:
        """Sends alone, sends and probes together, or sends that something else seconds."""
        tally = self._tally
        seconded = self._probes_against() or self._witnessed or Witness.RECEIPT in self._accused
        sends, joint = tally.most(self._now), tally.joint_most(self._now)
        alone = trip * self._settings.alone_factor
        if max(sends, joint) < alone and not (seconded and sends >= trip):
            return None
        sums, what = (tally.sums, "sends") if sends >= joint else (tally.joint, "sends and probes")
        return (
            "cusum_fast" if sums.fast >= sums.slow else "cusum_slow",
            f"{sums.wrong} of the last {sums.count} {what} failed, last: {self._last_reason}",
        )

    def _reported(self) -> Finding | None:
        if self._reported_since is None or Witness.REPORT not in self._accused:
            return None
        standing_s = self._now - self._reported_since
        if standing_s < self._settings.report_stands_s * self._factor or (self._probed and not self._probes_against()):
            return None
        return self._accused[Witness.REPORT]

    def _probes_against(self) -> bool:
        """At least two of the last three recent probes failed."""
        fresh = [failed for at, failed in self._probes if self._now - at <= self._settings.probe_memory_s]
        return sum(fresh) >= 2

    def _suspected(self) -> Finding | None:
        half = self._settings.trip / 2 * self._factor
        if self._most() >= half or self._tally.row >= 2 * self._factor:
            wrong = max(self._tally.sums.wrong, self._tally.row)
            return "failing", f"{wrong} failures, last: {self._last_reason}"
        return next(iter(self._accused.values()), None)

    def _clean(self) -> bool:
        """Nothing has failed for long, or nothing is left against it: where much is sent, something always fails."""
        works = self._ok_at is not None and self._failed_at is not None and self._ok_at > self._failed_at
        since = self.since if works and self._tally.calm else self._failed_at
        return since is None or self._now - since >= self._settings.clean_s

    def _forgivable(self) -> bool:
        """Nothing accuses it, and sends work again; or it is idle, was short of a trip, and every probe since passed.

        The slow arm alone would need a hundred successes to forget one broken connection.
        """
        if self._accused:
            return False
        if self._tally.passed >= self._settings.ramp_successes:
            return True
        if self._tally.most(self._now) >= self._settings.trip:
            return False
        return not self._probed or self._probes_ok >= self._settings.burst

    def _tripped_again(self) -> Finding | None:
        if self._misconfigured:
            return "misconfigured", self._last_reason
        if self._tally.probes.count >= 2 * self._factor:
            return "probes_failed", f"{self._tally.probes.count} probes in a row failed, last: {self._last_reason}"
        if self._tally.successes >= self._settings.ramp_successes:
            return self._confirmed()
        if self._tally.most(self._now) >= self._settings.trip_recovering * self._factor:
            return "failed_again", f"{self._tally.sums.wrong} sends failed, last: {self._last_reason}"
        if self._canaries_lost:
            return "canary_lost", "a message that we sent to ourselves did not arrive"
        return self._reported()

    def _become(self, status: Status, reason: str, counted: str) -> Transition:
        before, since = self.status, self.since
        self.status, self.since, self.reason = status, self._now, reason
        began = self._tally.began_at()
        self.words = describe(
            self.endpoint, self.direction, status, reason=reason, counted=counted, began_at=began or self._now
        )
        if status is Status.SUSPECT:
            # Where much is sent, chance makes suspect every minute: that alone must not keep people from home.
            if self._suspected_at is None or self._now - self._suspected_at >= self._settings.penalty_half_life_s:
                self._suspected_at = self._now
                self._damping.add(self._now, self._settings.penalty_suspect)
            self._want_burst()
        elif status is Status.DOWN:
            suspected = before is Status.SUSPECT and self._suspected_at == since
            charged = self._settings.penalty_suspect if suspected else 0.0
            self._damping.add(self._now, self._settings.penalty_down - charged)
            self._hold.extend(self._now, self._jitter())
            self._accused.pop(Witness.RECEIPT, None)
        if status in (Status.DOWN, Status.RECOVERING):
            self._tally.reset()
            self._burst.end()
            self._probes_ok = 0
            self._probes.clear()
        return Transition(self.endpoint, self.direction, before, status, self._now, reason, self.words)

    def snapshot(self) -> dict[str, Any]:
        """Everything a restarted supervisor needs to go on, as JSON values."""
        return {
            "status": self.status.value,
            "since": self.since,
            "reason": self.reason,
            "words": self.words,
            "tally": self._tally.snapshot(),
            "hold": self._hold.snapshot(),
            "damping": self._damping.snapshot(),
            "probes": [list(probe) for probe in self._probes],
            "probes_ok": self._probes_ok,
            "probe_ok_at": self.probe_ok_at,
            "probe_failed_at": self.probe_failed_at,
            "suspected_at": self._suspected_at,
            "ok_at": self._ok_at,
            "failed_at": self._failed_at,
            "last_reason": self._last_reason,
            "misconfigured": self._misconfigured,
            "receipts_degraded": self.receipts_degraded,
            "canaries_lost": self._canaries_lost,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from a snapshot, perhaps of the version before; what reports and silence said is heard anew."""
        self.status = Status(saved["status"])
        self.since, self.reason, self.words = float(saved["since"]), str(saved["reason"]), str(saved["words"])
        self._tally.restore(saved["tally"])
        self._hold.restore(saved["hold"])
        self._damping.restore(saved["damping"])
        self._probes.extend((float(at), bool(failed)) for at, failed in saved["probes"])
        self._probes_ok = int(saved["probes_ok"])
        self._suspected_at = saved.get("suspected_at")
        self.probe_ok_at, self.probe_failed_at = saved["probe_ok_at"], saved["probe_failed_at"]
        self._ok_at, self._failed_at = saved["ok_at"], saved["failed_at"]
        self._last_reason = str(saved["last_reason"])
        self._misconfigured = bool(saved["misconfigured"])
        self.receipts_degraded = bool(saved["receipts_degraded"])
        self._canaries_lost = int(saved["canaries_lost"])
