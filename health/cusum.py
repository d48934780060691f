"""The evidence against one endpoint, tallied: what sends say, what sends and probes say together, failures in a row."""

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from health.baseline import Baseline
from health.report import Verdict
from health.sums import Sums
from health.thresholds import DetectorSettings

SETTLED_MAX = 512
OUTSTANDING_MAX = 1000
OUTSTANDING_S = 90.0
"""An unanswered send nobody spoke of again: its worker died, which says nothing about the endpoint."""
SLOW_CEILING = 0.9
"""Slowness alone makes suspect, never down: its part of the sum stays below this share of the trip."""
ROW_EVENT_MAX = 2
REFUSED = frozenset({"connect_refused", "connect_failed"})
"""Nobody listened: the message never mattered."""


@dataclass(slots=True)
class Row:
    """Failures in a row. Of what fails within half a second two count: it may be one broken connection."""

    event_s: float = 0.5
    count: int = 0
    began_at: float = 0.0
    last_at: float = 0.0
    hard: int = 0
    """Of these, the ones that failed for good."""
    total: int = 0
    """Without that bound."""
    refused: int = 0
    """Of all, the ones whose connection was refused: each was a connection of its own."""
    event_at: float = float("-inf")
    event_count: int = 0

    def add(self, at: float, *, hard: bool, refused: bool = False) -> None:
        """One more."""
        if self.count == 0:
            self.began_at = at
            self.event_at = float("-inf")
        self.last_at = at
        self.hard += hard
        self.total += 1
        self.refused += refused
        if at - self.event_at > self.event_s:
            self.event_at, self.event_count = at, 0
        self.event_count += 1
        if self.event_count <= ROW_EVENT_MAX:
            self.count += 1

    def clear(self) -> None:
        """Something succeeded."""
        self.count = self.hard = self.total = self.refused = 0

    def snapshot(self) -> list[float]:
        """As JSON values; an event is half a second and is not kept."""
        return [self.count, self.began_at, self.last_at, self.hard, self.total, self.refused]

    def restore(self, saved: list[float]) -> None:
        """Go on from a snapshot."""
        self.count, self.began_at, self.last_at = int(saved[0]), saved[1], saved[2]
        self.hard, self.total, self.refused = (int(one) for one in saved[3:6])


