"""What silence says: beats, receipts and inbound messages that should have come."""

import bisect
import math
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from health.thresholds import DetectorSettings

INTERVALS_MAX = 1000
PHI_MAX = 300.0
"""Where the normal tail underflows; certainty needs no more digits."""


class PhiAccrual:
    """How surely a beat is missing: `phi = -log10(1 - F(time since the last beat))`, F normal over past intervals.

    After Hayashibara et al., "The phi accrual failure detector" (2004), with Akka's acceptable pause and smallest
    deviation. At the defaults a worker that beats every second is suspected 3.6 s after its last beat.
    """

    def __init__(self, settings: DetectorSettings, now: float) -> None:
        self._settings = settings
        self._last = now
        self._intervals: deque[float] = deque([settings.beat_s], maxlen=INTERVALS_MAX)
        self._sum = settings.beat_s
        self._squares = settings.beat_s**2

    def beat(self, now: float, *, learn: bool = True) -> None:
        """One came. `learn`: its interval is real, not an artefact of our own lateness."""
        interval = max(0.0, now - self._last)
        self._last = now
        if not learn:
            return
        if len(self._intervals) == INTERVALS_MAX:
            oldest = self._intervals[0]
            self._sum -= oldest
            self._squares -= oldest**2
        self._intervals.append(interval)
        self._sum += interval
        self._squares += interval**2

    def phi(self, now: float) -> float:
        """0 to 300."""
        mean = self._sum / len(self._intervals)
        variance = max(0.0, self._squares / len(self._intervals) - mean**2)
        deviation = max(math.sqrt(variance), self._settings.beat_deviation_min_s)
        late = (now - self._last - mean - self._settings.beat_pause_s) / deviation
        missing = 0.5 * math.erfc(late / math.sqrt(2))
        return min(PHI_MAX, -math.log10(missing)) if missing > 0 else PHI_MAX


LAG_EDGES_S = tuple(0.25 * 1.35**step for step in range(40))
"""Receipt lags from a quarter of a second to about nine hours, in steps of 35 %."""
WINDOWS_S = (30.0, 60.0, 120.0, 300.0, 600.0)
AWAITED_MAX = 5000
TEST_EVERY_S = 5.0
SUSPECT_Z = 4.0
TRIP_Z = 5.0
TRIP_EXPECTED_MIN = 8.0
LEARNT_MIN = 50
"""Receipts that must have been seen before their absence means anything."""


@dataclass(frozen=True, slots=True)
class Deficit:
    """Receipts expected and seen in the window that speaks loudest."""

    window_s: float
    expected: float
    seen: int
    z: float
    tripped: bool

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.seen} receipts in {self.window_s:.0f} s where {self.expected:.0f} were expected"


