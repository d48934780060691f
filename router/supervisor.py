"""The control plane: one supervisor at a time watches health, writes gates, moves sides."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from channels.contract import Adapter
from channels.messages import Channel
from health.board import LeaseLost
from health.incident import IncidentEvent
from health.monitor import Monitor
from health.records import Beat, Freeze
from health.report import Direction, EndpointId, Status, Transition
from health.watch import CANARY_BOUND_S, MonitorTarget
from router.canary import Canaries, longest_s
from router.control_probe import control_of, read_control_hosts
from router.core import Core
from router.domain.canary import Canary
from router.domain.routing import EndpointView
from router.evidence import judge_probe
from router.evidence_desk import EvidenceDesk
from router.mover import Mover
from router.pace import Pace
from router.reconciler import Reconciler
from router.rollback import POSITION_FILE, RollbackWatch
from router.store.versions import begin_version
from router.workers import keep_beating, known_records, worker_name

if TYPE_CHECKING:
    from router.runtime import Runtime

STEP_S = 0.25
LEASE_S = 6.0
RENEW_S = 2.0
GATES_EVERY_S = 15.0
FAILBACK_EVERY_S = 1.0
PACE_EVERY_S = 1.0
TELL_EVERY_S = 2.0
"""Between two lines about moves in an incident's timeline."""
GONE_AFTER_S = 20.0
"""A process that has not beaten for so long is not waited for with a new version of the records: back, it stands by."""
LOST_REASONS = ("receipt", "canary")
"""Transitions to `down` for these say that messages were taken and lost."""
RECALL_SLACK_S = 2.0
RECALLED_S = 3600.0
"""How far back a loss may reach where no canary proves less."""

log = structlog.get_logger()


