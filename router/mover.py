"""Moves sides: away from endpoints that are down, home again when they are well; planned purely, done in batches."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import structlog

from health.report import EndpointId, Status
from router.core import Core
from router.domain.conversation import NOWHERE, MessageClass, SideName
from router.domain.failover import FailoverPlan, ForcedFailover, Move, plan_failback, plan_failover
from router.domain.journal import Decision, DecisionKind, decisions_of, write_decision
from router.domain.routing import EndpointView
from router.operations import affected_sides, limits_of
from router.pace import Pace
from router.planner import notice_for, people_of, place_for
from router.store.asked import Park, Rebind
from router.store.codec import SideFacts
from router.store.freezing import read_frozen

STEPS_PER_S = 4
PAGE_LEAST = 50
FAILBACK_PAGE = 200
HOUR_S = 3600.0

log = structlog.get_logger()


@dataclass(slots=True)
class Mover:
    """One supervisor's hands."""

    core: Core
    pace: Pace
    moved: Counter[tuple[EndpointId, EndpointId]] = field(default_factory=Counter)
    """Sides moved since somebody last took note, by where from and where to; nowhere: parked."""
    _cursors: dict[tuple[str, int, EndpointId], int] = field(default_factory=dict)

    async def lead_away(
        self, endpoint: EndpointId, views: Sequence[EndpointView], *, evidence: str, inbound_only: bool
    ) -> int:
        """Move what has something pending, or somebody waiting, at `endpoint`; how many sides moved."""
        if await read_frozen(self.core.store.redis):
            return 0  # a restored store: whoever would be told of the move cannot be told
        now = await self.core.store.clock_ms() / 1000  # what it is compared with was written by that clock
        forced = self._forced(await self.core.failovers(), endpoint, now)
        if forced is None and any(view.id == endpoint and view.forced == "down" for view in views):
            self.core.forget_views()  # it ended after these views were read: nobody is moved by it any more
            return 0
        moved = 0
        for shard in range(self.core.store.shards):
            facts = await self._away_from(shard, endpoint)
            if not facts:
                continue
            sides = await affected_sides(self.core, facts, now)
            budgets = self.pace.budgets(now)
            plan = plan_failover(sides, views, budgets, now, limits_of(self.core), forced=forced)
            self.pace.spend(plan.spent)
            reason = "inbound_down" if inbound_only else ("forced" if forced else "failover")
            moved += await self._carry_out(shard, plan, facts, now, reason, evidence)
        return moved

    async def lead_home(self, views: Sequence[EndpointView], suppressed: frozenset[EndpointId]) -> int:
        """Move one page of open conversations home, where their home has proven itself; how many sides moved."""
        if await read_frozen(self.core.store.redis):
            return 0
        now = await self.core.store.clock_ms() / 1000  # what it is compared with was written by that clock
        ready = {view.id for view in views if _well(view)}
        moved = 0
        for shard in range(self.core.store.shards):
            for view in views:
                members = await self._page("home", shard, view.id, FAILBACK_PAGE)
                facts = await self.core.store.affected(shard, [one for one in members if one.endswith(":c")])
                away = [
                    one for one in facts if one.open and one.home != one.endpoint and one.home in ready and not one.why
                ]
                away = [one for one in away if not one.queued and not one.waiting_since and not one.hidden]
                if not away:
                    continue
                sides = [
                    replace(side, recent_returns=await self._returns(side.conversation_id, now))
                    for side in await affected_sides(self.core, away, now)
                ]
                budgets = self.pace.budgets(now)
                plan = plan_failback(sides, views, budgets, now, limits_of(self.core), suppressed=suppressed)
                self.pace.spend(plan.spent)
                moved += await self._carry_out(shard, plan, away, now, "failback", "home is well")
        return moved

    async def _away_from(self, shard: int, endpoint: EndpointId) -> list[SideFacts]:
        page = max(PAGE_LEAST, int(self.core.settings.failover.storm_pace_per_s / STEPS_PER_S))
        members = await self.core.store.due_at(shard, endpoint, limit=page)
        members += await self._page("away", shard, endpoint, page, waiting_only=True)
        facts = await self.core.store.affected(shard, list(dict.fromkeys(members)))
        # What already waits for a route is the planner's.
        return [one for one in facts if one.endpoint == endpoint and not one.why and not one.hidden]

    async def _page(
        self, purpose: str, shard: int, endpoint: EndpointId, size: int, *, waiting_only: bool = False
    ) -> list[str]:
        """The next page of the sides at an endpoint, round and round."""
        key = (purpose, shard, endpoint)
        offset = self._cursors.get(key, 0)
        members = await self.core.store.sides_at(shard, endpoint, waiting_only=waiting_only, offset=offset, limit=size)
        self._cursors[key] = offset + size if len(members) == size else 0
        return members

    async def _carry_out(
        self, shard: int, plan: FailoverPlan, facts: Sequence[SideFacts], now: float, reason: str, evidence: str
    ) -> int:
        by_side = {(one.conversation_id, one.side): one for one in facts}
        changes: list[Rebind | Park] = list(
            await asyncio.gather(
                *(self._rebind(by_side[one.conversation_id, one.side], one, now, reason) for one in plan.moves)
            )
        )
        for parked in plan.parked:
            one = by_side[parked.conversation_id, parked.side]
            if one.queued:
                changes.append(
                    Park(one.conversation_id, one.side, parked.epoch, parked.until - now, parked.cause.value)
                )
        if not changes:
            return 0
        answers = await self.core.store.rebind(shard, changes)
        await self._note(shard, plan, now, evidence)
        moved = 0
        for change, answer in zip(changes, answers, strict=True):
            if answer == "ok":
                left = by_side[change.conversation_id, change.side].endpoint
                self.moved[left, change.endpoint if isinstance(change, Rebind) else NOWHERE] += 1
                moved += isinstance(change, Rebind)
        log.info("sides.moved", moved=moved, parked=len(plan.parked), reason=reason, evidence=evidence)
        return moved

    async def _rebind(self, facts: SideFacts, move: Move, now: float, reason: str) -> Rebind:
        bindings = await people_of(self.core, facts)
        choice = next(
            one for one in move.route.taken if (one.endpoint, one.address) == (move.leg.endpoint, move.leg.address)
        )
        await self.core.unverified.begin(bindings[choice.binding], now)
        urgent = facts.head_class is not MessageClass.BULK
        return Rebind(
            facts.conversation_id,
            facts.side,
            move.epoch,
            move.leg.endpoint,
            place_for(choice, bindings),
            reason,
            notice_for(self.core, facts, choice, reason, now),
            hold_s=self.core.settings.messages.hold_while_down_s if urgent else -1.0,
            automatic=reason != "forced",
        )

    async def _note(self, shard: int, plan: FailoverPlan, now: float, evidence: str) -> None:
        wanted = [one for one in decisions_of(plan, now, (evidence,)) if one.kind is not DecisionKind.STAYED]
        await asyncio.gather(*(self._note_one(shard, one) for one in wanted))

    async def _note_one(self, shard: int, decision: Decision) -> None:
        await self.core.store.note(
            shard, "decision.made", {"d": write_decision(decision)}, conversation_id=decision.conversation_id
        )

    async def _returns(self, conversation_id: str, now: float) -> tuple[float, ...]:
        legs = await self.core.store.legs(conversation_id, SideName.CUSTOMER)
        return tuple(leg["at"] / 1000 for leg in legs if leg["r"] == "failback" and now - leg["at"] / 1000 < HOUR_S)

    @staticmethod
    def _forced(failovers: Sequence[ForcedFailover], endpoint: EndpointId, now: float) -> ForcedFailover | None:
        return next((one for one in failovers if one.active(now) and endpoint in one.scope), None)


def _well(view: EndpointView) -> bool:
    """Up both ways, as far as anybody knows, and open."""
    statuses = {view.status_out, view.status_in}
    return view.gate_open and view.forced != "down" and statuses <= {Status.UP, Status.UNKNOWN}
