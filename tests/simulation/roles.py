"""Our roles, each a process of its own: the real loops around the simulated line, begun anew when they die."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from pydantic import SecretStr

from health.monitor import Monitor
from health.records import fresh
from health.report import EndpointId, Status, Transition
from router.core import Core
from router.dispatcher import Dispatcher
from router.domain.wording import Wording
from router.mover import Mover
from router.pace import Pace
from router.planner import Planner
from router.reconciler import Reconciler
from router.runtime import SPOOLING_ROLES, load_wording
from router.sender import Sender
from router.settings import Settings
from router.spool import Spool
from router.store import keys
from router.store.control import Control
from router.store.people import People
from router.store.redis import Pipelined, StoreUnavailable
from router.store.store import Store
from router.supervisor import Supervisor
from tests.simulation.climate import CAPABILITIES
from tests.simulation.doors import Doors
from tests.simulation.loop import Process
from tests.simulation.server import PROCESS_OF_NOBODY, Line, LineFaults
from tests.simulation.surroundings import SimBoard, let_go
from tests.simulation.vendors import SimAdapter

if TYPE_CHECKING:
    from tests.simulation.world import World

IN_FLIGHT = 3
LATELY_S, STILL_S = 150.0, 15.0
"""A dispatcher that stood still for so much of the last so many seconds may have left something lying."""
DESK = cast(Any, SimpleNamespace(say=lambda _: None))
Main = Callable[[Process, Core], Coroutine[Any, Any, None]]
"""What a role does."""


async def _nothing(_: str) -> None:
    """The archive has nothing."""


NO_ARCHIVE = SimpleNamespace(message=_nothing, head=_nothing)


@cache
def _settings() -> tuple[Settings, Wording]:
    settings = Settings.model_construct(organisation="Example", secret=SecretStr("x" * 32))
    return settings, load_wording(settings)


class Roles:
    """Begins every role's process, and another when it dies, until they are ended."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.processes: dict[str, Process] = {}
        """By role: the latest."""
        self.doors: dict[str, Doors] = {}
        """By process."""
        self.kills = 0
        self.supervised_at = 0.0
        """When a supervisor last looked."""
        self._senders: dict[str, tuple[dict[EndpointId, Sender], Planner]] = {}
        self._stood_still: dict[str, list[tuple[float, float]]] = {}
        """By role: from when until when nothing of it ran."""
        self._names = 0
        self._ended = False

    def begin(self) -> None:
        """All of them."""
        climate = self.world.climate
        for number in range(climate.dispatchers):
            self._begin(f"dispatch{number}", self._dispatch)
        for number in range(climate.supervisors):
            self._begin(f"supervise{number}", self._supervise)
        self._begin("web", self._web)
        self._begin("reconcile", self._reconcile)

    def stop_one(self, duration: float) -> None:
        """One of them stands still so long."""
        self._one().stop(self.world.now + duration)

    def kill_one(self) -> None:
        """One of them dies."""
        self._one().kill()

    def _one(self) -> Process:
        return self.processes[self.world.rng.choice(sorted(self.processes))]

    def end(self) -> None:
        """Kill all; nobody comes after them."""
        self._ended = True
        for process in list(self.processes.values()):
            process.stopped_until = 0.0
            process.kill()

    def core(self, process: Process, faults: LineFaults, kept: Spool | None = None) -> Core:
        """What one process holds."""
        line = cast(Pipelined, Line(self.world.server, self.world.rng, faults))
        settings, wording = _settings()
        return Core(
            settings=settings,
            store=Store(line, shards=self.world.climate.shards, now_ms=self.world.server.now_ms),
            people=People(line),
            control=Control(line, self.world.climate.shards, now_ms=self.world.server.now_ms),
            board=cast(Any, SimBoard(self.world, self.world.rng.choice((0.0, 0.0, 1.0, 5.0)))),
            files=cast(Any, None),
            archive=cast(Any, NO_ARCHIVE),
            wording=wording,
            clock=process,
            capabilities={endpoint: CAPABILITIES[endpoint] for endpoint in self.world.vendors},
            spool=kept,
        )

    def _begin(self, role: str, main: Main) -> None:
        self._names += 1
        process = Process(self.world.loop, f"{role}.{self._names}")
        process.clock_off_s = self.world.rng.uniform(-1.0, 1.0) * self.world.climate.clock_off_s
        process.stood_still = self._stood_still.setdefault(role, [])
        self.processes[role] = process
        kind = role.rstrip("0123456789")
        kept = Spool(self.world.folder, kind) if self.world.climate.spools and kind in SPOOLING_ROLES else None
        core = self.core(process, self.world.climate.line, kept)
        self.doors[process.name] = Doors(self.world, core)

        def died() -> None:
            self.kills += 1
            self._senders.pop(role, None)
            if kept is not None:
                let_go(kept)
            if not self._ended:
                after = self.world.rng.uniform(0.2, 8.0)
                process.stood_still.append((self.world.now, self.world.now + after))
                PROCESS_OF_NOBODY.run(self.world.loop.call_later, after, self._begin, role, main)

        process.died = died
        process.start(main(process, core))

    async def _dispatch(self, process: Process, core: Core) -> None:
        role = process.name.rpartition(".")[0]
        adapters = {endpoint: SimAdapter(vendor) for endpoint, vendor in self.world.vendors.items()}
        senders = {
            endpoint: Sender(core, endpoint, cast(Any, adapter), DESK, process.name, IN_FLIGHT)
            for endpoint, adapter in adapters.items()
        }
        plan = Planner(core, asyncio.Event())
        self._senders[role] = senders, plan
        dispatch = Dispatcher(core, cast(Any, None), cast(Any, adapters), DESK, process.name)
        async with asyncio.TaskGroup() as group:
            group.create_task(plan.run())
            group.create_task(self._sweep(dispatch, core))
            group.create_task(self.doors[process.name].empty_spool())
            for one in senders.values():
                group.create_task(one.run())

    async def _sweep(self, dispatch: Dispatcher, core: Core) -> None:
        while True:
            await asyncio.sleep(self.world.rng.uniform(10.0, 30.0) * self.world.pace)
            with contextlib.suppress(StoreUnavailable):
                for endpoint in self.world.climate.endpoints:
                    await dispatch._sweep_endpoint(endpoint, CAPABILITIES[endpoint].receipt_due_s is not None)

    async def _supervise(self, process: Process, core: Core) -> None:
        adapters = {endpoint: SimAdapter(vendor) for endpoint, vendor in self.world.vendors.items()}
        master = Supervisor(core, cast(Any, adapters), DESK, process.name)
        pace = Pace(core.capabilities)
        hands = Mover(core, pace)
        monitor = cast(Monitor, SimpleNamespace(frozen=None))
        seen: dict[EndpointId, Status] = {}
        while True:
            begins, ends = self.world.climate.no_supervisor
            if begins <= self.world.now < ends and not self.world.calm:
                await asyncio.sleep(ends - self.world.now)
            self.supervised_at = max(self.supervised_at, self.world.now)
            try:
                await self._conclude(master, core, seen)
                await master.step(monitor, hands, pace)
            except StoreUnavailable:
                await asyncio.sleep(1.0)
            await asyncio.sleep(self._until_next_look(cast(SimBoard, core.board).lag_s))

    def _until_next_look(self, lag_s: float) -> float:
        """Seconds until a supervisor has something to see: a change of status, or its own clock."""
        idle = self.world.rng.uniform(2.0, 6.0) * self.world.pace * (3.0 if self.world.calm else 1.0)
        heard = self.world.now - lag_s
        coming = min((one.at for one in self.world.climate.changes if one.at > heard), default=heard + idle)
        return max(0.05, min(idle, coming - heard + self.world.rng.uniform(0.01, 0.8)))

    async def _conclude(self, master: Supervisor, core: Core, seen: dict[EndpointId, Status]) -> None:
        for (endpoint, direction), record in (await core.board.statuses()).items():
            before, after = seen.get(endpoint, Status.UP), fresh(record, core.clock.now(), 1e9).status
            if before != after:
                await master._on_transition(
                    Transition(endpoint, direction, before, after, core.clock.now(), record.reason, record.reason)
                )
                seen[endpoint] = after

    async def _reconcile(self, process: Process, core: Core) -> None:
        await Reconciler(core.store, process).run()

    def nobody_looked(self) -> bool:
        """The store's clock has jumped lately, or the dispatchers stood still: then what is late is no fault."""
        since = self.world.now - LATELY_S
        still = [
            sum(max(0.0, min(until, self.world.now) - max(begun, since)) for begun, until in spells)
            for role, spells in self._stood_still.items()
            if role.startswith("dispatch")
        ]
        return any(since < at <= self.world.now for at, _ in self.world.climate.steps) or min(still) > STILL_S

    async def _web(self, process: Process, core: Core) -> None:
        await self.doors[process.name].empty_spool()
        await asyncio.sleep(1e9)

    def ring(self, bell: str) -> None:
        """Redis rings for an endpoint, or for the planners."""
        faults = self.world.climate.line
        for role, (senders, plan) in list(self._senders.items()):
            process = self.processes[role]
            for _ in range(2 if self.world.rng.random() < faults.bell_doubled else 1):
                if self.world.rng.random() < faults.bell_lost:
                    continue
                target = plan.bell if bell == keys.PLAN else None
                if target is None and EndpointId(bell) in senders:
                    target = senders[EndpointId(bell)].bell
                if target is not None:
                    process.later(self.world.rng.uniform(0.0002, 0.003), target.set)
