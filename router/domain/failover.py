"""Plan failovers and failbacks: who moves where, in which order, who waits and until when."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from health.report import EndpointId, Status
from router.domain.conversation import Leg, MessageClass, SideName
from router.domain.pacing import Room
from router.domain.reasons import Cause, Reason
from router.domain.routing import Choice, EndpointView, Route, RouteRequest, choose_route

__all__ = [
    "AffectedSide",
    "Cause",
    "FailoverPlan",
    "ForcedFailover",
    "Limits",
    "Move",
    "Parked",
    "Preview",
    "Stayed",
    "plan_failback",
    "plan_failover",
    "preview",
    "with_forced",
]

HOUR_S = 3600.0
NOWHERE = EndpointId("")


@dataclass(frozen=True, slots=True)
class AffectedSide:
    """One side that a failover or failback looks at."""

    name: SideName
    epoch: int
    request: RouteRequest
    """With `current` set to its leg."""
    pending: int = 0
    """Messages that wait or are on their way, the head included."""
    oldest_pending_at: float = 0.0
    """Unix seconds; 0: nothing is pending."""
    waiting_since: float = 0.0
    """Since when the person waits for us; 0: they do not."""
    priority: int = 5
    """0 is most urgent, 9 least."""
    moved_at: float = 0.0
    """When it last moved automatically."""
    busy: bool = False
    """Leased, or an attempt is open."""
    home: EndpointId = NOWHERE
    """Where the person came in; failback leads here."""
    last_inbound_at: float = 0.0
    recent_returns: tuple[float, ...] = ()
    """When failback or preference moved it automatically, lately."""

    @property
    def conversation_id(self) -> str:
        """Whose side it is."""
        return self.request.conversation_id

    @property
    def idle(self) -> bool:
        """Nothing is pending and nobody waits."""
        return self.pending == 0 and not self.waiting_since


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one plan may do."""

    move_interval_s: float = 60.0
    """Between two automatic moves of a conversation."""
    park_s: float = 30.0
    """How long a side without any route is parked before it is looked at again."""
    bulk_park_s: float = 300.0
    park_max_s: float = 3600.0
    """The latest time a paced side may be promised."""
    move_idle: bool = False
    idle_s: float = 600.0
    """After the customer's last words, before an open conversation goes home."""
    returns_max: int = 3
    """Automatic failback and preference moves of a conversation in an hour."""


@dataclass(frozen=True, slots=True)
class Move:
    """One rebind to make: raises the epoch that is given here."""

    conversation_id: str
    side: SideName
    epoch: int
    """The epoch expected; if it grew meanwhile, somebody else moved the side."""
    leg: Leg
    route: Route
    messages: int
    """What it will send at once: the pending messages and a notice."""
    price: Decimal


@dataclass(frozen=True, slots=True)
class Parked:
    """A side that waits, until a time people can see."""

    conversation_id: str
    side: SideName
    epoch: int
    until: float
    cause: Cause
    route: Route


@dataclass(frozen=True, slots=True)
class Stayed:
    """A side that keeps its leg; `until` is when it may be looked at again, 0: no time is set."""

    conversation_id: str
    side: SideName
    cause: Cause
    until: float = 0.0
    route: Route | None = None


@dataclass(frozen=True, slots=True)
class FailoverPlan:
    """What to do, in the order to do it."""

    moves: tuple[Move, ...]
    parked: tuple[Parked, ...] = ()
    stayed: tuple[Stayed, ...] = ()
    spent: Mapping[EndpointId, float] = field(default_factory=dict)
    """Tokens to take from each target's bucket."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a plan would do, for people who have not yet said yes."""

    moved: Mapping[EndpointId, int]
    parked: Mapping[Cause, int]
    stayed: Mapping[Cause, int]
    messages: int
    """Messages and notices that would go out at once."""
    cost: Decimal
    """Of those, in the settings' currency."""
    parked_until: float
    """The latest time a parked side would be looked at; 0: none is parked."""


@dataclass(frozen=True, slots=True)
class ForcedFailover:
    """Somebody leads traffic away from endpoints, whatever health says; it ends by itself."""

    id: str
    scope: frozenset[EndpointId]
    target: EndpointId | None
    """None: wherever each route leads."""
    who: str
    why: str
    started_at: float
    expires_at: float
    preview: Preview | None = None
    ended_at: float = 0.0
    """When somebody ended it early; 0: nobody did."""

    def active(self, now: float) -> bool:
        """Whether it holds at `now`."""
        return self.started_at <= now < self.expires_at and not (self.ended_at and self.ended_at <= now)


