"""When probes come in a burst: a few after a failure, more while they, too, speak against the endpoint."""

from health.thresholds import DetectorSettings

WITHIN_S = 60.0


class Burst:
    """Asks for probes `burst_spacing_s` apart, a bounded number a minute."""

    def __init__(self, settings: DetectorSettings) -> None:
        self._settings = settings
        self._left = 0
        self._began_at = float("-inf")
        self._minute_at = float("-inf")
        self._spent = 0

    @property
    def wanted(self) -> bool:
        """Probe now."""
        return self._left > 0

    def begin(self, now: float, *, serious: bool) -> None:
        """Something failed. A single failure begins no burst soon after another did."""
        due = now - self._began_at >= self._settings.burst_gap_s
        if self._left == 0 and (serious or due):
            self._left = self._settings.burst
            self._began_at = now

    def probed(self, now: float, *, more: bool) -> None:
        """One of them is over. `more`: the next would still tell something, as long as the minute has some left."""
        if now - self._minute_at >= WITHIN_S:
            self._minute_at, self._spent = now, 0
        self._spent += 1
        self._left = max(0, self._left - 1)
        if more and self._left == 0 and self._spent < self._settings.burst_most:
            self._left = 1

    def end(self) -> None:
        """Nothing is left to find out."""
        self._left = 0
