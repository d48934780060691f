"""Foresee where the next message would go: the leg it is at, the one it would be moved to, or nowhere yet."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from channels.messages import Address
from health.report import EndpointId
from router.domain.failover import NOWHERE, AffectedSide, ForcedFailover, Limits, plan_failover
from router.domain.reasons import Cause, Reason
from router.domain.routing import Choice, EndpointView, Route


@dataclass(frozen=True, slots=True)
class NextLeg:
    """Where the next message to one side goes, as things are now: planned, not promised."""

    endpoint: EndpointId
    """Nowhere: it waits for a way."""
    address: Address | None
    reason: Reason | Cause
    """Why there; while it waits, why it waits."""
    route: Route
    waits_until: float = 0.0
    """Until then it does not go there, or is not looked at again, unix seconds; 0: no time is set."""


def foresee(
    side: AffectedSide,
    endpoints: Sequence[EndpointView],
    now: float,
    limits: Limits,
    *,
    forced: ForcedFailover | None = None,
    frozen: bool = False,
) -> NextLeg:
    """What a failover would do with this side if a message waited there now: the very same plan decides.

    `forced` is the forced failover that leads away from its leg; `frozen`: nothing is moved now. How much room a
    target has is not looked at: one message more always finds it.
    """
    asked = replace(side, pending=max(1, side.pending))
    plan = plan_failover([asked], endpoints, {}, now, limits, forced=forced)
    for stayed in plan.stayed:
        if stayed.route is not None and stayed.route.best is not None:
            return _there(stayed.route.best, stayed.route)
    for move in plan.moves:
        if frozen:
            return NextLeg(NOWHERE, None, Cause.FROZEN, move.route)
        chosen = (move.leg.endpoint, move.leg.address)
        return _there(next(one for one in move.route.taken if (one.endpoint, one.address) == chosen), move.route)
    (parked,) = plan.parked
    best = parked.route.best
    if best is None or frozen:
        cause = Cause.FROZEN if frozen else parked.cause
        return NextLeg(NOWHERE, None, cause, parked.route, 0.0 if frozen else parked.until)
    return NextLeg(best.endpoint, best.address, parked.cause, parked.route, parked.until)


def _there(choice: Choice, route: Route) -> NextLeg:
    return NextLeg(choice.endpoint, choice.address, choice.reason, route)
