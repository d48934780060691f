"""Our detector under its own probe and canary schedule, on virtual time, as the detectors' bench plays it."""

import heapq
import random
from collections.abc import Callable, Iterable

from health.report import Direction, EndpointId, Evidence, Status, Transition, Verdict, Witness
from health.thresholds import DetectorSettings
from health.watch import EndpointWatch, MonitorTarget
from router.bench.streams import Kind, Send

ENDPOINT = EndpointId("sms/bench")
START = 1_790_000_000.0
TICK_S = 0.25
"""As often as the monitor looks."""
CALM_TICK_S = 1.0
"""While nothing is wrong: the bench would take four times as long, and nothing else would change."""
PROVISIONAL_S = 2.0
"""A dispatcher says so when a send has not been answered for this long."""
BOUND_S = 5.0
"""And gives it up after this long: the bound of HTTP and SMPP."""

CANARY_BOUND_S = 30.0
"""`canary_bound_s` of an endpoint whose canaries are usually back within seconds; the default is a minute."""

Probe = Callable[[float], Kind | None]
"""How a probe that begins now goes; None: well."""


class Watched:
    """One endpoint, its evidence played in the order in which it is known, probed as the monitor probes."""

    def __init__(self, seed: int, probe: Probe, *, receipts: bool = False, canary_lost_from: float = 0.0) -> None:
        """`canary_lost_from`: canaries sent from then on are lost; 0: there are none."""
        target = MonitorTarget("bench", receipts=receipts, canary=canary_lost_from > 0, canary_bound_s=CANARY_BOUND_S)
        jitter = random.Random(seed * 7919 + 1).random
        self.watch = EndpointWatch(ENDPOINT, target, DetectorSettings(), now=START, random=jitter)
        self.transitions: list[Transition] = []
        self.probes = 0
        self._probe = probe
        self._canary_lost_from = canary_lost_from
        self._detector = self.watch.detectors[Direction.OUT]
        self._now = START
        self._hangs = False
        self._canary_sent: float | None = None
        self._later: list[tuple[float, int, Evidence]] = []
        self._heard = 0

    def play(self, sends: Iterable[Send], began: float, *, until: Status | None = None) -> float:
        """Play them all, or until that status; the seconds from `began` until then, infinite if never."""
        for send in sends:
            self._advance(began + send.at)
            self._expect(began + send.at, send)
            if until is not None and (took_s := self.first(until, began)) < float("inf"):
                return took_s
        self._advance(began + send.at)
        return self.first(until, began) if until is not None else float("inf")

    def say(
        self,
        at: float,
        verdict: Verdict,
        token: str,
        witness: Witness = Witness.OUTCOME,
        reason: str = "",
    ) -> None:
        """One piece of evidence, known at that time."""
        self._heard += 1
        heapq.heappush(
            self._later, (at, self._heard, Evidence(ENDPOINT, Direction.OUT, verdict, witness, at, token, reason))
        )

    def first(self, status: Status, since: float) -> float:
        """When it first was that, in seconds after `since`; infinite: never."""
        found = (one.at - since for one in self.transitions if one.after is status and one.at >= since)
        return next(found, float("inf"))

    def _expect(self, at: float, send: Send) -> None:
        token = f"t{send.number}"
        if send.answered_s > PROVISIONAL_S:
            self.say(at + PROVISIONAL_S, Verdict.PROVISIONAL, token)
        if send.answered_s > BOUND_S:
            self.say(at + BOUND_S, Verdict.FAILURE, token, reason="read_timeout")
        elif send.failed:
            reason = "connect_refused" if send.refused else "http_503"
            self.say(at + send.answered_s, Verdict.FAILURE, token, reason=reason)
        else:
            late = send.answered_s > PROVISIONAL_S
            self.say(at + send.answered_s, Verdict.WITHDRAWN if late else Verdict.OK, token)

    def _advance(self, until: float) -> None:
        """Let time pass, in steps; what is known by a step is heard in it."""
        while True:
            calm = self._detector.status is Status.UP and not self._detector.wants_probe_burst
            self._hear(self._now)
            step = CALM_TICK_S if calm and not self._hangs else TICK_S
            if self._now + step > until:
                break
            self._now += step
            self._look(self._now)
        self._hear(until)

    def _hear(self, until: float) -> None:
        while self._later and self._later[0][0] <= until:
            evidence = heapq.heappop(self._later)[2]
            self.transitions += self.watch.observe(evidence)

    def _look(self, now: float) -> None:
        self._hear(now)
        watch = self.watch
        watch.hurry(now)
        overdue, found = watch.probe_overdue(now)
        self.transitions += found
        if overdue:
            self._hangs = False
            self.transitions += watch.probe_ended(now, Verdict.FAILURE, "probe_timeout")
        if watch.probe_due(now):
            watch.probe_began(now)
            self.probes += 1
            kind = self._probe(now)
            self._hangs = kind is Kind.HANGS
            if kind is None:
                self.transitions += watch.probe_ended(now, Verdict.OK, "")
            elif kind is Kind.FAILS:
                self.transitions += watch.probe_ended(now, Verdict.FAILURE, "connect_refused")
        if self._canary_lost_from:
            self._look_for_canary(now)
        self.transitions += watch.tick(now, 0)

    def _look_for_canary(self, now: float) -> None:
        watch = self.watch
        if watch.canary_overdue(now):
            self.transitions += watch.canary_ended(now, Verdict.FAILURE, "canary_lost")
            self._canary_sent = None
        elif self._canary_sent is not None and self._canary_sent < self._canary_lost_from:
            self.transitions += watch.canary_ended(now, Verdict.OK, "")
            self._canary_sent = None
        if self._canary_sent is None and watch.canary_due(now):
            watch.canary_began(now)
            self._canary_sent = now
