"""Published breakers at their defaults, as plain rules over the same stream of outcomes; pure."""

from collections import deque
from dataclasses import dataclass
from typing import Protocol


class Rule(Protocol):
    """Says whether it would have cut the endpoint off."""

    def observe(self, at: float, *, failed: bool) -> bool:
        """Count one outcome, at seconds; whether it trips now."""


class ConsecutiveFailures:
    """Envoy outlier detection: `consecutive_5xx`, default 5.

    envoyproxy.io, config.cluster.v3.OutlierDetection. Its sweep every 10 s ejects on the fifth failure already.
    """

    def __init__(self, row: int = 5) -> None:
        self._row_max = row
        self._row = 0

    def observe(self, at: float, *, failed: bool) -> bool:
        """One more in the row, or the row ends."""
        self._row = self._row + 1 if failed else 0
        return self._row >= self._row_max


class CountWindow:
    """resilience4j's CircuitBreaker: 50 % of the last 100 calls, no judgement before 100 (`minimumNumberOfCalls`).

    resilience4j.readme.io, CircuitBreakerConfig.
    """

    def __init__(self, share: float = 0.5, calls: int = 100) -> None:
        self._share = share
        self._window: deque[bool] = deque(maxlen=calls)
        self._calls = calls

    def observe(self, at: float, *, failed: bool) -> bool:
        """Judge the last calls."""
        self._window.append(failed)
        return len(self._window) >= self._calls and sum(self._window) >= self._share * self._calls


class TimeWindow:
    """A share of failures in the last seconds, with a least number of calls.

    Hystrix: 50 % in 10 s, at least 20 (`requestVolumeThreshold`). Polly v8: 10 % in 30 s, at least 100
    (`FailureRatio`, `SamplingDuration`, `MinimumThroughput`).
    """

    def __init__(self, share: float, seconds: float, calls: int) -> None:
        self._share, self._seconds, self._calls = share, seconds, calls
        self._window: deque[tuple[float, bool]] = deque()
        self._failed = 0

    def observe(self, at: float, *, failed: bool) -> bool:
        """Judge the last seconds."""
        self._window.append((at, failed))
        self._failed += failed
        while self._window[0][0] <= at - self._seconds:
            self._failed -= self._window.popleft()[1]
        return len(self._window) >= self._calls and self._failed >= self._share * len(self._window)


@dataclass(frozen=True, slots=True)
class Breaker:
    """A rule, and how long its own library waits for an answer before it counts the call as failed."""

    rule: Rule
    timeout_s: float


def published() -> dict[str, Breaker]:
    """Each at its documented defaults, begun anew.

    Time-outs: Envoy `RouteAction.timeout` 15 s (a time-out counts as a 5xx). resilience4j `TimeLimiterConfig
    .timeoutDuration` 1 s. Hystrix `execution.isolation.thread.timeoutInMilliseconds` 1,000. Polly v8
    `TimeoutStrategyOptions.Timeout` 30 s.
    """
    return {
        "Envoy, 5 in a row": Breaker(ConsecutiveFailures(), 15.0),
        "resilience4j, 50 % of 100": Breaker(CountWindow(), 1.0),
        "Hystrix, 50 % of 20 in 10 s": Breaker(TimeWindow(0.5, 10.0, 20), 1.0),
        "Polly, 10 % of 100 in 30 s": Breaker(TimeWindow(0.1, 30.0, 100), 30.0),
    }
