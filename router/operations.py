"""What ops staff see and do: endpoints, incidents, forced failovers with their previews."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from channels.contract import Capabilities
from channels.messages import Channel
from health.incident import Incident
from health.records import Freeze
from health.report import Direction, EndpointId, Status
from router.core import Conflict, Core, Invalid, NotFound
from router.domain.conversation import Binding, SideName
from router.domain.failover import AffectedSide, ForcedFailover, Limits, Preview, plan_failover, preview
from router.domain.foresight import NextLeg, foresee
from router.domain.ids import new_id, shard_of
from router.failovers import dump_failover
from router.planner import people_of, request_of
from router.reading import ConversationView
from router.store.codec import UNREADABLE, SideFacts
from router.store.keys import PLAN

PREVIEW_MAX = 10_000
"""Sides a preview looks at; beyond, it speaks of these only."""
EXPIRES_LEAST_S = 60.0
EXPIRES_MOST_S = 7 * 24 * 3600.0
ACTIVE_MAX = 100
"""Forced failovers that hold at the same time: each is read whenever a route is chosen, and somebody oversees them."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class EndpointState:
    """One endpoint as everybody sees it."""

    id: EndpointId
    channel: Channel
    provider: str
    out: Status
    in_: Status
    since: float
    reason: str
    words: str
    gate_open: bool
    forced: Literal["", "up", "down"]
    share: float
    due: int
    """Sides with work here now."""
    capabilities: Capabilities


async def affected_sides(core: Core, facts: Sequence[SideFacts], now: float) -> list[AffectedSide]:
    """Facts as a plan takes them, bindings read; a side whose person cannot be read is left out."""
    people = await asyncio.gather(*(_readable_people(core, one) for one in facts))
    sides = []
    for one, bindings in zip(facts, people, strict=True):
        if bindings is None:
            continue
        request = request_of(core, one, bindings, now)
        sides.append(
            AffectedSide(
                name=one.side,
                epoch=one.epoch,
                request=request,
                pending=one.queued,
                oldest_pending_at=one.head_created_at,
                waiting_since=one.waiting_since if one.side == "c" else 0.0,
                priority=one.priority,
                moved_at=one.moved_at,
                busy=one.leased_until > now,
                home=one.home,
                last_inbound_at=one.last_inbound_at,
            )
        )
    return sides


async def _readable_people(core: Core, facts: SideFacts) -> tuple[Binding, ...] | None:
    try:
        return await people_of(core, facts)
    except UNREADABLE as error:
        log.warning("record.unreadable", conversation=facts.conversation_id, error=type(error).__name__)
        return None


def limits_of(core: Core, *, move_idle: bool = False) -> Limits:
    """The settings' bounds on plans."""
    failover = core.settings.failover
    return Limits(
        move_interval_s=failover.one_move_per_s,
        park_s=failover.park_s,
        bulk_park_s=failover.bulk_park_s,
        park_max_s=failover.park_max_s,
        move_idle=move_idle,
        idle_s=failover.idle_s,
        returns_max=failover.returns_per_hour_max,
    )


