"""One endpoint under watch: its detectors by direction, its probe and canary schedule; pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from health.detector import RECEIPTS_MISSING, EndpointDetector
from health.report import Direction, EndpointId, Evidence, Report, Status, Transition, Verdict, Witness
from health.silence import InboundSilence, ReceiptDeficit
from health.thresholds import DetectorSettings

CANARY_EVERY_S = 30.0
CANARY_BOUND_S = 60.0
PROBE_LATE = "no_answer"
PROBE_TIMEOUT = "probe_timeout"


@dataclass(frozen=True, slots=True)
class MonitorTarget:
    """What the monitor has to know about an endpoint."""

    family: str
    """Who runs it, so that independent providers are told apart; empty: we do (web chat)."""
    probe_s: float = 10.0
    """How often it is probed while idle."""
    directions: frozenset[Direction] = frozenset({Direction.OUT})
    probed: frozenset[Direction] = frozenset({Direction.OUT})
    """The directions its probe speaks for. The others are judged by what happens and by reports."""
    receipts: bool = False
    """Receipts come, and are recorded as evidence of witness RECEIPT with the attempt's token."""
    canary: bool = False
    """It can carry a message to ourselves that we read back."""
    canary_every_s: float = 0.0
    """Between two canaries while nothing is suspected; 0: only when something is."""
    canary_bound_s: float = CANARY_BOUND_S
    """A canary that takes longer is lost."""
    silence: bool = False
    """What comes in is watched: where plenty is usual at this hour of the week, silence makes it suspect."""


