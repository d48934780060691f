"""A Bernoulli CUSUM with two arms, in which a burst of failures is one event."""

from dataclasses import dataclass

from health.baseline import Weights
from health.thresholds import DetectorSettings


@dataclass(slots=True)
class Sums:
    """`S = max(0, S + w)` in each arm. What fails within half a second counts as two failures at most.

    One broken connection fails whatever is in flight: twenty failures at once are one event, which makes suspect. If
    all counted, they alone would be a trip, and the next chance failure an outage.
    """

    fast: float = 0.0
    slow: float = 0.0
    wrong: int = 0
    """Failures since the sums last left zero."""
    count: int = 0
    """Of so many observations."""
    since: float | None = None
    """When the sums last left zero."""
    event_at: float = float("-inf")
    fast_most: float = 0.0
    slow_most: float = 0.0

    def fail(self, at: float, weights: Weights, settings: DetectorSettings, *, ceiling: float) -> None:
        """One more failure; only what it adds is held below the ceiling."""
        if self.since is None:
            self.since = at
        if at - self.event_at >= settings.event_s:
            rise = settings.trip / 2
            self.event_at = at
            self.fast_most = self.fast + max(rise, 2 * weights[0])
            self.slow_most = self.slow + max(rise, 2 * weights[1])
        self.fast = max(self.fast, min(self.fast + weights[0], ceiling, self.fast_most))
        self.slow = max(self.slow, min(self.slow + weights[1], ceiling, self.slow_most))
        self.wrong, self.count = self.wrong + 1, self.count + 1

    def succeed(self, weights: Weights) -> None:
        """One more success."""
        self.fast = max(0.0, self.fast + weights[0])
        self.slow = max(0.0, self.slow + weights[1])
        if self.fast == self.slow == 0:
            self.clear()
        else:
            self.count += 1

    def clear(self) -> None:
        """Drop what was summed up."""
        self.fast = self.slow = 0.0
        self.wrong = self.count = 0
        self.since = None
        self.event_at = float("-inf")

    @property
    def most(self) -> float:
        """The larger arm."""
        return max(self.fast, self.slow)

    def snapshot(self) -> list[float | None]:
        """As JSON values; an event is half a second and is not kept."""
        return [self.fast, self.slow, self.wrong, self.count, self.since]

    def restore(self, saved: list[float | None]) -> None:
        """Go on from a snapshot."""
        fast, slow, wrong, count, since = saved
        self.fast, self.slow, self.since = float(fast or 0), float(slow or 0), since
        self.wrong, self.count = int(wrong or 0), int(count or 0)
