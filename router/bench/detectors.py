"""The detector bench: ours and published breakers on the same seeded streams; times to detect, false alarms."""

import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from health.report import Direction, EndpointId, Evidence, Status, Verdict, Witness
from health.thresholds import DetectorSettings
from health.watch import EndpointWatch, MonitorTarget
from router.bench.breakers import published

OURS = "ours, with its probes"
OURS_BLIND = "ours, probes see nothing wrong"
ENDPOINT = EndpointId("sms/bench")
START = 1_790_000_000.0
TICK_S = 0.25
BEFORE_S = 60.0
"""Of health before the outage, at the base share of failures."""
BASE_SHARE = 0.02
WATCHED_S = 600.0
"""What has not tripped after this long counts as never."""
RECEIPT_LAG_S = 4.0
"""The median; lags are log-normal."""
LAG_SPREAD = 0.6
LEARNT_RECEIPTS = 400


@dataclass(frozen=True, slots=True)
class Cell:
    """How long each detector took for one kind of outage, over all seeds; infinite: not within ten minutes."""

    rate: float
    share: float
    times: dict[str, tuple[float, ...]]

    def median(self, name: str) -> float:
        """Seconds."""
        return statistics.median(self.times[name])

    def ninetieth(self, name: str) -> float:
        """The ninetieth percentile, seconds."""
        ordered = sorted(self.times[name])
        return ordered[int(0.9 * (len(ordered) - 1))]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One send of a stream."""

    at: float
    failed: bool


def stream(rate: float, share: float, seed: int, *, before_s: float, after_s: float) -> Iterator[Outcome]:
    """Poisson sends: `before_s` at the base share of failures, then at `share`; times from the outage's beginning."""
    dice = random.Random(seed)
    at = -before_s
    while (at := at + dice.expovariate(rate)) < after_s:
        yield Outcome(at, dice.random() < (share if at >= 0 else BASE_SHARE))


class _Watched:
    """Our detector under its own probe schedule, on virtual time."""

    def __init__(
        self, seed: int, probes_fail: Callable[[float], float], *, receipts: bool = False, canary: bool = False
    ) -> None:
        """`probes_fail`: the share of probes that fail at a time."""
        self._dice = random.Random(seed * 7919 + 1)
        target = MonitorTarget("bench", receipts=receipts, canary=canary)
        self.watch = EndpointWatch(ENDPOINT, target, DetectorSettings(), now=START, random=self._dice.random)
        self.statuses: list[tuple[float, Status]] = []
        self._probes_fail = probes_fail
        self._now = START

    def advance(self, until: float) -> None:
        """Let time pass in quarter seconds, probing."""
        while self._now + TICK_S <= until:
            self._now += TICK_S
            found = []
            self.watch.hurry(self._now)
            if self.watch.probe_due(self._now):
                self.watch.probe_began(self._now)
                fails = self._dice.random() < self._probes_fail(self._now)
                verdict = Verdict.FAILURE if fails else Verdict.OK
                found += self.watch.probe_ended(self._now, verdict, "connect_refused" if fails else "")
            found += self.watch.tick(self._now, 0)
            self.statuses += [(one.at, one.after) for one in found]

    def say(self, at: float, verdict: Verdict, witness: Witness = Witness.OUTCOME, token: str = "") -> None:
        """One piece of evidence."""
        reason = "http_500" if verdict is Verdict.FAILURE else ""
        found = self.watch.observe(Evidence(ENDPOINT, Direction.OUT, verdict, witness, at, token, reason))
        self.statuses += [(one.at, one.after) for one in found]

    def first(self, status: Status, since: float) -> float:
        """When it first was that, in seconds after `since`; infinite: never."""
        return next((at - since for at, after in self.statuses if after is status and at >= since), float("inf"))


def time_ours(rate: float, share: float, seed: int, *, probes_see: bool) -> float:
    """Seconds from the outage until our detector says `down`."""
    began = START + BEFORE_S
    watched = _Watched(seed, lambda at: share if probes_see and at >= began else 0.0)
    for one in stream(rate, share, seed, before_s=BEFORE_S, after_s=WATCHED_S):
        at = began + one.at
        watched.advance(at)
        watched.say(at, Verdict.FAILURE if one.failed else Verdict.OK)
        if (took_s := watched.first(Status.DOWN, began)) < float("inf"):
            return took_s
    watched.advance(began + WATCHED_S)
    return watched.first(Status.DOWN, began)