def plan_failover(
    affected: Sequence[AffectedSide],
    endpoints: Sequence[EndpointView],
    budgets: Mapping[EndpointId, float],
    now: float,
    limits: Limits,
    *,
    forced: ForcedFailover | None = None,
) -> FailoverPlan:
    """Say for every affected side whether it moves, waits or stays, most urgent first.

    `budgets` are the tokens in each target's bucket; a target that is not named is not paced. With `forced`, sides
    leave its scope, for its target where they can, and also when they moved within the last minute.
    """
    if forced is not None:
        endpoints = _as_forced(endpoints, forced.scope, {forced.target})
    room = Room(endpoints, budgets)
    moves: list[Move] = []
    parked: list[Parked] = []
    stayed: list[Stayed] = []
    for side in sorted(affected, key=_urgency):
        if side.idle and not limits.move_idle:
            stayed.append(Stayed(side.conversation_id, side.name, Cause.IDLE))
            continue
        request = side.request if forced is None else replace(side.request, target=forced.target)
        route = choose_route(request, endpoints)
        if _works_here(side, route):
            stayed.append(Stayed(side.conversation_id, side.name, Cause.WORKS_HERE, route=route))
            continue
        wait = _must_wait(side, route, now, limits, forced=forced is not None)
        if wait is None and route.best is not None:
            choice = room.take(_elsewhere(side, route), _messages(side))
            if choice is not None:
                reason = "failover" if forced is None else "forced"
                moves.append(_move(side, choice, route, now, reason=reason, price=room.price(choice.endpoint)))
                continue
            wait = Cause.PACED, now + room.promise(route.best.endpoint, _messages(side), limits.park_max_s)
        cause, until = wait or (Cause.NO_ROUTE, now + limits.park_s)
        parked.append(Parked(side.conversation_id, side.name, side.epoch, until, cause, route))
    return FailoverPlan(tuple(moves), tuple(parked), tuple(stayed), room.spent)


def plan_failback(
    sides: Sequence[AffectedSide],
    endpoints: Sequence[EndpointView],
    budgets: Mapping[EndpointId, float],
    now: float,
    limits: Limits,
    *,
    suppressed: Collection[EndpointId] = frozenset(),
) -> FailoverPlan:
    """Say which open conversations go home now: at a turn boundary, home up both ways, whoever is quiet longest first.

    New conversations need no plan: `choose_route` lets a rising share of them begin at a recovering endpoint.
    `suppressed` are the homes that flapped; they get nobody back yet.
    """
    room = Room(endpoints, budgets)
    views = {view.id: view for view in endpoints}
    moves: list[Move] = []
    stayed: list[Stayed] = []
    for side in sorted(sides, key=lambda one: (one.last_inbound_at, one.conversation_id, one.name)):
        cause, until = _keeps_away(side, views.get(side.home), now, limits, suppressed)
        if cause is not None:
            stayed.append(Stayed(side.conversation_id, side.name, cause, until))
            continue
        route = choose_route(replace(side.request, current=None, wish=None, new=False), endpoints)
        homeward = [choice for choice in route.taken if choice.endpoint == side.home]
        homeward.sort(key=lambda choice: choice.reason is Reason.UNVERIFIED)
        if not homeward:
            stayed.append(Stayed(side.conversation_id, side.name, Cause.HOME_NOT_READY, route=route))
        elif (choice := room.take(homeward, 1)) is None:
            until = now + room.promise(side.home, 1, limits.park_max_s)
            stayed.append(Stayed(side.conversation_id, side.name, Cause.PACED, until, route))
        else:
            moves.append(_move(side, choice, route, now, reason="failback", price=room.price(side.home)))
    return FailoverPlan(tuple(moves), (), tuple(stayed), room.spent)


def preview(plan: FailoverPlan) -> Preview:
    """What the plan would do, counted and priced."""
    return Preview(
        moved=dict(Counter(move.leg.endpoint for move in plan.moves)),
        parked=dict(Counter(one.cause for one in plan.parked)),
        stayed=dict(Counter(one.cause for one in plan.stayed)),
        messages=sum(move.messages for move in plan.moves),
        cost=sum((move.price for move in plan.moves), Decimal(0)),
        parked_until=max((one.until for one in plan.parked), default=0.0),
    )


def with_forced(
    endpoints: Sequence[EndpointView], failovers: Sequence[ForcedFailover], now: float
) -> tuple[EndpointView, ...]:
    """The endpoints as the active forced failovers want them seen: scopes down, targets up.

    Where two disagree about an endpoint, down wins: it is the safer mistake.
    """
    active = [failover for failover in failovers if failover.active(now)]
    down = frozenset[EndpointId]().union(*(failover.scope for failover in active))
    return _as_forced(endpoints, down, {failover.target for failover in active})


