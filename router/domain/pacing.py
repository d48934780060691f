"""How much an endpoint can take: token buckets, spare room, and limits learned from throttling."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal

from health.report import EndpointId
from router.domain.routing import Choice, EndpointView

THROTTLED_FACTOR = 0.7
RISE_PER_S = 0.01
"""Of the ceiling: 30 s after one throttling the full rate is back."""
FLOOR = 0.05
"""Of the ceiling: below it we would not notice that the throttling ended."""
USABLE = 0.9
URGENT_RESERVE = 0.1


def refill(tokens: float, rate: float, burst: float, elapsed: float) -> float:
    """The tokens a bucket holds `elapsed` seconds later: `rate` a second, never more than `burst`.

    A bucket may be in debt (negative). A clock that ran backwards adds nothing.
    """
    return min(burst, tokens + rate * max(0.0, elapsed))


def learn_rate(rate: float, ceiling: float, *, throttled: bool, elapsed: float) -> float:
    """The rate to try next, in messages a second: x0.7 at each throttling, else 1 % of the ceiling more a second."""
    if throttled:
        return max(ceiling * FLOOR, rate * THROTTLED_FACTOR)
    return min(ceiling, rate + ceiling * RISE_PER_S * max(0.0, elapsed))


def spare_rate(rate: float, own_traffic: float) -> float:
    """Messages a second that moved conversations may use: 90 % of what the endpoint takes, less its own traffic, less
    10 % kept for what is urgent."""
    return max(0.0, rate * (USABLE - URGENT_RESERVE) - own_traffic)


class Room:
    """What the targets can still take while one plan is made. An endpoint without a budget is not paced."""

    def __init__(self, endpoints: Sequence[EndpointView], budgets: Mapping[EndpointId, float]) -> None:
        self.spent: dict[EndpointId, float] = {}
        """Tokens used by the plan so far."""
        self._tokens = dict(budgets)
        self._rates = {view.id: min(view.room, view.capabilities.rate_per_s) for view in endpoints}
        self._prices = {view.id: view.capabilities.price for view in endpoints}
        self._promised: Counter[EndpointId] = Counter()

    def take(self, choices: Sequence[Choice], messages: int) -> Choice | None:
        """The first of the choices that has a token left. The rest of a long queue is a debt that the refill pays."""
        for choice in choices:
            tokens = self._tokens.get(choice.endpoint, math.inf)
            if tokens >= 1:
                self._tokens[choice.endpoint] = tokens - messages
                self.spent[choice.endpoint] = self.spent.get(choice.endpoint, 0.0) + messages
                return choice
        return None

    def promise(self, endpoint: EndpointId, messages: int, wait_max_s: float) -> float:
        """Seconds until a token is there, behind everybody who was promised one before; at most `wait_max_s`."""
        missing = 1 - self._tokens.get(endpoint, 0.0) + self._promised[endpoint]
        self._promised[endpoint] += messages
        rate = self._rates.get(endpoint, 0.0)
        return wait_max_s if rate <= 0 else min(wait_max_s, max(1.0, missing / rate))

    def price(self, endpoint: EndpointId) -> Decimal:
        """Of one message there."""
        return self._prices.get(endpoint, Decimal(0))