class Tally:
    """What sends say (`sums`), what sends and probes say together (`joint`), and the rows of failed sends and probes.

    A probe that passes clears nothing that sends have said: it only weighs in the joint sums. A send not answered yet
    counts like a failure, weighted by the share of such sends that failed in the end, so an endpoint that has merely
    become slow is not taken for a dead one.
    """

    def __init__(self, settings: DetectorSettings) -> None:
        self._settings = settings
        self.sums = Sums()
        self.joint = Sums()
        self.baseline = Baseline(settings)
        self.sends = Row(settings.event_s)
        self.probes = Row(settings.event_s)
        self.last_failed_at = 0.0
        self.successes = 0
        """Since the last reset."""
        self.passed = 0
        """Sends taken since the last failure."""
        self._sent_at: float | None = None
        self._outstanding: OrderedDict[str, float] = OrderedDict()
        self._settled: deque[str] = deque(maxlen=SETTLED_MAX)
        self._prov_failed = 1.0
        self._prov_withdrawn = 0.0

    def reset(self) -> None:
        """Begin anew, keeping what is normal for this endpoint and which sends are still unanswered elsewhere."""
        self.forgive()
        self.successes = 0
        self.baseline.forget_recent()
        self._settled.extend(self._outstanding)
        self._outstanding.clear()

    def forgive(self) -> None:
        """Drop what has been summed up against it."""
        self.sums.clear()
        self.joint.clear()
        self.sends.clear()
        self.probes.clear()

    def send(self, verdict: Verdict, at: float, token: str, *, learn: bool, reason: str = "") -> bool:
        """Count one real send; whether it spoke against the endpoint. `learn`: it may shift what is normal."""
        if token and token in self._settled:
            return False
        known = bool(token) and token in self._outstanding
        if verdict is Verdict.PROVISIONAL:
            return self._provisional(at, token, known=known)
        if known:
            del self._outstanding[token]
            self._settled.append(token)
            self._learn_provisional(failed=verdict is Verdict.FAILURE)
        self._sent_at = at
        match verdict:
            case Verdict.FAILURE:
                self._fail(at, counted=known, learn=learn, refused=reason in REFUSED)
                return True
            case Verdict.OK | Verdict.WITHDRAWN:
                self._succeed(learn=learn)
            case Verdict.SLOW:
                self._slow(at)
            case _:
                pass
        return False

    def probe(self, verdict: Verdict, at: float, *, counted: bool, reason: str = "") -> None:
        """Count one probe. `counted`: its provisional failure already stands in the row."""
        if verdict in (Verdict.FAILURE, Verdict.PROVISIONAL, Verdict.MISCONFIGURED):
            hard = verdict is not Verdict.PROVISIONAL
            if hard:
                self.joint.fail(at, self.baseline.failure, self._settings, ceiling=2 * self._settings.trip)
            if counted and self.probes.count:
                self.probes.hard += hard
                self.probes.last_at = at
            else:
                self.probes.add(at, hard=hard, refused=reason in REFUSED)
        else:
            self.probes.clear()
            self.joint.succeed(self.baseline.success)

    def waiting(self, now: float) -> tuple[float, float]:
        """What sends not answered yet add to the fast and the slow sum."""
        while self._outstanding and now - next(iter(self._outstanding.values())) > OUTSTANDING_S:
            self._outstanding.popitem(last=False)
        count = min(len(self._outstanding), self._settings.provisional_max)
        if not count:
            return 0.0, 0.0
        failing = count * self._prov_failed / (self._prov_failed + self._prov_withdrawn)
        fast, slow = self.baseline.failure
        return failing * fast, failing * slow

    def most(self, now: float) -> float:
        """The largest of the sums of sends, those not answered yet included."""
        fast, slow = self.waiting(now)
        return max(self.sums.fast + fast, self.sums.slow + slow)

    def joint_most(self, now: float) -> float:
        """The same of sends and probes together; 0 while every send works: their word counts more than a probe's."""
        sent_lately = self._sent_at is not None and self.joint.since is not None and self._sent_at >= self.joint.since
        if sent_lately and self.sums.most == 0 and not self._outstanding:
            return 0.0
        fast, slow = self.waiting(now)
        return max(self.joint.fast + fast, self.joint.slow + slow)

    def began_at(self) -> float | None:
        """When what is wrong now began; None: nothing is wrong."""
        began = [row.began_at for row in (self.sends, self.probes) if row.count]
        began += [sums.since for sums in (self.sums, self.joint) if sums.since is not None]
        return min(began, default=None)

    def apart_s(self) -> float:
        """Between the first and the last failure of what is wrong now."""
        began = self.began_at()
        return self.last_failed_at - began if began is not None else 0.0

    @property
    def calm(self) -> bool:
        """Nothing is left of what was summed up, and nothing is waited for."""
        return self.sums.most == self.joint.most == 0 == self.row and not self._outstanding

    @property
    def hard(self) -> bool:
        """At least two sends or probes have failed for good: one may fall by chance among sends merely slow."""
        return self.sums.wrong >= 2 or self.sends.hard + self.probes.hard >= 2

    @property
    def row(self) -> int:
        """Failures in a row, sends and probes together."""
        return self.sends.count + self.probes.count

    @property
    def refused(self) -> int:
        """How many of a row were refused their connections, if all were and a send among them."""
        total, refused = self.sends.total + self.probes.total, self.sends.refused + self.probes.refused
        return total if self.sends.total and refused == total else 0

    def row_apart_s(self) -> float:
        """Between the first and the last of the failures in a row."""
        rows = [row for row in (self.sends, self.probes) if row.count]
        return max(row.last_at for row in rows) - min(row.began_at for row in rows) if rows else 0.0

    def _provisional(self, at: float, token: str, *, known: bool) -> bool:
        if known or not token:
            return False
        self.last_failed_at = at
        self._outstanding[token] = at
        if len(self._outstanding) > OUTSTANDING_MAX:
            self._outstanding.popitem(last=False)
        self.sends.add(at, hard=False)
        return True

    def _fail(self, at: float, *, counted: bool, learn: bool, refused: bool) -> None:
        self.last_failed_at = at
        self.passed = 0
        for sums in (self.sums, self.joint):
            sums.fail(at, self.baseline.failure, self._settings, ceiling=2 * self._settings.trip)
        if counted and self.sends.count:
            self.sends.hard += 1
            self.sends.last_at = at
        else:
            self.sends.add(at, hard=True, refused=refused)
        if learn:
            self.baseline.sent(failed=True)

    def _succeed(self, *, learn: bool) -> None:
        self.successes += 1
        self.passed += 1
        for sums in (self.sums, self.joint):
            sums.succeed(self.baseline.success)
        self.sends.clear()
        self.probes.clear()
        if learn:
            self.baseline.sent(failed=False)

    def _slow(self, at: float) -> None:
        fast, slow = self.baseline.failure
        for sums in (self.sums, self.joint):
            wrong = sums.wrong
            sums.fail(at, (fast / 2, slow / 2), self._settings, ceiling=SLOW_CEILING * self._settings.trip)
            sums.wrong = wrong
        self.successes += 1
        self.sends.clear()
        self.probes.clear()

    def _learn_provisional(self, *, failed: bool) -> None:
        self._prov_failed = max(0.99 * self._prov_failed + failed, 0.01)
        self._prov_withdrawn = 0.99 * self._prov_withdrawn + (not failed)

    def snapshot(self) -> dict[str, Any]:
        """Everything a restarted supervisor needs to go on, as JSON values."""
        return {
            "sums": self.sums.snapshot(),
            "joint": self.joint.snapshot(),
            "baseline": self.baseline.snapshot(),
            "sends": self.sends.snapshot(),
            "probes": self.probes.snapshot(),
            "last_failed_at": self.last_failed_at,
            "sent_at": self._sent_at,
            "passed": self.passed,
            "successes": self.successes,
            "outstanding": list(self._outstanding.items())[-100:],
            "provisional": [self._prov_failed, self._prov_withdrawn],
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from a snapshot; one of the version before has other sums, which are begun anew."""
        if "sums" not in saved:
            return
        self.sums.restore(saved["sums"])
        self.joint.restore(saved["joint"])
        self.baseline.restore(saved["baseline"])
        self.sends.restore(saved["sends"])
        self.probes.restore(saved["probes"])
        self.last_failed_at = float(saved["last_failed_at"])
        self._sent_at = saved["sent_at"]
        self.passed = int(saved["passed"])
        self.successes = int(saved["successes"])
        self._outstanding = OrderedDict((str(token), float(at)) for token, at in saved["outstanding"])
        self._prov_failed, self._prov_withdrawn = saved["provisional"]
