"""How many numbers that nobody has verified we begin to write to in an hour: counted, bounded, said when it is hit."""

from dataclasses import dataclass, field

import structlog

from channels.messages import Address
from router.domain.conversation import Binding
from router.domain.unverified import NUMBERED, Unverified, country_of
from router.settings import Settings
from router.store.store import Store
from router.telemetry import UNVERIFIED_NUMBERS

HOUR_S = 3600
KEPT_S = 2 * HOUR_S

log = structlog.get_logger()


def countries_of(settings: Settings) -> frozenset[str]:
    """Where unverified numbers may be written to: as set, else the countries of our own numbers and our own country."""
    if settings.messages.unverified_countries:
        return frozenset(settings.messages.unverified_countries)
    ours = {settings.default_country}
    for endpoint in settings.endpoints:
        values = endpoint.model_dump(mode="json").values()
        ours |= {country_of(one) for one in values if isinstance(one, str) and one.startswith("+")}
    return frozenset(ours - {""})


@dataclass(slots=True)
class UnverifiedNumbers:
    """This process's view of the count, as of when it last added to it.

    A process learns of the others' numbers with its own next one, so that the bound is passed by at most one step of
    each process: 100 sides of the planner, a page of the mover (`storm_pace_per_s`). Redis holds a HyperLogLog an hour
    (12 KB): how many, never which.
    """

    store: Store
    settings: Settings
    countries: frozenset[str] = field(init=False)
    _hour: int = 0
    _count: int = 0

    def __post_init__(self) -> None:
        """The settings do not change while a process lives."""
        self.countries = countries_of(self.settings)

    def limits(self, now: float) -> Unverified:
        """What a route may do with them."""
        return Unverified(self.countries, self._is_spent(now))

    async def begin(self, binding: Binding, now: float) -> None:
        """We are about to write there: count it, if nobody has verified it. Raises StoreUnavailable."""
        if not binding.verified:
            await self._add(binding.address, now)

    def _is_spent(self, now: float) -> bool:
        return self._hour == int(now // HOUR_S) and self._count >= self.settings.messages.unverified_per_hour

    async def _add(self, address: Address, now: float) -> None:
        if address.channel not in NUMBERED:
            return
        hour = int(now // HOUR_S)
        key = f"tl:unverified:{hour}"
        await self.store.redis.call("PFADD", key, address.value)
        await self.store.redis.call("EXPIRE", key, KEPT_S)
        self._hour, self._count = hour, int(await self.store.redis.call("PFCOUNT", key))
        UNVERIFIED_NUMBERS.set(self._count)
        if self._is_spent(now) and await self.store.redis.call("SET", f"{key}:said", "1", "NX", "EX", KEPT_S):
            most = self.settings.messages.unverified_per_hour
            log.warning("unverified.limit_reached", count=self._count, limit=most)
            await self.store.note(0, "limit.reached", {"what": "unverified_numbers", "limit": most})