class EndpointWatch:
    """Detectors, probe schedule and silence tests of one endpoint. At most one probe and one canary at a time.

    The caller runs the I/O: it asks `probe_due`, says `probe_began`, asks `probe_overdue` while it waits, and says
    `probe_ended`; the same for canaries.
    """

    def __init__(
        self,
        endpoint: EndpointId,
        target: MonitorTarget,
        settings: DetectorSettings,
        *,
        now: float,
        random: Callable[[], float],
    ) -> None:
        """`random` returns numbers from 0 to 1; all jitter comes from it."""
        self.endpoint = endpoint
        self.target = target
        self._settings = settings
        self._random = random
        self._probe_at = now + random() * min(1.0, target.probe_s)
        self._probe_began: float | None = None
        self._probed_at = float("-inf")
        self._probe_number = 0
        self._probe_said_late = False
        self._canary_at = now
        self._canary_next = now + random() * target.canary_every_s
        self._canary_began: float | None = None
        self.proven_at = 0.0
        """When the last canary was sent that came back while nothing was suspected; 0: none yet."""
        self.deficit = ReceiptDeficit() if target.receipts else None
        self.silence = InboundSilence(now) if target.silence and Direction.IN in target.directions else None
        self.detectors = {
            direction: EndpointDetector(
                endpoint,
                direction,
                settings,
                now=now,
                jitter=lambda: 0.9 + 0.2 * random(),
                probed=direction in target.probed,
            )
            for direction in sorted(target.directions)
        }

    def observe(self, evidence: Evidence) -> list[Transition]:
        """Count one piece of evidence in its direction; one that is not watched says nothing."""
        detector = self.detectors.get(evidence.direction)
        if detector is None:
            return []
        good = evidence.verdict in (Verdict.OK, Verdict.WITHDRAWN, Verdict.SLOW)
        if self.deficit is not None and evidence.direction is Direction.OUT:
            if evidence.witness is Witness.OUTCOME and good:
                self.deficit.sent(evidence.token, evidence.at)
            elif evidence.witness is Witness.RECEIPT:
                self.deficit.received(evidence.token, evidence.at)
        if self.silence is not None and evidence.direction is Direction.IN and good:
            self.silence.arrived(evidence.at)
        return self._after([detector.observe(evidence)])

    def tick(self, now: float, doubt: float, reports: Sequence[Report] = ()) -> list[Transition]:
        """Let time pass; `reports` are the live ones about this endpoint."""
        transitions: list[Transition | None] = []
        for direction, detector in self.detectors.items():
            transitions.append(detector.hear(now, [report for report in reports if report.direction is direction]))
            if direction is Direction.OUT and self.deficit is not None and doubt == 0:
                deficit = self.deficit.test(now)
                reason = RECEIPTS_MISSING if deficit and deficit.tripped else "receipts_late"
                finding = (reason, deficit.words) if deficit else None
                transitions.append(detector.accuse(now, Witness.RECEIPT, finding))
            if direction is Direction.IN and self.silence is not None and doubt == 0:
                silent = self.silence.test(now)
                transitions.append(
                    detector.accuse(now, Witness.SILENCE, ("inbound_silent", silent) if silent else None)
                )
            transitions.append(detector.tick(now, doubt))
        return self._after(transitions)

    def probe_due(self, now: float) -> bool:
        """Begin a probe now."""
        if not self.target.probed or self._probe_began is not None:
            return False
        return now >= self._probe_at

    def probe_began(self, now: float) -> None:
        """A probe is under way."""
        self._probe_began = self._probed_at = now
        self._probe_said_late = False
        self._probe_number += 1

    def probe_overdue(self, now: float, excuse_s: float = 0.0) -> tuple[bool, list[Transition]]:
        """Whether to give the running probe up; after 2 s it counts as failed until it answers.

        `excuse_s`: our own lateness, which is not the endpoint's fault.
        """
        if self._probe_began is None:
            return False, []
        self._probe_began += excuse_s
        waited_s = now - self._probe_began
        transitions: list[Transition] = []
        if waited_s >= self._settings.probe_provisional_s and not self._probe_said_late:
            self._probe_said_late = True
            transitions = self._probe_said(now, Verdict.PROVISIONAL, PROBE_LATE)
        return waited_s >= self._settings.probe_bound_s, transitions

    def probe_ended(self, now: float, verdict: Verdict | None, reason: str) -> list[Transition]:
        """The probe ended; verdict None: it says nothing (our own fault)."""
        self._probe_began = None
        transitions: list[Transition] = []
        if verdict is None and self._probe_said_late:
            verdict, reason = Verdict.OK, "withdrawn"
        if verdict is not None:
            transitions = self._probe_said(now, verdict, reason)
        self._probe_at = max(now, self._probed_at + self._probe_every_s())
        return transitions

    def canary_due(self, now: float) -> bool:
        """Send a canary now."""
        if not self.target.canary or self._canary_began is not None:
            return False
        if self._suspects_loss():
            return now >= self._canary_at
        # One that is down for another reason is judged by its probes.
        down = any(detector.status is Status.DOWN for detector in self.detectors.values())
        return self.target.canary_every_s > 0 and not down and now >= self._canary_next

    def canary_began(self, now: float) -> None:
        """A canary is under way."""
        self._canary_began = now

    def canary_overdue(self, now: float) -> bool:
        """It is lost."""
        return self._canary_began is not None and now - self._canary_began >= self.target.canary_bound_s

    def canary_ended(self, now: float, verdict: Verdict | None, reason: str) -> list[Transition]:
        """The canary came back, or was lost; verdict None: it says nothing."""
        began, self._canary_began = self._canary_began, None
        began = began if began is not None else now
        every_s = self.target.canary_every_s
        self._canary_at = began + min(CANARY_EVERY_S, every_s or CANARY_EVERY_S)
        self._canary_next = began + every_s * (0.9 + 0.2 * self._random())
        if verdict is None or Direction.OUT not in self.detectors:
            return []
        # One that got through while others were missing proves nothing for the others.
        if verdict is Verdict.OK and not self._suspects_loss():
            self.proven_at = began
        evidence = Evidence(self.endpoint, Direction.OUT, verdict, Witness.CANARY, now, reason=reason)
        return self._after([self.detectors[Direction.OUT].observe(evidence)])

    def _suspects_loss(self) -> bool:
        return any(detector.wants_canary for detector in self.detectors.values())

    def look_away(self, now: float) -> None:
        """We did not look for a while: what did not come meanwhile proves nothing."""
        if self.deficit is not None:
            self.deficit.reset()
        if self.silence is not None:
            self.silence.reset(now)

    def hurry(self, now: float) -> None:
        """Bring the next probe forward when a burst is wanted."""
        if any(detector.wants_probe_burst for detector in self.detectors.values()):
            self._probe_at = min(self._probe_at, max(now, self._probed_at + self._settings.burst_spacing_s))

    def _probe_said(self, now: float, verdict: Verdict, reason: str) -> list[Transition]:
        token = f"probe-{self._probe_number}"
        return self._after(
            [
                self.detectors[direction].observe(
                    Evidence(self.endpoint, direction, verdict, Witness.PROBE, now, token, reason)
                )
                for direction in self.target.probed
                if direction in self.detectors
            ]
        )

    def _probe_every_s(self) -> float:
        settings, statuses = self._settings, {detector.status for detector in self.detectors.values()}
        if any(detector.wants_probe_burst for detector in self.detectors.values()):
            return settings.burst_spacing_s
        every_s = self.target.probe_s * (0.9 + 0.2 * self._random())
        if Status.DOWN in statuses:
            every_s = min(every_s, settings.probe_down_every_s * (0.8 + 0.4 * self._random()))
        if Status.RECOVERING in statuses:
            every_s = min(every_s, settings.probe_recovering_every_s)
        if Status.SUSPECT in statuses or Status.UNKNOWN in statuses:
            every_s = min(every_s, settings.probe_suspect_s)
        return every_s

    def _after(self, found: Iterable[Transition | None]) -> list[Transition]:
        transitions = [transition for transition in found if transition is not None]
        for transition in transitions:
            if transition.after is Status.DOWN:
                if transition.direction is Direction.OUT and self.deficit is not None:
                    self.deficit.reset()
                if transition.direction is Direction.IN and self.silence is not None:
                    self.silence.reset(transition.at)
        return transitions

    def snapshot(self) -> dict[str, Any]:
        """Everything a restarted supervisor needs to go on, as JSON values."""
        return {
            "detectors": {direction.value: detector.snapshot() for direction, detector in self.detectors.items()},
            "lags": self.deficit.baseline.snapshot() if self.deficit is not None else None,
            "silence": self.silence.snapshot() if self.silence is not None else None,
            "proven_at": self.proven_at,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from a snapshot."""
        for direction, detector in self.detectors.items():
            if direction.value in saved["detectors"]:
                detector.restore(saved["detectors"][direction.value])
        if self.deficit is not None and saved["lags"]:
            self.deficit.baseline.restore(saved["lags"])
        if self.silence is not None and saved["silence"]:
            self.silence.restore(saved["silence"])
        self.proven_at = float(saved.get("proven_at", 0.0))
