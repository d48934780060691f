"""What share of failures is normal for one endpoint, learnt from sends that no outage followed."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from health.thresholds import DetectorSettings

Weights = tuple[float, float]
"""Of the fast and of the slow arm."""
PENDING_MAX = 100
"""Sends that must follow before one teaches anything: an outage must not become normal while it is being noticed."""
BATCH = 10
"""Sends learnt at a time."""
PRIOR_SENDS = 100
"""What the floor weighs against the first sends of an endpoint nobody knows yet."""


class Baseline:
    """A fading share of failures, and how far off it may be.

    Misjudging what is normal by a fifth raises false alarms tenfold (the exponent of Wald's bound shrinks with it), so
    the sums take the upper end of the estimate.
    """

    def __init__(self, settings: DetectorSettings) -> None:
        self._settings = settings
        self._share = settings.failure_share_floor
        self._learnt = float(PRIOR_SENDS)
        self._pending: deque[bool] = deque()
        self._say()

    def sent(self, *, failed: bool) -> None:
        """One send came out so; it is learnt once a hundred more have followed."""
        self._pending.append(failed)
        if len(self._pending) < PENDING_MAX + BATCH:
            return
        for _ in range(BATCH):
            weight = max(self._settings.baseline_weight, 1 / (self._learnt + 1))
            self._share += weight * (self._pending.popleft() - self._share)
            self._learnt = min(self._learnt + 1, 1 / self._settings.baseline_weight)
        self._say()

    def forget_recent(self) -> None:
        """An outage was among them."""
        self._pending.clear()

    def _say(self) -> None:
        self.share = self._within(self._share)
        """What is normal."""
        self.share_most = self._within(self.share + math.sqrt(self.share * (1 - self.share) / (2 * self._learnt)))
        """What may well be normal: one standard error more."""
        fast = max(self._settings.fast_share, min(2 * self.share_most, 0.9))
        slow = max(self._settings.slow_share, min(2 * self.share_most, 0.9))
        self.failure: Weights = math.log(fast / self.share_most), math.log(slow / self.share_most)
        """`ln(p1/p0)`: what a failure adds to the fast and the slow sum (Wald's sequential test)."""
        self.success: Weights = (
            math.log((1 - fast) / (1 - self.share_most)),
            math.log((1 - slow) / (1 - self.share_most)),
        )
        """`ln((1-p1)/(1-p0))`: what a success takes off."""

        self.row = max(self._settings.row, math.ceil(math.log(self._settings.row_chance) / math.log(self.share)))
        """How many failures in a row are no chance any more: `share^n < row_chance`, and never fewer than `row`."""

    def _within(self, share: float) -> float:
        return min(max(share, self._settings.failure_share_floor), self._settings.failure_share_ceiling)

    def snapshot(self) -> dict[str, Any]:
        """As JSON values."""
        return {"share": self._share, "learnt": self._learnt, "pending": "".join("01"[one] for one in self._pending)}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from a snapshot."""
        self._share, self._learnt = float(saved["share"]), float(saved["learnt"])
        self._pending = deque(one == "1" for one in str(saved["pending"]))
        self._say()
