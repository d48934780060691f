"""What `/v1` gives about routes: where the next message goes, and what speaks for and against each endpoint."""

from datetime import datetime
from typing import Self

from router.domain import foresight
from router.domain.routing import Choice
from router.web.models_people import Address, Model, instant


class RouteChoice(Model):
    """One endpoint with one of the customer's addresses, taken or rejected."""

    endpoint: str
    taken: bool
    reason: str
    words: str

    @classmethod
    def of(cls, choice: Choice) -> Self:
        return cls(endpoint=choice.endpoint, taken=choice.taken, reason=choice.reason.value, words=choice.reason.words)


class NextLeg(Model):
    """Where the next message to the customer goes, as things are now: planned, not promised."""

    endpoint: str
    """Empty: nowhere now; it waits for a way."""
    address: Address | None
    reason: str
    words: str
    """Why there; while it waits, why it waits."""
    waits_until: datetime | None
    """Until then it does not go there, or no way is looked for again; null: no time is set."""
    route: tuple[RouteChoice, ...]
    """Every endpoint with every address of the customer's channel, the best first, then the rejected ones."""

    @classmethod
    def of(cls, leg: foresight.NextLeg, *, private: bool) -> Self:
        return cls(
            endpoint=leg.endpoint,
            address=None if private or leg.address is None else Address.of(leg.address),
            reason=leg.reason.value,
            words=leg.reason.words,
            waits_until=instant(leg.waits_until),
            route=tuple(RouteChoice.of(choice) for choice in leg.route.choices),
        )
