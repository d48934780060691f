"""Decides routes for sides that need one: refused, came back, unconsented, parked. Any process may run it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from channels.messages import Channel
from health.report import Status
from router.core import CONSOLE_ENDPOINT, Core
from router.domain.conversation import Agent, Binding, Leg, MessageClass, SideName
from router.domain.ids import new_id, shard_of
from router.domain.journal import Decision, DecisionKind, judged, write_decision
from router.domain.reasons import Reason
from router.domain.routing import Choice, EndpointView, Route, RouteRequest, Wish, choose_route
from router.store.asked import Fail, Park, Rebind
from router.store.codec import UNREADABLE, Notice, SideFacts, read_place
from router.store.keys import place
from router.store.redis import StoreUnavailable
from router.store.store import BATCH_MAX
from router.trouble import Trouble

POLL_S = 0.5
UNREACHABLE_S = 7 * 24 * 3600.0
"""After a provider said that nobody is at an address."""
MISCONFIGURED_PARK_S = 5.0
MOVES_AT_ONCE = frozenset({"rejected", "unreachable", "undelivered", "no_consent", ""})
"""What is about this message or this address, not about an endpoint's health, waits for no minute."""
ITS_OWN_REASONS = MOVES_AT_ONCE | {"misconfigured"}
"""Of being moved; all others only say what was waited for."""
CONTENT_REASONS = frozenset(
    {Reason.EXCLUDED_BY_ATTEMPT, Reason.NO_BINDING, Reason.BOUND_ELSEWHERE, Reason.TEXT_TOO_LONG, Reason.CLASS_FORBIDS}
)
"""If nothing but these speaks against every endpoint, no time will help: the sender is told."""

log = structlog.get_logger()


async def people_of(core: Core, facts: SideFacts) -> tuple[Binding, ...]:
    """The bindings of whoever is on a side."""
    if facts.side is SideName.AGENT:
        agent: Agent | None = await core.people.agent(facts.owner) if facts.owner else None
        return core.bindings_of_agent(agent)
    if facts.hidden:
        address, endpoint = read_place(facts.place)
        return (Binding(address, endpoint, verified=True),)
    return (await core.customer_of(facts.customer_id)).bindings


def request_of(core: Core, facts: SideFacts, bindings: tuple[Binding, ...], now: float) -> RouteRequest:
    """What a route for this side depends on."""
    again = facts.head_waited
    excluded = {
        (endpoint, read_place(where)[0])
        for endpoint, where, outcome, _ in facts.not_here
        if outcome not in {"misconfigured", "throttled"} or not again
    }
    leg = Leg(facts.endpoint, facts.address, facts.moved_at, "") if facts.endpoint else None
    files = facts.head_content.files if facts.head_content else ()
    wish = None
    if facts.last_inbound_at and leg is not None and facts.last_inbound_at >= facts.moved_at:
        wish = Wish(leg.endpoint, leg.address)
    return RouteRequest(
        conversation_id=facts.conversation_id,
        bindings=bindings,
        now=now,
        message_class=facts.head_class if facts.head else facts.conversation_class,
        policy=core.policy,
        current=leg,
        wish=wish,
        text_length=len(facts.head_content.text) if facts.head_content else min(facts.head_length, 1_000_000),
        files_bytes=sum(file.size for file in files),
        excluded=frozenset(excluded),
    )


def notice_for(core: Core, facts: SideFacts, choice: Choice, reason: str, now: float) -> Notice | None:
    """The notice a move owes the person, or None where they would not notice it or cannot be told twice.

    Nobody is told that they went home: nothing waits there, and the next answer shows it. A call says by itself what
    happened, so a message that waits needs no second call before it. The console shows everything anyway; mail from the
    same address to the same address looks as it did.
    """
    address = choice.address
    if reason == "failback" or address is None or choice.endpoint == CONSOLE_ENDPOINT or facts.hidden:
        return None
    if facts.endpoint == choice.endpoint and facts.address == address:
        return None
    if address.channel is Channel.PHONE and facts.queued:
        return None
    if address.channel is Channel.EMAIL and facts.address == address:
        return None
    shard = shard_of(facts.conversation_id)
    return Notice(new_id("m", shard, int(now * 1000)), reason, facts.endpoint, now)


def place_for(choice: Choice, bindings: tuple[Binding, ...]) -> str:
    """How the records write the chosen address."""
    binding = bindings[choice.binding]
    return place(binding.address, binding.endpoint)


def reason_of(facts: SideFacts, views: Sequence[EndpointView]) -> str:
    """Why a side goes elsewhere now: what only waited for its turn, or for a way, still leaves what is broken."""
    left = next((view for view in views if view.id == facts.endpoint), None)
    if facts.why in ITS_OWN_REASONS or left is None:
        return facts.why or "routed"
    if left.forced == "down":
        return "forced"
    if left.status_out is Status.DOWN:
        return "failover"
    return "inbound_down" if left.status_in is Status.DOWN else facts.why


