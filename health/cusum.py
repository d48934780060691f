"""The evidence against one endpoint, tallied: two CUSUM arms, failures in a row, sends not answered yet."""

import math
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from health.report import Verdict
from health.thresholds import DetectorSettings

SETTLED_MAX = 512
OUTSTANDING_MAX = 1000
OUTSTANDING_S = 90.0
"""An unanswered send nobody spoke of again: its worker died, which says nothing about the endpoint."""
SLOW_CEILING = 0.9
"""Slowness alone makes suspect, never down: its part of the sum stays below this share of the trip."""


@dataclass(slots=True)
class Row:
    """Failures in a row."""

    count: int = 0
    began_at: float = 0.0
    last_at: float = 0.0
    hard: int = 0
    """Of these, the ones that failed for good."""

    def add(self, at: float, *, hard: bool) -> None:
        """One more."""
        if self.count == 0:
            self.began_at = at
        self.count += 1
        self.hard += hard
        self.last_at = at

    def clear(self) -> None:
        """Something succeeded."""
        self.count = self.hard = 0


def _raised(total: float, weight: float, ceiling: float) -> float:
    """The sum after one observation; only what it adds is held below the ceiling."""
    if weight <= 0:
        return max(0.0, total + weight)
    return max(total, min(total + weight, ceiling))


