"""Is it us? Doubt in our own senses, and the rule that freezes reroutes when most providers seem to fail at once."""

from collections.abc import Iterable
from dataclasses import dataclass

from health.report import Direction, EndpointId, Status
from health.thresholds import DetectorSettings

DOUBT_MAX = 8
LAG_MAX_S = 0.1
REDIS_MAX_S = 0.05
BROKEN_AT_DOUBT = 4


class LocalDoubt:
    """A level from 0 to 8: up by one for each sign of our own weakness in a second, down by one after a clean one.

    The local health multiplier of Lifeguard (Dadgar et al., 2017). Signs: the event loop woke more than 100 ms late,
    Redis took more than 50 ms for most calls of that second, the control probe failed.
    """

    def __init__(self) -> None:
        self.level = 0
        self._second_at: float | None = None
        self._lag_s = 0.0
        self._redis_slow = 0
        self._redis_calls = 0

    def notice(self, now: float, *, lag_s: float, redis_s: float, control_failed: bool | None) -> int:
        """Take one look and return the level."""
        if self._second_at is None:
            self._second_at = now
        self._lag_s = max(self._lag_s, lag_s)
        self._redis_calls += 1
        self._redis_slow += redis_s > REDIS_MAX_S
        if now - self._second_at >= 1.0:
            signs = (self._lag_s > LAG_MAX_S) + (2 * self._redis_slow > self._redis_calls) + (control_failed is True)
            own = signs - (control_failed is True)
            # A control probe alone may have failed by itself: it never freezes us, it only makes us slower to judge.
            ceiling = DOUBT_MAX if own else max(self.level, BROKEN_AT_DOUBT - 1)
            self.level = min(ceiling, self.level + signs) if signs else max(0, self.level - 1)
            self._second_at, self._lag_s, self._redis_slow, self._redis_calls = now, 0.0, 0, 0
        return self.level


@dataclass(frozen=True, slots=True)
class Standing:
    """How one endpoint and direction stands, as far as the question *is it us?* needs to know."""

    endpoint: EndpointId
    family: str
    """Who runs it: `twilio`, `acme-smtp`. Empty: we do (web chat), so it proves nothing about the way out."""
    status: Status
    since: float
    """When it began to fail, where it does: see `Onsets`."""
    misconfigured: bool = False
    """A refused credential is an answer: the way there works."""


class Onsets:
    """When each began to fail. A suspicion that is confirmed did not begin anew, or a freeze would follow a freeze."""

    def __init__(self) -> None:
        self._began: dict[tuple[EndpointId, Direction], float] = {}

    def since(self, endpoint: EndpointId, direction: Direction, status: Status, since: float) -> float:
        """`since`, unless it has been failing for longer."""
        if status in (Status.SUSPECT, Status.DOWN):
            return self._began.setdefault((endpoint, direction), since)
        self._began.pop((endpoint, direction), None)
        return since


def we_are_broken(
    standings: Iterable[Standing], now: float, settings: DetectorSettings, *, control_failed: bool | None, doubt: int
) -> str | None:
    """Why we think that we, not the providers, are broken; None: we do not.

    Percentages misbehave with few members, so counts decide (independent provider families, not endpoints):

    - A doubt of 4 or more: our senses are not to be trusted, whatever they say.
    - The control probe works: our way out works, the providers really are down. Never broken.
    - The control probe fails: broken once more than half of the families fail. With two families it takes both; with
      one there is nowhere to move to anyway.
    - No control probe: broken when half of the families or more, and at least three, began to fail within 60 s of
      now. With fewer than three nothing can be told apart, and moving is the smaller harm. As nothing new is
      confirmed while frozen, this ends by itself after 60 s.
    """
    if doubt >= BROKEN_AT_DOUBT:
        return "our own event loop, Redis or network is struggling"
    if control_failed is False:
        return None
    families: dict[str, bool] = {}
    for standing in standings:
        if not standing.family or standing.status is Status.UNKNOWN:
            continue
        recent = control_failed is True or now - standing.since <= settings.broken_within_s
        failing = standing.status in (Status.SUSPECT, Status.DOWN) and recent and not standing.misconfigured
        families[standing.family] = families.get(standing.family, False) or failing
    failing_count = sum(families.values())
    if control_failed is True:
        broken = 2 * failing_count > len(families)
    else:
        broken = failing_count >= settings.broken_families_min and 2 * failing_count >= len(families)
    if not broken or not failing_count:
        return None
    told = f"{failing_count} of {len(families)} provider families fail at once"
    return f"{told}, and so does the control probe" if control_failed else told