class LagBaseline:
    """How long receipts usually take, and how many never come: a histogram that fades (half of 2,000 receipts)."""

    def __init__(self) -> None:
        self._counts = [0.0] * (len(LAG_EDGES_S) + 1)
        self._never = 0.0

    def learn(self, lag_s: float | None) -> None:
        """One receipt came after `lag_s`; None: it never came."""
        if self.weight > 2000:
            self._counts = [count / 2 for count in self._counts]
            self._never /= 2
        if lag_s is None:
            self._never += 1
        else:
            self._counts[bisect.bisect_left(LAG_EDGES_S, lag_s)] += 1

    @property
    def weight(self) -> float:
        """How many messages it rests on."""
        return sum(self._counts) + self._never

    def shares(self) -> list[float]:
        """Of all messages, those whose receipt has come by each edge."""
        total, came, shares = max(self.weight, 1.0), 0.0, []
        for count in self._counts[:-1]:
            came += count
            shares.append(came / total)
        return shares

    def snapshot(self) -> dict[str, Any]:
        """As JSON values."""
        return {"counts": self._counts, "never": self._never}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from a snapshot; one of another shape is dropped."""
        if len(saved["counts"]) == len(self._counts):
            self._counts, self._never = [float(count) for count in saved["counts"]], float(saved["never"])


class ReceiptDeficit:
    """Taken but not delivered? Compares receipts seen with those the usual lag lets expect.

    Over windows w: `E = sum F(age)(1 - l0)`, `V = sum p(1 - p)`, `z = (E - O) / sqrt(V)`. Suspect at z > 4, tripped at
    z > 5 with E >= 8 in two tests in a row, 5 s apart. What is missing may be the receipts alone, so a trip asks for
    a canary; it decides nothing.
    """

    def __init__(self) -> None:
        self.baseline = LagBaseline()
        self._awaited: OrderedDict[str, tuple[float, bool]] = OrderedDict()
        self._tested_at = float("-inf")
        self._over = 0
        self._last: Deficit | None = None

    def sent(self, token: str, at: float) -> None:
        """A message was taken; a receipt should come. Beyond 5,000 awaited ones the oldest is let go unlearnt."""
        if token and token not in self._awaited:
            self._await(token, at, seen=False)

    def received(self, token: str, at: float) -> None:
        """Its receipt came, perhaps before we heard that it was sent: another process tells us that.

        Later receipts of the same message change nothing.
        """
        began, seen = self._awaited.get(token, (at, False))
        if token and not seen:
            self._await(token, began, seen=True)
            self.baseline.learn(max(0.0, at - began))

    def _await(self, token: str, at: float, *, seen: bool) -> None:
        self._awaited[token] = (at, seen)
        if len(self._awaited) > AWAITED_MAX:
            self._awaited.popitem(last=False)

    def test(self, now: float) -> Deficit | None:
        """The deficit, if receipts are missing beyond chance; tested anew every 5 s, else the last answer."""
        if now - self._tested_at < TEST_EVERY_S:
            return self._last
        self._tested_at = now
        worst = self._worst(now)
        self._let_go(now, learn=worst is None)
        if worst is None or worst.z <= SUSPECT_Z:
            self._over, self._last = 0, None
            return None
        over = worst.z > TRIP_Z and worst.expected >= TRIP_EXPECTED_MIN
        self._over = self._over + 1 if over else 0
        self._last = Deficit(worst.window_s, worst.expected, worst.seen, worst.z, tripped=self._over >= 2)
        return self._last

    def reset(self) -> None:
        """Forget what is awaited, keep the baseline."""
        self._awaited.clear()
        self._over, self._last = 0, None

    def _let_go(self, now: float, *, learn: bool) -> None:
        while self._awaited:
            token, (at, seen) = next(iter(self._awaited.items()))
            if now - at <= WINDOWS_S[-1]:
                return
            del self._awaited[token]
            if learn and not seen:
                self.baseline.learn(None)

    def _worst(self, now: float) -> Deficit | None:
        if self.baseline.weight < LEARNT_MIN:
            return None
        shares = self.baseline.shares()
        worst: Deficit | None = None
        expected = variance = 0.0
        seen = 0
        entries = reversed(self._awaited.values())
        entry = next(entries, None)
        for window_s in WINDOWS_S:
            while entry is not None and now - entry[0] <= window_s:
                step = bisect.bisect_right(LAG_EDGES_S, now - entry[0]) - 1
                share = shares[step] if step >= 0 else 0.0
                expected += share
                variance += share * (1 - share)
                seen += entry[1]
                entry = next(entries, None)
            # One receipt's worth of variance at least: a baseline without a single loss still is a sample.
            z = (expected - seen) / math.sqrt(max(variance, 1.0))
            if worst is None or z > worst.z:
                worst = Deficit(window_s, expected, seen, z, tripped=False)
        return worst


HOURS = 168
ARRIVALS_MAX = 2000
SILENCE_CHANCE = 1e-6
EXPOSURE_MIN_H = 3.0


class InboundSilence:
    """Nothing comes in any more? Compares arrivals with the usual rate of this hour of the week (Poisson).

    Silent when `P(N <= n | expected) < 10^-6` over a window of 1 to 60 minutes; nothing is said before an hour of the
    week and its neighbours have been watched for three hours.
    """

    WINDOWS_S = (60.0, 300.0, 900.0, 3600.0)

    def __init__(self, now: float) -> None:
        self._counts = [0.0] * HOURS
        self._exposure_h = [0.0] * HOURS
        self._arrivals: deque[float] = deque(maxlen=ARRIVALS_MAX)
        self._seen_at = now
        self._since = now
        self._silent = False

    def arrived(self, at: float) -> None:
        """One message came in. It ends a silence: what did not come before it is not held against what comes now."""
        if self._silent:
            self._silent, self._since = False, at
        self._arrivals.append(at)
        self._counts[_hour(at)] += 1

    def test(self, now: float) -> str | None:
        """What is missing, for people; None: nothing is. Call it every few seconds: it also measures exposure."""
        hour = _hour(now)
        silent = self._missing(now, hour)
        self._silent = silent is not None
        if silent is None:
            # A silence must not teach us that silence is normal; its exposure is not counted.
            self._exposure_h[hour] += min(max(0.0, now - self._seen_at), 60.0) / 3600
            if self._exposure_h[hour] > 8:
                self._exposure_h[hour] /= 2
                self._counts[hour] /= 2
        self._seen_at = now
        return silent

    def reset(self, now: float) -> None:
        """Judge only what should have come from now on."""
        self._since = now

    def _missing(self, now: float, hour: int) -> str | None:
        hours = (hour - 1, hour, (hour + 1) % HOURS)
        exposure_h = sum(self._exposure_h[index] for index in hours)
        if exposure_h < EXPOSURE_MIN_H:
            return None
        rate = sum(self._counts[index] for index in hours) / exposure_h / 3600
        for window_s in self.WINDOWS_S:
            watched_s = min(window_s, now - self._since)
            if len(self._arrivals) == ARRIVALS_MAX and now - self._arrivals[0] < watched_s:
                return None  # more came than we remember, so it is not silent
            seen = 0
            for at in reversed(self._arrivals):
                if now - at > watched_s:
                    break
                seen += 1
            if poisson_at_most(seen, rate * watched_s) < SILENCE_CHANCE:
                return f"{seen} inbound messages in {watched_s:.0f} s where {rate * watched_s:.0f} were expected"
        return None

    def snapshot(self) -> dict[str, Any]:
        """As JSON values."""
        return {"counts": self._counts, "exposure_h": self._exposure_h}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from a snapshot; what came while nobody watched is not missed."""
        if len(saved["counts"]) == len(saved["exposure_h"]) == HOURS:
            self._counts = [float(count) for count in saved["counts"]]
            self._exposure_h = [float(hours) for hours in saved["exposure_h"]]


def poisson_at_most(count: int, expected: float) -> float:
    """P(N <= count) where `expected` events are expected; 1 if far more than needed were seen."""
    if expected <= 0 or count >= expected:
        return 1.0
    total = 0.0
    for number in range(count + 1):
        total += math.exp(number * math.log(expected) - expected - math.lgamma(number + 1))
    return min(1.0, total)


def _hour(at: float) -> int:
    moment = datetime.fromtimestamp(at, UTC)
    return moment.weekday() * 24 + moment.hour
