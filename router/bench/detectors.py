"""The detector bench: ours and published breakers on the same seeded streams; times to detect, false alarms."""

import heapq
import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from health.report import Status, Verdict, Witness
from router.bench.breakers import Breaker, published
from router.bench.streams import Kind, Noise, Send, healthy, outage
from router.bench.watched import START, Probe, Watched

OURS = "ours, probes see it"
OURS_BLIND = "ours, probes see nothing"
PROBES = "our probes"
BEFORE_S = 60.0
BEFORE_SENDS = 300
"""Of health before the outage, at the base share of failures: so long, and so many, at least."""
WATCHED_S = 600.0
"""What has not tripped after this long counts as never."""
RECEIPT_LAG_S = 4.0
"""The median; lags are log-normal."""
LAG_SPREAD = 0.6
LEARNT_RECEIPTS = 400
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Cell:
    """How long each detector took for one kind of outage, over all seeds; infinite: not within ten minutes."""

    kind: Kind
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


def time_ours(kind: Kind, rate: float, share: float, seed: int, *, probes_see: bool) -> float:
    """Seconds from the outage until our detector says `down`."""
    before_s = max(BEFORE_S, BEFORE_SENDS / rate)
    began = START + before_s
    sees = _probe(kind, lambda at: share if probes_see and at >= began else 0.0, seed)
    sends = outage(kind, rate, share, seed, before_s=before_s, after_s=WATCHED_S)
    return Watched(seed, sees).play(sends, began, until=Status.DOWN)


def time_published(kind: Kind, rate: float, share: float, seed: int) -> dict[str, float]:
    """Seconds from the outage until each published breaker trips."""
    before_s = max(BEFORE_S, BEFORE_SENDS / rate)
    sends = list(outage(kind, rate, share, seed, before_s=before_s, after_s=WATCHED_S))
    return {name: _time(breaker, sends) for name, breaker in published().items()}


def _time(breaker: Breaker, sends: Iterable[Send]) -> float:
    for at, failed in known(sends, breaker.timeout_s):
        if breaker.rule.observe(at, failed=failed) and 0 <= at <= WATCHED_S:
            return at
    return NEVER


def known(sends: Iterable[Send], timeout_s: float) -> Iterator[tuple[float, bool]]:
    """When which outcome is known to a caller that waits so long: a time, and whether it counts as failed."""
    open_: list[tuple[float, int, bool]] = []
    for send in sends:
        while open_ and open_[0][0] <= send.at:
            at, _, failed = heapq.heappop(open_)
            yield at, failed
        late = send.answered_s > timeout_s
        heapq.heappush(open_, (send.at + min(send.answered_s, timeout_s), send.number, late or send.failed))
    while open_:
        at, _, failed = heapq.heappop(open_)
        yield at, failed


def measure_cell(kind: Kind, rate: float, share: float, seeds: int) -> Cell:
    """Every detector on the same `seeds` streams."""
    times: dict[str, list[float]] = {OURS: [], OURS_BLIND: []}
    for seed in range(seeds):
        times[OURS].append(time_ours(kind, rate, share, seed, probes_see=True))
        times[OURS_BLIND].append(time_ours(kind, rate, share, seed, probes_see=False))
        for name, took_s in time_published(kind, rate, share, seed).items():
            times.setdefault(name, []).append(took_s)
    return Cell(kind, rate, share, {name: tuple(found) for name, found in times.items()})


def false_alarms(noise: Noise, sends: int, rate: float, seed: int = 1) -> dict[str, int]:
    """How often each detector cuts a healthy endpoint off. Ours: `down`; and beside it `suspect`, and its probes."""
    share = (noise.share + noise.share_most) / 2
    watched = Watched(seed, _probe(Kind.FAILS, lambda at: share, seed))
    watched.play(healthy(noise, rate, sends, seed), START)
    after = [one.after for one in watched.transitions]
    found = {"ours, down": after.count(Status.DOWN), "ours, suspect": after.count(Status.SUSPECT)}
    for name, breaker in published().items():
        rule, found[name] = breaker.rule, 0
        for at, failed in known(healthy(noise, rate, sends, seed), breaker.timeout_s):
            if rule.observe(at, failed=failed):
                found[name] += 1
                rule = published()[name].rule  # tripped, mended, begun anew
    return found | {PROBES: watched.probes}


def time_silent_loss(rate: float, lost: float, seed: int) -> tuple[float, float]:
    """Seconds until missing receipts make our detector `suspect` and a canary is sent, and until `down` by its loss.

    Every send is taken; from the outage on the share `lost` of them, and every canary, has no receipt.
    """
    dice = random.Random(seed)
    before_s = max(BEFORE_S, LEARNT_RECEIPTS / rate)
    began = START + before_s
    watched = Watched(seed, lambda at: None, receipts=True, canary_lost_from=began)
    for send in outage(Kind.FAILS, rate, 0.0, seed, before_s=before_s, after_s=WATCHED_S):
        if send.failed:
            continue
        watched.play([send], began)
        if send.at < 0 or dice.random() >= lost:
            lag_s = RECEIPT_LAG_S * dice.lognormvariate(0, LAG_SPREAD)
            watched.say(began + send.at + lag_s, Verdict.OK, f"t{send.number}", Witness.RECEIPT)
        if watched.first(Status.DOWN, began) < NEVER:
            break
    return watched.first(Status.SUSPECT, began), watched.first(Status.DOWN, began)


def silent_losses(rate: float, lost: float, seeds: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Over all seeds, shortest first: until suspect, until down."""
    found = [time_silent_loss(rate, lost, seed) for seed in range(seeds)]
    return tuple(sorted(one for one, _ in found)), tuple(sorted(one for _, one in found))


def _probe(kind: Kind, share: Callable[[float], float], seed: int) -> Probe:
    """Probes that go wrong in this way, this share of them at a time."""
    dice = random.Random(seed * 104_729 + 3)
    return lambda at: kind if dice.random() < share(at) else None


def show_seconds(value: float) -> str:
    """`4.2`, `120`, or `never` within ten minutes."""
    if value == NEVER:
        return "never"
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def names_of(cells: Sequence[Cell]) -> list[str]:
    """The detectors, ours first."""
    return list(cells[0].times)