def _as_forced(
    endpoints: Sequence[EndpointView], down: Collection[EndpointId], up: Collection[EndpointId | None]
) -> tuple[EndpointView, ...]:
    views = []
    for view in endpoints:
        if view.id in down:
            views.append(replace(view, forced="down"))
        elif view.id in up:
            views.append(replace(view, forced="up"))
        else:
            views.append(view)
    return tuple(views)


def _urgency(side: AffectedSide) -> tuple[int, float, int, str, str]:
    """Class first (urgent, waiting for us, open, bulk), then who waits longest."""
    message_class = side.request.message_class
    if message_class is MessageClass.BULK:
        group = 3
    elif message_class in {MessageClass.URGENT, MessageClass.SECRET}:
        group = 0  # a one-time code is worth nothing in ten minutes
    else:
        group = 1 if side.waiting_since else 2
    since = min((at for at in (side.waiting_since, side.oldest_pending_at) if at), default=math.inf)
    return group, since, side.priority, side.conversation_id, side.name.value


def _works_here(side: AffectedSide, route: Route) -> bool:
    current = side.request.current
    if current is None or route.best is None:
        return False
    return (route.best.endpoint, route.best.address) == (current.endpoint, current.address)


def _must_wait(
    side: AffectedSide, route: Route, now: float, limits: Limits, *, forced: bool
) -> tuple[Cause, float] | None:
    """Why it may not move now although its leg is lost, and until when; None: it may."""
    if route.best is None:
        return Cause.NO_ROUTE, now + limits.park_s
    if side.request.message_class is MessageClass.BULK:
        return Cause.BULK_WAITS, now + limits.bulk_park_s
    if not forced and side.moved_at and now - side.moved_at < limits.move_interval_s:
        return Cause.MOVED_LATELY, side.moved_at + limits.move_interval_s
    return None


def _elsewhere(side: AffectedSide, route: Route) -> list[Choice]:
    """The taken choices that are no move to where the side already is."""
    current = side.request.current
    here = None if current is None else (current.endpoint, current.address)
    return [choice for choice in route.taken if (choice.endpoint, choice.address) != here]


def _messages(side: AffectedSide) -> int:
    return side.pending + 1


def _move(side: AffectedSide, choice: Choice, route: Route, now: float, *, reason: str, price: Decimal) -> Move:
    if choice.address is None:
        raise ValueError(f"a taken choice at {choice.endpoint} has no address")
    return Move(
        conversation_id=side.conversation_id,
        side=side.name,
        epoch=side.epoch,
        leg=Leg(choice.endpoint, choice.address, since=now, reason=reason),
        route=route,
        messages=_messages(side),
        price=price * _messages(side),
    )


def _keeps_away(
    side: AffectedSide, home: EndpointView | None, now: float, limits: Limits, suppressed: Collection[EndpointId]
) -> tuple[Cause | None, float]:
    """What keeps a conversation from going home now, and until when if that is known."""
    current = side.request.current
    wish = side.request.wish
    hour = sorted(at for at in side.recent_returns if now - at < HOUR_S)
    returned_often = len(hour) >= limits.returns_max
    checks = (
        (home is None or current is None or current.endpoint == side.home, Cause.AT_HOME, 0.0),
        (side.home in suppressed, Cause.FAILBACK_SUPPRESSED, 0.0),
        (home is not None and not _ready(home), Cause.HOME_NOT_READY, 0.0),
        (wish is not None and wish.endpoint != side.home, Cause.PINNED, 0.0),
        (not side.idle or side.busy, Cause.MID_TURN, 0.0),
        (now - side.last_inbound_at <= limits.idle_s, Cause.JUST_WROTE, side.last_inbound_at + limits.idle_s),
        (
            bool(side.moved_at) and now - side.moved_at < limits.move_interval_s,
            Cause.MOVED_LATELY,
            side.moved_at + limits.move_interval_s,
        ),
        (returned_often, Cause.RETURNED_OFTEN, hour[-limits.returns_max] + HOUR_S if returned_often else 0.0),
    )
    return next(((cause, until) for holds, cause, until in checks if holds), (None, 0.0))


def _ready(home: EndpointView) -> bool:
    """Open conversations go home only to an endpoint that has proven itself, or that somebody forced up."""
    statuses = {home.status_out, home.status_in}
    healthy = home.forced == "up" or statuses <= {Status.UP, Status.UNKNOWN}
    return healthy and home.gate_open and home.forced != "down"