@dataclass(slots=True)
class Supervisor:
    """Everything `throughline supervise` runs."""

    core: Core
    adapters: Mapping[EndpointId, Adapter]
    desk: EvidenceDesk
    worker: str
    _gates: dict[EndpointId, bool] = field(default_factory=dict)
    _gates_at: float = 0.0
    _failback_at: float = 0.0
    _pace_at: float = 0.0
    _told_at: float = 0.0
    _usable: frozenset[EndpointId] = frozenset()
    _evidence: dict[EndpointId, str] = field(default_factory=dict)
    _kick: asyncio.Event = field(default_factory=asyncio.Event)
    _fence: int | None = None
    _monitor: Monitor | None = None
    _frozen: bool = False
    _recalls: dict[EndpointId, tuple[float, float]] = field(default_factory=dict)
    """When to recall a second time what was taken from when on: sends under way at the first are settled by then."""

    async def run(self) -> None:
        """Take the lease and supervise while it is held; else stand by. Until cancelled."""
        while True:
            try:
                self._fence = await self.core.board.lease_supervisor(self.worker, LEASE_S)
                if self._fence is None:
                    await self.core.clock.sleep(RENEW_S)
                    continue
                log.info("supervisor.took_over", worker=self.worker, fence=self._fence)
                await self._supervise()
            except* (LeaseLost, RedisError, OSError, TimeoutError) as group:
                log.warning("supervisor.stood_back", errors=[type(one).__name__ for one in group.exceptions])
                await self.core.clock.sleep(1.0)
            finally:
                if self._fence is not None:
                    await self._release()

    async def _supervise(self) -> None:
        # Whoever supervised meanwhile may have written other gates, and seen other endpoints fail.
        self._gates, self._gates_at, self._usable, self._recalls = {}, 0.0, frozenset(), {}
        pace = Pace(self.core.capabilities)
        pace.load(await self.core.control.pace())
        mover = Mover(self.core, pace)
        monitor = self.make_monitor()
        async with asyncio.TaskGroup() as group:
            group.create_task(monitor.run())
            group.create_task(self.desk.run())
            group.create_task(self._keep_lease())
            group.create_task(keep_beating(self.core, self.worker, "supervise"))
            group.create_task(self._control(monitor, mover, pace))
            group.create_task(Reconciler(self.core.store, self.core.clock).run())
            memory = self.core.settings.data_dir / POSITION_FILE
            watch = RollbackWatch(self.core.store, self.core.clock, remembered=memory, remembers=True)
            group.create_task(watch.run())

    def make_monitor(self) -> Monitor:
        """The monitor of this supervisor's endpoints, with every witness the settings give it."""
        self._monitor = Monitor(
            self.core.board,
            targets_of(self.adapters, self.core.canaries),
            probe=self._probe,
            canary=Canaries(self.core).send,
            control=control_of(read_control_hosts(self.core.settings.control_hosts)),
            judge=judge_probe,
            clock=self.core.clock,
            on_transition=self._on_transition,
            on_worker_silent=self._on_worker_silent,
            settings=self.core.settings.health,
            fence=lambda: self._fence,
        )
        return self._monitor

    async def _control(self, monitor: Monitor, mover: Mover, pace: Pace) -> None:
        resumed = False
        while True:
            began = self.core.clock.monotonic()
            try:
                await self.step(monitor, mover, pace)
                if not resumed and monitor.has_started:
                    await self._resume_recalls()
                    resumed = True
            except (LeaseLost, RedisConnectionError, RedisTimeoutError, OSError, TimeoutError):
                raise
            except Exception:  # the loop's rim: what breaks one step is tried again, and the gates are renewed first
                log.exception("step.broke")
            self._kick.clear()
            try:
                async with asyncio.timeout(max(0.01, STEP_S - (self.core.clock.monotonic() - began))):
                    await self._kick.wait()
            except TimeoutError:
                continue

    async def step(self, monitor: Monitor, mover: Mover, pace: Pace) -> None:
        """Gates first, then moves: once through everything that has to be done now."""
        now = self.core.clock.now()
        views = await self.core.views()
        await self._write_gates(views, now)
        await self._recall_again(now)
        if now - self._pace_at >= PACE_EVERY_S:
            self._pace_at = now
            beats = await self.core.board.beats()
            pace.hear(beats, now)
            await self.core.control.save_pace(pace.dump())
            await self._begin_version(beats, now)
        await self._note_frozen(monitor.frozen)
        if monitor.frozen is not None:
            return
        for view in views:
            out_down = view.status_out is Status.DOWN and view.forced != "up"
            in_down = view.status_in is Status.DOWN and view.forced != "up"
            if out_down or in_down or view.forced == "down":
                evidence = self._evidence.get(view.id, f"{view.id} {view.forced or 'down'}")
                only_in = in_down and not out_down and view.forced != "down"
                await mover.lead_away(view.id, views, evidence=evidence, inbound_only=only_in)
        await self._wake_parked(views)
        if now - self._told_at >= TELL_EVERY_S and mover.moved:
            self._told_at = now
            await self._tell_incidents(mover, now)
        if now - self._failback_at >= FAILBACK_EVERY_S:
            self._failback_at = now
            await mover.lead_home(views, await self._suppressed(now))

    async def _begin_version(self, beats: Sequence[Beat], now: float) -> None:
        """Once every process that lives knows this version's records, they may be written."""
        known = [known_records(beat.facts) for beat in beats if now - beat.at <= GONE_AFTER_S]
        begun = await begin_version(self.core.store.redis, self.core.store.shards, known)
        if begun is not None:
            log.info("records.begun", version=begun)
            await self.core.store.note(0, "records.begun", {"version": begun})

    async def _note_frozen(self, freeze: Freeze | None) -> None:
        """Into the journal once when moves freeze, and once when they go on."""
        if freeze is not None and not self._frozen:
            await self.core.store.note(0, "moves.frozen", {"words": freeze.words})
        elif freeze is None and self._frozen:
            await self.core.store.note(0, "moves.resumed", {})
        self._frozen = freeze is not None

    async def _tell_incidents(self, mover: Mover, now: float) -> None:
        """What was moved and parked belongs to the outage's timeline."""
        moved, mover.moved = mover.moved, Counter()
        for incident in await self.core.board.open_incidents():
            endpoints = {one.endpoint for one in incident.affected}
            lines = [
                f"{count} from {left} to {target}" if target else f"{count} at {left} parked until there is a way"
                for (left, target), count in sorted(moved.items())
                if left in endpoints
            ]
            if lines:
                event = IncidentEvent(now, "moved", f"Moved: {'; '.join(lines)}.")
                await self.core.board.append_to_incident(incident.id, event)

    async def _write_gates(self, views: tuple[EndpointView, ...], now: float) -> None:
        """Closed where an endpoint is down or led away from; renewed long before they lapse."""
        gates = {
            view.id: view.forced == "up" or (view.forced != "down" and view.status_out is not Status.DOWN)
            for view in views
        }
        if gates != self._gates or now - self._gates_at >= GATES_EVERY_S:
            await self.core.control.set_gates(gates)
            if gates != self._gates:
                self.core.forget_views()
            self._gates, self._gates_at = gates, now

    async def _wake_parked(self, views: tuple[EndpointView, ...]) -> None:
        """Whoever was parked for want of a way is looked at again the moment one opens."""
        usable = frozenset(view.id for view in views if self._gates.get(view.id, True) and _carries(view))
        if usable - self._usable:
            for shard in range(self.core.store.shards):
                count = await self.core.store.wake_parked(shard)
                if count:
                    log.info("parked.woken", count=count)
        self._usable = usable

    async def _suppressed(self, now: float) -> frozenset[EndpointId]:
        statuses = await self.core.statuses()
        return frozenset(
            endpoint
            for (endpoint, _), record in statuses.items()
            if record.failback_suppressed_until is not None and record.failback_suppressed_until > now
        )

    async def _on_transition(self, transition: Transition) -> None:
        endpoint = transition.endpoint
        words = f"{endpoint} {transition.direction} {transition.after} {transition.reason}"
        event = f"endpoint.went_{transition.after}"
        log.info(event, endpoint=endpoint, direction=transition.direction, reason=transition.reason)
        await self.core.store.note(
            0,
            "endpoint.changed",
            {
                "direction": transition.direction,
                "before": transition.before,
                "after": transition.after,
                "reason": transition.reason,
                "words": transition.words,
            },
            endpoint=endpoint,
        )
        self.core.forget_views()
        if transition.after is Status.DOWN:
            self._evidence[endpoint] = words
            # Freeze, then move: what is not begun yet must not begin here any more.
            if transition.direction is Direction.OUT:
                await self._close_gate(endpoint)
            if transition.reason.startswith(LOST_REASONS):
                await self._recall_lost(endpoint, transition.at)
        self._kick.set()

    async def _close_gate(self, endpoint: EndpointId) -> None:
        now = self.core.clock.now()
        forced_up = any(one.active(now) and one.target == endpoint for one in await self.core.failovers())
        if not forced_up:
            await self.core.control.set_gates({endpoint: False})
            self._gates[endpoint] = False

    async def _recall_lost(self, endpoint: EndpointId, at: float) -> None:
        """It took messages and lost them: all it took since its last proof, and gave no receipt for, is said again."""
        proven_at = self._monitor.proven_at(endpoint) if self._monitor is not None else 0.0
        since = max(proven_at, at - RECALLED_S)
        await self._recall(endpoint, since)
        begun_s = self.core.settings.dispatch.gate_s + self.core.capabilities[endpoint].io_s + RECALL_SLACK_S
        self._recalls[endpoint] = (self.core.clock.now() + begun_s, since)

    async def _resume_recalls(self) -> None:
        """Whoever supervised before may have ended between taking an endpoint down and recalling what it had lost.

        Not of an outage that is older: what somebody forced through it since then may well arrive.
        """
        latest = self.core.clock.now() - RECALLED_S
        for (endpoint, direction), record in (await self.core.board.statuses()).items():
            is_down = direction is Direction.OUT and record.status is Status.DOWN and endpoint in self.adapters
            if is_down and record.since >= latest and record.reason.startswith(LOST_REASONS):
                await self._recall_lost(endpoint, record.since)

    async def _recall_again(self, now: float) -> None:
        for endpoint, (at, since) in list(self._recalls.items()):
            if now >= at:
                await self._recall(endpoint, since)
                del self._recalls[endpoint]

    async def _recall(self, endpoint: EndpointId, since: float) -> None:
        for shard in range(self.core.store.shards):
            count = await self.core.store.recall(shard, endpoint, since)
            log.warning("messages.recalled", endpoint=endpoint, count=count)

    async def _on_worker_silent(self, worker: str, role: str) -> None:
        log.warning("worker.went_silent", worker=worker, role=role)
        await self.core.store.note(0, "worker.silent", {"worker": worker, "role": role})

    async def _probe(self, endpoint: EndpointId) -> None:
        await self.adapters[endpoint].probe()

    async def _keep_lease(self) -> None:
        while True:
            await self.core.clock.sleep(RENEW_S)
            if self._fence is None or not await self.core.board.renew_supervisor(self.worker, self._fence, LEASE_S):
                raise LeaseLost("another supervisor has taken over")

    async def _release(self) -> None:
        fence, self._fence = self._fence, None
        try:
            if fence is not None:
                await self.core.board.release_supervisor(self.worker, fence)
        except (RedisError, OSError, TimeoutError):
            log.info("supervisor.lease_left", worker=self.worker)


def targets_of(
    adapters: Mapping[EndpointId, Adapter], canaries: Mapping[EndpointId, Canary] | None = None
) -> dict[EndpointId, MonitorTarget]:
    """What the monitor watches."""
    targets = {}
    for endpoint, adapter in adapters.items():
        capabilities = adapter.capabilities
        ours = capabilities.channel is Channel.CHAT
        canary = (canaries or {}).get(endpoint)
        targets[endpoint] = MonitorTarget(
            family="" if ours else capabilities.provider.partition("-")[0],
            probe_s=capabilities.probe_s,
            directions=frozenset({Direction.OUT, Direction.IN}),
            receipts=capabilities.receipts,
            canary=canary is not None,
            canary_every_s=canary.every_s if canary else 0.0,
            canary_bound_s=longest_s(canary, adapter) if canary else CANARY_BOUND_S,
            silence=True,
        )
    return targets


def _carries(view: EndpointView) -> bool:
    return view.forced != "down" and Status.DOWN not in {view.status_out, view.status_in}


async def run_supervisor(runtime: "Runtime") -> None:
    """Supervise until cancelled; what `throughline supervise` does."""
    await Supervisor(runtime.core, runtime.adapters, runtime.desk, worker_name("supervise")).run()
