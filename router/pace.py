"""How fast each target may take moved conversations: token buckets, learned from limits and throttling."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from channels.contract import Capabilities
from health.records import Beat
from health.report import EndpointId
from router.domain.pacing import learn_rate, refill, spare_rate

BURST_S = 2.0
"""A bucket holds this many seconds' worth."""
SMOOTH = 0.3
"""How much of the newest second the traffic's average takes in."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    rate: float
    own_traffic: float = 0.0
    """Messages a second that were sent there, less what was moved there."""
    at: float = 0.0
    moved: float = 0.0
    """Messages moved there that its traffic was not told of yet."""


@dataclass(slots=True)
class Pace:
    """One bucket a target; lives in the supervisor, kept in Redis so that the next one goes on from it."""

    capabilities: Mapping[EndpointId, Capabilities]
    _buckets: dict[EndpointId, _Bucket] = field(default_factory=dict)
    _seen: dict[str, tuple[float, Mapping[str, tuple[int, int, int]]]] = field(default_factory=dict)
    _heard_at: float | None = None

    def load(self, rows: Mapping[EndpointId, Mapping[str, float]]) -> None:
        """Go on from what was kept."""
        for endpoint, row in rows.items():
            if endpoint in self.capabilities:
                self._buckets[endpoint] = _Bucket(row["tokens"], row["rate"], row["own"], row["at"])

    def dump(self) -> dict[EndpointId, dict[str, float]]:
        """What is to be kept."""
        return {
            endpoint: {"tokens": one.tokens, "rate": one.rate, "own": one.own_traffic, "at": one.at}
            for endpoint, one in self._buckets.items()
        }

    def hear(self, beats: list[Beat], now: float) -> None:
        """Learn from what the workers told with their beats: [begun, sent, throttled] by endpoint, since they began."""
        sent: dict[EndpointId, float] = {}
        throttled: set[EndpointId] = set()
        for beat in beats:
            if beat.role != "dispatch":
                continue
            before_at, before = self._seen.get(beat.worker, (0.0, {}))
            rows = {name: row for name, row in beat.facts.items() if name in self.capabilities}
            facts = {name: (int(row[0]), int(row[1]), int(row[2])) for name, row in rows.items()}
            if before_at and beat.at > before_at:
                for name, row in facts.items():
                    old = before.get(name, (0, 0, 0))
                    endpoint = EndpointId(name)
                    sent[endpoint] = sent.get(endpoint, 0.0) + (row[0] - old[0]) / (beat.at - before_at)
                    if row[2] > old[2]:
                        throttled.add(endpoint)
            self._seen[beat.worker] = (beat.at, facts)
        living = {beat.worker for beat in beats}
        self._seen = {worker: row for worker, row in self._seen.items() if worker in living}
        elapsed = now - self._heard_at if self._heard_at is not None else 0.0
        self._heard_at = now
        for endpoint, capabilities in self.capabilities.items():
            bucket = self._bucket(endpoint, now)
            bucket.rate = learn_rate(
                bucket.rate, capabilities.rate_per_s, throttled=endpoint in throttled, elapsed=elapsed
            )
            if elapsed > 0:
                own = sent.get(endpoint, 0.0) - bucket.moved / elapsed
                bucket.own_traffic += SMOOTH * (own - bucket.own_traffic)
                bucket.moved = 0.0

    def budgets(self, now: float) -> dict[EndpointId, float]:
        """The tokens each target has now."""
        found = {}
        for endpoint in self.capabilities:
            bucket = self._bucket(endpoint, now)
            # What is moved is sent a little later: until then it counts as less than nothing.
            rate = spare_rate(bucket.rate, max(0.0, bucket.own_traffic))
            bucket.tokens = refill(bucket.tokens, rate, max(1.0, bucket.rate * BURST_S), now - bucket.at)
            bucket.at = now
            found[endpoint] = bucket.tokens
        return found

    def spend(self, spent: Mapping[EndpointId, float]) -> None:
        """Take what a plan used."""
        for endpoint, tokens in spent.items():
            if endpoint in self._buckets:
                self._buckets[endpoint].tokens -= tokens
                self._buckets[endpoint].moved += tokens

    def _bucket(self, endpoint: EndpointId, now: float) -> _Bucket:
        bucket = self._buckets.get(endpoint)
        if bucket is None:
            rate = self.capabilities[endpoint].rate_per_s
            bucket = self._buckets[endpoint] = _Bucket(tokens=rate * BURST_S, rate=rate, at=now)
        return bucket