class Tally:
    """Two-armed Bernoulli CUSUM over real sends, beside the rows of failed sends and failed probes.

    `S = max(0, S + w)` with `w = ln(p1/p0)` for a failure and `ln((1-p1)/(1-p0))` for a success (Wald's sequential
    test restarted at zero). A send not answered yet counts like a failure, weighted by the share of such sends that
    failed in the end, so an endpoint that has merely become slow is not taken for a dead one.
    """

    def __init__(self, settings: DetectorSettings) -> None:
        self._settings = settings
        self.fast = 0.0
        self.slow = 0.0
        self.baseline = settings.failure_share_floor
        self.sends = Row()
        self.probes = Row()
        self.rising_since: float | None = None
        """When the sums last left zero."""
        self.last_failed_at = 0.0
        self.successes = 0
        """Since the last reset."""
        self.passed = 0
        """Sends taken since the last failure."""
        self.wrong = (0, 0)
        """Failures, and sends, since the sums last left zero."""
        self._outstanding: OrderedDict[str, float] = OrderedDict()
        self._settled: deque[str] = deque(maxlen=SETTLED_MAX)
        self._prov_failed = 1.0
        self._prov_withdrawn = 0.0

    def reset(self) -> None:
        """Begin anew, keeping what is normal for this endpoint and which sends are still unanswered elsewhere."""
        self.fast = self.slow = 0.0
        self.sends.clear()
        self.probes.clear()
        self.rising_since = None
        self.successes = 0
        self.wrong = (0, 0)
        self._settled.extend(self._outstanding)
        self._outstanding.clear()

    def forgive(self) -> None:
        """Drop what has been summed up against it."""
        self.fast = self.slow = 0.0
        self.sends.clear()
        self.probes.clear()
        self.wrong = (0, 0)
        self.rising_since = None

    def send(self, verdict: Verdict, at: float, token: str, *, learn: bool) -> bool:
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
        match verdict:
            case Verdict.FAILURE:
                self._fail(at, counted=known, learn=learn)
                return True
            case Verdict.OK | Verdict.WITHDRAWN:
                self._succeed(learn=learn)
            case Verdict.SLOW:
                self._slow(at)
            case _:
                pass
        return False

    def probe(self, verdict: Verdict, at: float, *, counted: bool) -> None:
        """Count one probe. `counted`: its provisional failure already stands in the row."""
        if verdict in (Verdict.FAILURE, Verdict.PROVISIONAL, Verdict.MISCONFIGURED):
            hard = verdict is not Verdict.PROVISIONAL
            if counted and self.probes.count:
                self.probes.hard += hard
                self.probes.last_at = at
            else:
                self.probes.add(at, hard=hard)
        else:
            self.probes.clear()

    def sums(self, now: float) -> tuple[float, float]:
        """The fast and the slow sum, sends not answered yet included."""
        while self._outstanding and now - next(iter(self._outstanding.values())) > OUTSTANDING_S:
            self._outstanding.popitem(last=False)
        waiting = min(len(self._outstanding), self._settings.provisional_max)
        if not waiting:
            return self.fast, self.slow
        failing = self._prov_failed / (self._prov_failed + self._prov_withdrawn)
        fast, slow = self._weights(failure=True)
        return self.fast + waiting * failing * fast, self.slow + waiting * failing * slow

    def began_at(self) -> float | None:
        """When what is wrong now began; None: nothing is wrong."""
        began = [row.began_at for row in (self.sends, self.probes) if row.count]
        if self.rising_since is not None:
            began.append(self.rising_since)
        return min(began, default=None)

    def apart_s(self) -> float:
        """Between the first and the last failure of what is wrong now."""
        began = self.began_at()
        return self.last_failed_at - began if began is not None else 0.0

    @property
    def hard(self) -> bool:
        """At least two sends or probes have failed for good: one may fall by chance among sends merely slow."""
        return self.wrong[0] >= 2 or self.sends.hard + self.probes.hard >= 2

    @property
    def row(self) -> int:
        """Failures in a row, sends and probes together."""
        return self.sends.count + self.probes.count

    def row_apart_s(self) -> float:
        """Between the first and the last of the failures in a row."""
        rows = [row for row in (self.sends, self.probes) if row.count]
        return max(row.last_at for row in rows) - min(row.began_at for row in rows) if rows else 0.0

    def _normal(self) -> float:
        return min(max(self.baseline, self._settings.failure_share_floor), self._settings.failure_share_ceiling)

    def _weights(self, *, failure: bool) -> tuple[float, float]:
        normal = self._normal()
        fast = max(self._settings.fast_share, min(2 * normal, 0.9))
        slow = max(self._settings.slow_share, 2 * normal)
        if failure:
            return math.log(fast / normal), math.log(slow / normal)
        return math.log((1 - fast) / (1 - normal)), math.log((1 - slow) / (1 - normal))

    def _add(self, weights: tuple[float, float], ceiling: float) -> None:
        self.fast = _raised(self.fast, weights[0], ceiling)
        self.slow = _raised(self.slow, weights[1], ceiling)

    def _provisional(self, at: float, token: str, *, known: bool) -> bool:
        if known or not token:
            return False
        self.last_failed_at = at
        self._outstanding[token] = at
        if len(self._outstanding) > OUTSTANDING_MAX:
            self._outstanding.popitem(last=False)
        self.sends.add(at, hard=False)
        return True

    def _fail(self, at: float, *, counted: bool, learn: bool) -> None:
        self._rise(at, failed=1)
        self.last_failed_at = at
        self.passed = 0
        self._add(self._weights(failure=True), 2 * self._settings.trip)
        if counted and self.sends.count:
            self.sends.hard += 1
            self.sends.last_at = at
        else:
            self.sends.add(at, hard=True)
        if learn:
            self.baseline += self._settings.baseline_weight * (1 - self.baseline)

    def _succeed(self, *, learn: bool) -> None:
        self.successes += 1
        self.passed += 1
        self._add(self._weights(failure=False), 0.0)
        if self.fast == 0 and self.slow == 0:
            self.rising_since = None
            self.wrong = (0, 0)
        else:
            self.wrong = (self.wrong[0], self.wrong[1] + 1)
        self.sends.clear()
        self.probes.clear()
        if learn:
            self.baseline -= self._settings.baseline_weight * self.baseline

    def _rise(self, at: float, failed: int) -> None:
        if self.rising_since is None:
            self.rising_since = at
        self.wrong = (self.wrong[0] + failed, self.wrong[1] + 1)

    def _slow(self, at: float) -> None:
        self._rise(at, failed=0)
        fast, slow = self._weights(failure=True)
        self._add((fast / 2, slow / 2), SLOW_CEILING * self._settings.trip)
        self.successes += 1
        self.sends.clear()
        self.probes.clear()

    def _learn_provisional(self, *, failed: bool) -> None:
        self._prov_failed = max(0.99 * self._prov_failed + failed, 0.01)
        self._prov_withdrawn = 0.99 * self._prov_withdrawn + (not failed)

    def snapshot(self) -> dict[str, Any]:
        """Everything a restarted supervisor needs to go on, as JSON values."""
        return {
            "fast": self.fast,
            "slow": self.slow,
            "baseline": self.baseline,
            "sends": [self.sends.count, self.sends.began_at, self.sends.last_at, self.sends.hard],
            "probes": [self.probes.count, self.probes.began_at, self.probes.last_at, self.probes.hard],
            "rising_since": self.rising_since,
            "last_failed_at": self.last_failed_at,
            "passed": self.passed,
            "wrong": list(self.wrong),
            "successes": self.successes,
            "outstanding": list(self._outstanding.items())[-100:],
            "provisional": [self._prov_failed, self._prov_withdrawn],
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from a snapshot."""
        self.fast = float(saved["fast"])
        self.slow = float(saved["slow"])
        self.baseline = float(saved["baseline"])
        self.sends = Row(*saved["sends"])
        self.probes = Row(*saved["probes"])
        self.rising_since = saved["rising_since"]
        self.last_failed_at = float(saved["last_failed_at"])
        self.passed = int(saved["passed"])
        self.wrong = (int(saved["wrong"][0]), int(saved["wrong"][1]))
        self.successes = int(saved["successes"])
        self._outstanding = OrderedDict((str(token), float(at)) for token, at in saved["outstanding"])
        self._prov_failed, self._prov_withdrawn = saved["provisional"]
