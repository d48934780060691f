"""Which workers have fallen silent; pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from health.records import Beat
from health.silence import PhiAccrual
from health.thresholds import DetectorSettings

FORGET_AFTER_S = 600.0
OVER_TIMES = 2
"""Looks in a row that must find a beat missing: one late look of ours proves nothing."""


@dataclass(slots=True)
class _Worker:
    role: str
    beat_at: float
    phi: PhiAccrual
    over: int = 0
    silent_since: float | None = None


class WorkerWatch:
    """Takes every look at the beats; bounded by what the board keeps."""

    def __init__(self, settings: DetectorSettings) -> None:
        self._settings = settings
        self._workers: dict[str, _Worker] = {}

    def look(self, beats: Iterable[Beat], now: float, *, late: bool, doubt: int) -> list[Beat]:
        """The workers that are silent and not yet confirmed by `told`.

        `late`: our own look comes late. Perhaps nobody could beat meanwhile (Redis was away), so all begin anew.
        """
        silent, seen = [], set()
        for beat in beats:
            seen.add(beat.worker)
            known = self._workers.get(beat.worker)
            if known is None:
                self._workers[beat.worker] = _Worker(beat.role, beat.at, PhiAccrual(self._settings, now))
            elif beat.at != known.beat_at:
                known.phi.beat(now, learn=not late and known.silent_since is None)
                known.beat_at, known.over, known.silent_since = beat.at, 0, None
            elif late:
                known.phi.beat(now, learn=False)
            elif known.silent_since is None:
                over = known.phi.phi(now) >= self._settings.beat_phi * (1 + doubt)
                known.over = known.over + 1 if over else 0
                if known.over >= OVER_TIMES:
                    silent.append(beat)
        for worker in self._workers.keys() - seen:
            del self._workers[worker]
        return silent

    def told(self, worker: str, now: float) -> None:
        """Everybody who must know of its silence does."""
        if worker in self._workers:
            self._workers[worker].silent_since = now

    def forgettable(self, now: float) -> list[str]:
        """Workers silent for ten minutes: they will not come back under that name."""
        return [
            worker
            for worker, known in self._workers.items()
            if known.silent_since is not None and now - known.silent_since > FORGET_AFTER_S
        ]

    @property
    def silent(self) -> list[str]:
        """Those known to be silent."""
        return sorted(worker for worker, known in self._workers.items() if known.silent_since is not None)