@dataclass(slots=True)
class Planner:
    """Takes sides out of `@plan` and finds each a way, a time, or an end."""

    core: Core
    bell: asyncio.Event

    async def run(self) -> None:
        """Plan until cancelled."""
        planning = Trouble("plan", log)
        while True:
            self.bell.clear()  # before looking: what rings while we look is looked at next
            taken = 0
            try:
                for shard in range(self.core.store.shards):
                    taken += await self.step(shard)
            except StoreUnavailable as error:
                planning.failed(error)
                await self.core.clock.sleep(1.0)
            except Exception:  # the loop's rim: the sides are claimed for 5 s only, then planned again
                log.exception("plan.broke")
                await self.core.clock.sleep(1.0)
            else:
                planning.worked()
            if not taken:
                try:
                    async with asyncio.timeout(POLL_S):
                        await self.bell.wait()
                except TimeoutError:
                    continue

    async def step(self, shard: int) -> int:
        """Plan one batch; how many sides it had."""
        batch = await self.core.store.plan(shard, BATCH_MAX)
        if not batch:
            return 0
        views = await self.core.views()
        now = await self.core.store.clock_ms() / 1000  # what it is compared with was written by that clock
        found = await asyncio.gather(*(self._decide_if_readable(facts, views, now) for facts in batch))
        decided = [(facts, one) for facts, one in zip(batch, found, strict=True) if one is not None]
        await self.core.store.rebind(shard, [change for _, (change, _) in decided])
        told = [one for facts, (_, one) in decided if not facts.head_waited or one.kind is not DecisionKind.PARKED]
        await asyncio.gather(*(self._note(shard, decision) for decision in told))
        return len(batch)

    async def _note(self, shard: int, decision: Decision) -> None:
        facts = {"d": write_decision(decision)}
        await self.core.store.note(shard, "decision.made", facts, conversation_id=decision.conversation_id)

    async def _decide_if_readable(
        self, facts: SideFacts, views: tuple[EndpointView, ...], now: float
    ) -> tuple[Rebind | Park | Fail, Decision] | None:
        """None where a record is damaged: its side is looked at again in 5 s, and holds up no other."""
        try:
            return await self._decide(facts, views, now)
        except UNREADABLE:
            log.exception("plan.broke", conversation=facts.conversation_id)
            return None

    async def _decide(
        self, facts: SideFacts, views: tuple[EndpointView, ...], now: float
    ) -> tuple[Rebind | Park | Fail, Decision]:
        news = () if facts.head_waited or facts.hidden else facts.not_here  # else each look would mark it for longer
        for endpoint, where, outcome, _ in news:
            if outcome == "unreachable" and facts.side is SideName.CUSTOMER:
                await self.core.people.mark_unreachable(facts.customer_id, where, now + UNREACHABLE_S)
                log.info("binding.unreachable", conversation=facts.conversation_id, endpoint=endpoint)
        bindings = await people_of(self.core, facts)
        request = request_of(self.core, facts, bindings, now)
        route = choose_route(request, views)
        best = route.best
        interval = self.core.settings.failover.one_move_per_s
        moved_lately = facts.moved_at and now - facts.moved_at < interval and facts.why not in MOVES_AT_ONCE
        if best is not None and moved_lately and best.endpoint != facts.endpoint:
            wait_s = facts.moved_at + interval - now
            park = Park(facts.conversation_id, facts.side, facts.epoch, wait_s, "moved_lately")
            return park, self._decision(facts, DecisionKind.PARKED, route, now, "Moved less than a minute ago.")
        if best is not None and best.address is not None:
            await self.core.unverified.begin(bindings[best.binding], now)
            reason = reason_of(facts, views)
            change = Rebind(
                facts.conversation_id,
                facts.side,
                facts.epoch,
                best.endpoint,
                place_for(best, bindings),
                reason,
                notice_for(self.core, facts, best, reason, now),
                hold_s=self.core.settings.messages.hold_while_down_s,
                automatic=best.endpoint != facts.endpoint,
            )
            return change, self._decision(facts, DecisionKind.ROUTED, route, now, f"{reason}: goes to {best.endpoint}")
        if self._hopeless(facts, route):
            words = "Nothing can ever carry this message; its sender is told."
            fail = Fail(facts.conversation_id, facts.side, facts.epoch, facts.why or "no_route", facts.head)
            return fail, self._decision(facts, DecisionKind.PARKED, route, now, words)
        wait_s = self.core.settings.failover.park_s
        if facts.why == "misconfigured":
            wait_s = MISCONFIGURED_PARK_S
        if facts.head_class is MessageClass.BULK and facts.head:
            wait_s = self.core.settings.failover.bulk_park_s
        park = Park(facts.conversation_id, facts.side, facts.epoch, wait_s, facts.why or "no_route")
        return park, self._decision(facts, DecisionKind.PARKED, route, now, f"No way now ({facts.why or 'no route'}).")

    def _hopeless(self, facts: SideFacts, route: Route) -> bool:
        """The message was refused where it could go, and nowhere else could ever take it."""
        refused = facts.why in {"rejected", "unreachable", "undelivered"}
        return refused and all(choice.reason in CONTENT_REASONS for choice in route.choices)

    def _decision(self, facts: SideFacts, kind: DecisionKind, route: Route, now: float, words: str) -> Decision:
        evidence = tuple(f"{endpoint} {outcome} {reason}" for endpoint, _, outcome, reason in facts.not_here)
        return Decision(kind, facts.conversation_id, facts.side, now, words, evidence, judged(route))