def time_published(rate: float, share: float, seed: int) -> dict[str, float]:
    """Seconds from the outage until each published breaker trips."""
    rules = published()
    times: dict[str, float] = {}
    for one in stream(rate, share, seed, before_s=BEFORE_S, after_s=WATCHED_S):
        for name, rule in rules.items():
            if rule.observe(one.at, failed=one.failed) and one.at >= 0:
                times.setdefault(name, one.at)
        if len(times) == len(rules):
            break
    return {name: times.get(name, float("inf")) for name in rules}


def measure_cell(rate: float, share: float, seeds: int) -> Cell:
    """Every detector on the same `seeds` streams."""
    times: dict[str, list[float]] = {OURS: [], OURS_BLIND: []}
    for seed in range(seeds):
        times[OURS].append(time_ours(rate, share, seed, probes_see=True))
        times[OURS_BLIND].append(time_ours(rate, share, seed, probes_see=False))
        for name, took_s in time_published(rate, share, seed).items():
            times.setdefault(name, []).append(took_s)
    return Cell(rate, share, {name: tuple(found) for name, found in times.items()})


def false_alarms(sends: int, rate: float = 1.0, seed: int = 1) -> dict[str, float]:
    """Trips at the base share of failures, by a million sends. Ours: `down`; and beside it, `suspect`."""
    watched = _Watched(seed, lambda at: BASE_SHARE)
    rules = published()
    trips: dict[str, int] = dict.fromkeys(rules, 0)
    count = 0
    for one in stream(rate, BASE_SHARE, seed, before_s=0.0, after_s=sends / rate):
        count += 1
        watched.advance(START + one.at)
        watched.say(START + one.at, Verdict.FAILURE if one.failed else Verdict.OK)
        for name, rule in rules.items():
            if rule.observe(one.at, failed=one.failed):
                trips[name] += 1
                rules[name] = published()[name]  # tripped, mended, begun anew
    downs = sum(status is Status.DOWN for _, status in watched.statuses)
    suspects = sum(status is Status.SUSPECT for _, status in watched.statuses)
    found = {"ours, down": downs, "ours, suspect": suspects, **trips}
    return {name: number / count * 1e6 for name, number in found.items()}


def time_silent_loss(rate: float, lost: float, seed: int) -> float:
    """Seconds until receipts that do not come make our detector `suspect`, which is when it asks for a canary.

    Every send is taken; from the outage on the share `lost` of them has no receipt.
    """
    dice = random.Random(seed)
    watched = _Watched(seed, lambda at: 0.0, receipts=True, canary=True)
    before_s = max(BEFORE_S, LEARNT_RECEIPTS / rate)
    began = START + before_s
    receipts: list[tuple[float, str]] = []
    at, number = -before_s, 0
    while (at := at + dice.expovariate(rate)) < WATCHED_S:
        number += 1
        now, token = began + at, f"t{number}"
        while receipts and receipts[0][0] <= now:
            came, earlier = receipts.pop(0)
            watched.advance(came)
            watched.say(came, Verdict.OK, Witness.RECEIPT, earlier)
        watched.advance(now)
        watched.say(now, Verdict.OK, token=token)
        if at < 0 or dice.random() >= lost:
            receipts.append((now + RECEIPT_LAG_S * dice.lognormvariate(0, LAG_SPREAD), token))
            receipts.sort()
        if (took_s := watched.first(Status.SUSPECT, began)) < float("inf"):
            return took_s
    return float("inf")


def silent_losses(rate: float, lost: float, seeds: int) -> tuple[float, ...]:
    """Over all seeds, shortest first."""
    return tuple(sorted(time_silent_loss(rate, lost, seed) for seed in range(seeds)))


def show_seconds(value: float) -> str:
    """`4.2`, `120`, or `never` within ten minutes."""
    if value == float("inf"):
        return "never"
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def names_of(cells: Sequence[Cell]) -> list[str]:
    """The detectors, ours first."""
    return list(cells[0].times)
