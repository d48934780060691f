"""How long an endpoint stays away: the hold after an outage, and the damping of failback after flaps."""

import math
from collections.abc import Mapping
from typing import Any

from health.thresholds import DetectorSettings


class Hold:
    """`hold_s` times the recent outages, at most `hold_max_s`; one outage is forgotten every `hold_forget_s`."""

    def __init__(self, settings: DetectorSettings) -> None:
        self._settings = settings
        self._count = 0
        self._at = 0.0
        self.until = 0.0

    def extend(self, now: float, jitter: float) -> None:
        """One more outage begins. `jitter` is a factor around 1."""
        forgotten = int(max(0.0, now - self._at) / self._settings.hold_forget_s)
        self._count = max(0, self._count - forgotten) + 1
        self._at = now
        self.until = now + min(self._settings.hold_s * self._count, self._settings.hold_max_s) * jitter

    def snapshot(self) -> list[float]:
        """As JSON values."""
        return [self._count, self._at, self.until]

    def restore(self, saved: list[float]) -> None:
        """Go on from a snapshot."""
        self._count, self._at, self.until = int(saved[0]), saved[1], saved[2]


class FlapDamping:
    """A penalty that halves every `penalty_half_life_s`, after RFC 2439. It delays failback, never failover."""

    def __init__(self, settings: DetectorSettings) -> None:
        self._settings = settings
        self._penalty = 0.0
        self._at = 0.0
        self._suppressed_since: float | None = None

    def penalty(self, now: float) -> float:
        """What is left of it."""
        age_s = max(0.0, now - self._at)
        return self._penalty * math.exp2(-age_s / self._settings.penalty_half_life_s)

    def add(self, now: float, amount: float) -> None:
        """One more flap."""
        until = self.suppressed_until(now)
        self._penalty = self.penalty(now) + amount
        self._at = now
        if until is None:
            self._suppressed_since = now if self._penalty >= self._settings.penalty_suppress else None

    def suppressed_until(self, now: float) -> float | None:
        """When failback may go on; None: it may go on now."""
        if self._suppressed_since is None:
            return None
        wait_s = self._settings.penalty_half_life_s * math.log2(max(self._penalty, 1.0) / self._settings.penalty_reuse)
        until = min(self._at + wait_s, self._suppressed_since + self._settings.suppress_max_s)
        return until if until > now else None

    def snapshot(self) -> dict[str, Any]:
        """As JSON values."""
        return {"penalty": self._penalty, "at": self._at, "since": self._suppressed_since}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from a snapshot."""
        self._penalty = float(saved["penalty"])
        self._at = float(saved["at"])
        self._suppressed_since = saved["since"]