class Operations:
    """The use cases of the control plane."""

    def __init__(self, core: Core) -> None:
        self.core = core

    async def endpoints(self) -> list[EndpointState]:
        """Every endpoint, by id."""
        self.core.forget_views()
        views = await self.core.views()
        statuses = await self.core.statuses()
        states = []
        for view in sorted(views, key=lambda one: one.id):
            worse = max(
                (statuses.get((view.id, direction)) for direction in (Direction.OUT, Direction.IN)),
                key=lambda record: _BADNESS[record.status] if record else -1,
            )
            states.append(
                EndpointState(
                    id=view.id,
                    channel=view.capabilities.channel,
                    provider=view.capabilities.provider,
                    out=view.status_out,
                    in_=view.status_in,
                    since=worse.since if worse else 0.0,
                    reason=worse.reason if worse else "",
                    words=worse.words if worse else "Nobody has said anything about it yet.",
                    gate_open=view.gate_open,
                    forced=view.forced or "",
                    share=view.share,
                    due=await self.core.store.due_count(view.id),
                    capabilities=view.capabilities,
                )
            )
        return states

    async def frozen(self) -> Freeze | None:
        """Whether moves are frozen because it seems to be us that are broken, since when and why."""
        return await self.core.board.freeze()

    async def next_leg(self, view: ConversationView) -> NextLeg | None:
        """Where the next message to the customer would go now; None: none goes out, the conversation is over."""
        if view.archived or not view.conversation.open:
            return None
        identity, now = view.conversation.id, self.core.clock.now()
        self.core.forget_views()
        facts, views, failovers, frozen = await asyncio.gather(
            self.core.store.affected(shard_of(identity), [f"{identity}:{SideName.CUSTOMER}"]),
            self.core.views(),
            self.core.failovers(),
            self.frozen(),
        )
        sides = await affected_sides(self.core, facts, now)
        if not sides:
            return None
        forced = next((one for one in failovers if one.active(now) and facts[0].endpoint in one.scope), None)
        return foresee(sides[0], views, now, limits_of(self.core), forced=forced, frozen=frozen is not None)

    async def parked(self) -> int:
        """Sides that have no way now."""
        return await self.core.store.due_count(PLAN)

    async def incidents(self, *, open_only: bool = False, limit: int = 50) -> list[Incident]:
        """Incidents, newest first."""
        if open_only:
            return (await self.core.board.open_incidents())[:limit]
        return await self.core.board.incidents(limit)

    async def acknowledge_incident(self, incident_id: str, who: str) -> Incident:
        """Say that somebody looks after it. Raises NotFound."""
        incident = await self.core.board.acknowledge_incident(incident_id, who, self.core.clock.now())
        if incident is None:
            raise NotFound("unknown_incident", "There is no such incident.")
        return incident

    async def preview_failover(self, *, scope: Sequence[EndpointId], target: EndpointId | None) -> Preview:
        """What a forced failover would move, where to, and what it would cost; nothing moves. Raises Invalid."""
        self._check(scope, target)
        now = self.core.clock.now()
        forced = ForcedFailover("", frozenset(scope), target, "", "", now, now + EXPIRES_LEAST_S)
        facts: list[SideFacts] = []
        for shard in range(self.core.store.shards):
            for endpoint in scope:
                members = await self.core.store.due_at(shard, endpoint, limit=PREVIEW_MAX)
                members += await self.core.store.sides_at(shard, endpoint, waiting_only=True, limit=PREVIEW_MAX)
                facts += await self.core.store.affected(shard, list(dict.fromkeys(members))[:PREVIEW_MAX])
        sides = await affected_sides(self.core, facts, now)
        plan = plan_failover(sides, await self.core.views(), {}, now, limits_of(self.core), forced=forced)
        return preview(plan)

    async def start_failover(
        self, *, scope: Sequence[EndpointId], target: EndpointId | None, who: str, why: str, expires_in_s: float
    ) -> ForcedFailover:
        """Lead traffic away from `scope`, to `target` where it can go, until it expires.

        Raises:
            Invalid: an unknown endpoint, no reason, an expiry outside 60 s to 7 days.
            Conflict: 100 hold already.
        """
        if not why.strip():
            raise Invalid("no_reason", "Say why: it stands in the journal and on everybody's screen.")
        if not EXPIRES_LEAST_S <= expires_in_s <= EXPIRES_MOST_S:
            raise Invalid("bad_expiry", "A forced failover lasts between 60 seconds and 7 days.")
        if len(await self.failovers()) >= ACTIVE_MAX:
            words = f"{ACTIVE_MAX} forced failovers hold already. Stop those that are not needed, then start this one."
            raise Conflict("too_many_failovers", words)
        looked = await self.preview_failover(scope=scope, target=target)
        now = self.core.clock.now()
        failover = ForcedFailover(
            id=new_id("f", 0, int(now * 1000)),
            scope=frozenset(scope),
            target=target,
            who=who,
            why=why.strip()[:500],
            started_at=now,
            expires_at=now + expires_in_s,
            preview=looked,
        )
        await self.core.control.save_failover(failover.id, dump_failover(failover))
        self.core.forget_views()
        # The gate closes first: from here on nothing begins there, whether or not a supervisor lives.
        await self.core.control.set_gates(dict.fromkeys(scope, False))
        await self.core.store.note(
            0, "failover.started", {"id": failover.id, "scope": sorted(scope), "target": target, "who": who}
        )
        return failover

    async def stop_failover(self, failover_id: str, who: str) -> ForcedFailover:
        """End it now; health's view holds again, and nobody is moved home by that. Raises NotFound."""
        found = next((one for one in await self.core.failovers() if one.id == failover_id), None)
        if found is None:
            raise NotFound("unknown_failover", "There is no such failover.")
        now = self.core.clock.now()
        if not found.active(now):
            return found
        ended = replace(found, ended_at=now)
        await self.core.control.save_failover(ended.id, dump_failover(ended))
        self.core.forget_views()
        await self.core.store.note(0, "failover.stopped", {"id": failover_id, "who": who})
        return ended

    async def failovers(self, *, active_only: bool = True) -> list[ForcedFailover]:
        """Forced failovers, newest first."""
        now = self.core.clock.now()
        found = [one for one in await self.core.failovers() if one.active(now) or not active_only]
        return sorted(found, key=lambda one: -one.started_at)

    def _check(self, scope: Sequence[EndpointId], target: EndpointId | None) -> None:
        if not scope:
            raise Invalid("no_scope", "Name at least one endpoint to lead away from.")
        for endpoint in (*scope, *([target] if target else ())):
            if endpoint not in self.core.capabilities:
                raise Invalid("unknown_endpoint", f"There is no endpoint {endpoint[:60]}.")
        if target in scope:
            raise Invalid("target_in_scope", "The target cannot be one of the endpoints that are left.")


_BADNESS = {Status.UNKNOWN: 0, Status.UP: 1, Status.RECOVERING: 2, Status.SUSPECT: 3, Status.DOWN: 4}
