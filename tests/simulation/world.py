"""One seed's world: our real loops on a virtual clock, around a real Redis, among faulty vendors and people."""

import asyncio
import contextlib
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import redis
from pydantic import SecretStr

from channels.errors import LocalFault
from channels.messages import Address, Channel, ReceiptEvent, ReceiptState
from health.monitor import Monitor
from health.records import fresh
from health.report import EndpointId, Status, Transition
from router import planner, sender, spool
from router.core import CONSOLE_ENDPOINT, Core, SwitchboardError
from router.dispatcher import Dispatcher
from router.domain.conversation import Agent, Binding, Customer
from router.domain.failover import ForcedFailover
from router.domain.ids import ALPHABET
from router.domain.wording import Wording
from router.failovers import dump_failover
from router.mover import Mover
from router.pace import Pace
from router.planner import Planner
from router.reconciler import Reconciler
from router.runtime import SPOOLING_ROLES, load_wording
from router.sender import Sender
from router.settings import Settings
from router.spool import ASIDE, Spool
from router.store import keys
from router.store.codec import place_of
from router.store.control import Control
from router.store.people import People
from router.store.redis import Pipelined, StoreUnavailable
from router.store.store import Store
from router.supervisor import Supervisor
from router.switchboard import Switchboard
from tests.simulation.climate import CAPABILITIES, MAIL, Climate, draw_climate
from tests.simulation.damage import damage
from tests.simulation.doors import Doors
from tests.simulation.lookout import Lookout
from tests.simulation.loop import EPOCH_S, Process, VirtualLoop
from tests.simulation.people import Talk
from tests.simulation.server import PROCESS_OF_NOBODY, Line, LineFaults, Server
from tests.simulation.surroundings import CALM_POLL_S, SimBoard, let_go, surrounded
from tests.simulation.vendors import SimAdapter, Taken, Vendor


async def _nothing(_: str) -> None:
    """The archive has nothing."""


DRAIN_S = 2_400.0
"""After the last fault everything must have drained within this, on the virtual clock: 10 minutes for a person, 5 for
parked bulk, and what follows them."""
IN_FLIGHT = 3
LATELY_S, STILL_S = 150.0, 15.0
"""A dispatcher that stood still for so much of the last so many seconds may have left something lying."""
LOOK_S = 20.0
"""Between two looks of the people at what became of their words, while it drains."""

SHM = Path("/dev/shm")
"""Where files cost no disk, if there is one."""
NO_ARCHIVE = SimpleNamespace(message=_nothing, head=_nothing)

T = TypeVar("T")


@cache
def _settings() -> tuple[Settings, Wording]:
    settings = Settings.model_construct(organisation="Example", secret=SecretStr("x" * 32))
    return settings, load_wording(settings)


class World:
    """Runs one seed."""

    def __init__(
        self,
        seed: int,
        client: redis.Redis,
        mutate: Callable[[dict[str, str]], dict[str, str]] = dict,
        log: list[str] | None = None,
    ) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.loop = VirtualLoop()
        self.climate: Climate = draw_climate(self.rng)
        self.server = Server(client, self.loop, mutate=mutate, ring=self._ring, log=log)
        self.wrong: list[str] = self.server.wrong
        self.calm = False
        self.pace = 5.0 if self.climate.faults_s > 1000.0 else 1.0
        """Idle loops look this many times less often in a run of an hour."""
        self.loop.thread_s = lambda: self.rng.uniform(0.0, 0.02)
        self.set_aside = ""
        self.waiting: list[str] = []
        """What clients still waited for when everything was to be drained."""
        self.words = 0
        self.supervised_at = 0.0
        self.processes: dict[str, Process] = {}
        self.stood_still: dict[str, list[tuple[float, float]]] = {}
        """By role: from when until when nothing of it ran."""
        self.senders: dict[str, tuple[dict[EndpointId, Sender], Planner]] = {}
        self.people: dict[asyncio.Task[Any], None] = {}
        self.kills = self.repairs = self.renamed = 0
        self._names = 0
        self.vendors = {endpoint: self._vendor(endpoint) for endpoint in [*self.climate.endpoints, CONSOLE_ENDPOINT]}
        self.talks: list[Talk] = []
        self.lookout = Lookout(self)

    # Clocks and tasks of the people and the network.

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return self.loop.time()

    @property
    def unix(self) -> float:
        """The true time."""
        return EPOCH_S + self.loop.time()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def wait_for(self, holds: Callable[[], bool]) -> None:
        """Wait until it holds."""
        while not holds():
            await asyncio.sleep(1.0)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Somebody outside our processes does something."""
        task = self.loop.create_task(work, context=PROCESS_OF_NOBODY.copy())
        self.people[task] = None
        task.add_done_callback(self._spawned_ended)

    def _spawned_ended(self, task: "asyncio.Task[Any]") -> None:
        del self.people[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.loop.broken.append(f"a client broke: {error!r}")

    async def request(self, work: Callable[[Switchboard], Awaitable[T]], doors: set[str] | None = None) -> T:
        """Ask our web role, again and again until it answers: what it answers is promised."""
        pause = 0.5
        while True:
            web = self.processes.get("web")
            if web is not None and not web.dead:
                if doors is not None:
                    doors.add(web.name)
                answered: asyncio.Future[T] = self.loop.create_future()
                web.later(self.rng.uniform(0.0005, 0.01), self._serve, web, work, answered)
                with contextlib.suppress(TimeoutError, StoreUnavailable, LocalFault):
                    return await asyncio.wait_for(answered, 15.0)
            await asyncio.sleep(pause * self.rng.uniform(0.5, 1.0))
            pause = min(10.0, pause * 2)

    def _serve(self, web: Process, work: Callable[[Switchboard], Awaitable[T]], answered: "asyncio.Future[T]") -> None:
        async def serve() -> None:
            try:
                answer = await work(self.switches[web.name])
            except (StoreUnavailable, LocalFault, SwitchboardError) as error:
                if not answered.done():
                    answered.set_exception(error)
                return
            if not answered.done():
                answered.set_result(answer)

        web.start(serve())

    def aside(self) -> str:
        """What the spools gave up and keep for a person."""
        kept = self.folder / ASIDE
        return kept.read_text() if kept.exists() else ""

    # Our processes.

    switches: dict[str, Switchboard]

    def core(self, process: Process, faults: LineFaults, kept: Spool | None = None) -> Core:
        """What one process holds."""
        line = cast(Pipelined, Line(self.server, self.rng, faults))
        settings, wording = _settings()
        return Core(
            settings=settings,
            store=Store(line, shards=self.climate.shards, now_ms=self.server.now_ms),
            people=People(line),
            control=Control(line, self.climate.shards, now_ms=self.server.now_ms),
            board=cast(Any, SimBoard(self, self.rng.choice((0.0, 0.0, 1.0, 5.0)))),
            files=cast(Any, None),
            archive=cast(Any, NO_ARCHIVE),
            wording=wording,
            clock=process,
            capabilities={endpoint: CAPABILITIES[endpoint] for endpoint in self.vendors},
            spool=kept,
        )

    def _process(self, role: str, main: Callable[[Process, Core], Coroutine[Any, Any, None]]) -> None:
        self._names += 1
        process = Process(self.loop, f"{role}.{self._names}")
        process.clock_off_s = self.rng.uniform(-1.0, 1.0) * self.climate.clock_off_s
        process.stood_still = self.stood_still.setdefault(role, [])
        self.processes[role] = process
        kind = role.rstrip("0123456789")
        kept = Spool(self.folder, kind) if self.climate.spools and kind in SPOOLING_ROLES else None
        core = self.core(process, self.climate.line, kept)
        self.switches[process.name] = Doors(self, core)

        def died() -> None:
            self.kills += 1
            self.senders.pop(role, None)
            if kept is not None:
                let_go(kept)
            if not self.ended:
                after = self.rng.uniform(0.2, 8.0)
                process.stood_still.append((self.now, self.now + after))
                PROCESS_OF_NOBODY.run(self.loop.call_later, after, self._process, role, main)

        process.died = died
        process.start(main(process, core))

    async def _dispatch(self, process: Process, core: Core) -> None:
        role = process.name.rpartition(".")[0]
        desk = cast(Any, SimpleNamespace(say=lambda _: None))
        adapters = {endpoint: SimAdapter(vendor) for endpoint, vendor in self.vendors.items()}
        senders = {
            endpoint: Sender(core, endpoint, cast(Any, adapter), desk, process.name, IN_FLIGHT)
            for endpoint, adapter in adapters.items()
        }
        plan = Planner(core, asyncio.Event())
        self.senders[role] = senders, plan
        dispatch = Dispatcher(core, cast(Any, None), cast(Any, adapters), desk, process.name)
        async with asyncio.TaskGroup() as group:
            group.create_task(plan.run())
            group.create_task(self._sweep(dispatch, core))
            group.create_task(self.switches[process.name].empty_spool())
            for one in senders.values():
                group.create_task(one.run())

    async def _sweep(self, dispatch: Dispatcher, core: Core) -> None:
        while True:
            await asyncio.sleep(self.rng.uniform(10.0, 30.0) * self.pace)
            with contextlib.suppress(StoreUnavailable):
                for endpoint in self.climate.endpoints:
                    await dispatch._sweep_endpoint(endpoint, CAPABILITIES[endpoint].receipt_due_s is not None)

    async def _supervise(self, process: Process, core: Core) -> None:
        desk = cast(Any, SimpleNamespace(say=lambda _: None))
        adapters = {endpoint: SimAdapter(vendor) for endpoint, vendor in self.vendors.items()}
        master = Supervisor(core, cast(Any, adapters), desk, process.name)
        pace = Pace(core.capabilities)
        hands = Mover(core, pace)
        monitor = cast(Monitor, SimpleNamespace(frozen=None))
        seen: dict[EndpointId, Status] = {}
        while True:
            begins, ends = self.climate.no_supervisor
            if begins <= self.now < ends and not self.calm:
                await asyncio.sleep(ends - self.now)
            self.supervised_at = max(self.supervised_at, self.now)
            try:
                await self._conclude(master, core, seen)
                await master.step(monitor, hands, pace)
            except StoreUnavailable:
                await asyncio.sleep(1.0)
            await asyncio.sleep(self._until_next_look(cast(SimBoard, core.board).lag_s))

    def _until_next_look(self, lag_s: float) -> float:
        """Seconds until a supervisor has something to see: a change of status, or its own clock."""
        idle = self.rng.uniform(2.0, 6.0) * self.pace * (3.0 if self.calm else 1.0)
        heard = self.now - lag_s
        coming = min((one.at for one in self.climate.changes if one.at > heard), default=heard + idle)
        return max(0.05, min(idle, coming - heard + self.rng.uniform(0.01, 0.8)))

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

    def repaired(self, words: str, side: str) -> None:
        """The reconciler put something back. Each is a fault found, but where we did the damage."""
        self.repairs += 1
        late = words in {"an attempt that ran out long ago was ended", "it was due too late"}
        if not self.climate.damages and not (late and self._nobody_looked()):
            self.wrong.append(f"{side} had to be repaired at {self.now:.1f} s: {words}")

    def _nobody_looked(self) -> bool:
        """The store's clock has jumped lately, or the dispatchers stood still: then what is late is no fault."""
        since = self.now - LATELY_S
        still = [
            sum(max(0.0, min(until, self.now) - max(begun, since)) for begun, until in spells)
            for role, spells in self.stood_still.items()
            if role.startswith("dispatch")
        ]
        return any(since < at <= self.now for at, _ in self.climate.steps) or min(still) > STILL_S

    async def _web(self, process: Process, core: Core) -> None:
        await self.switches[process.name].empty_spool()
        await asyncio.sleep(1e9)

    def _ring(self, bell: str) -> None:
        faults = self.climate.line
        for role, (senders, plan) in list(self.senders.items()):
            process = self.processes[role]
            for _ in range(2 if self.rng.random() < faults.bell_doubled else 1):
                if self.rng.random() < faults.bell_lost:
                    continue
                target = plan.bell if bell == keys.PLAN else None
                if target is None and EndpointId(bell) in senders:
                    target = senders[EndpointId(bell)].bell
                if target is not None:
                    process.later(self.rng.uniform(0.0002, 0.003), target.set)

    # Vendors' webhooks.

    def _vendor(self, endpoint: EndpointId) -> Vendor:
        vendor = Vendor(endpoint, CAPABILITIES[endpoint], self.loop, self.rng, self._post)
        vendor.weather = self.climate.weather.get(endpoint, [])
        vendor.stop_at_commit = self.climate.stop_at_commit
        return vendor

    def _post(self, event: ReceiptEvent, taken: Taken) -> None:
        vendor = self.vendors[event.endpoint]

        async def post() -> None:
            accepted = await self.request(lambda web: web.accept(event))
            # By its own id of a message whose send nobody heard the end of, a vendor tells us nothing.
            heard = event.token and event.state in {ReceiptState.DELIVERED, ReceiptState.READ}
            del accepted
            taken.told = taken.told or bool(heard)
            vendor.to_tell -= 1

        self.spawn(post())

    # The run.

    def run(self) -> None:
        """Faults, then calm until everything has drained, then what the clients see."""
        self.switches = {}
        self.ended = False
        with tempfile.TemporaryDirectory(prefix="tl-", dir=SHM if SHM.is_dir() else None) as folder, surrounded(self):
            self.folder = Path(folder)
            self._set_up()
            self._events()
            for number in range(self.climate.dispatchers):
                self._process(f"dispatch{number}", self._dispatch)
            for number in range(self.climate.supervisors):
                self._process(f"supervise{number}", self._supervise)
            self._process("web", self._web)
            self._process("reconcile", self._reconcile)
            for talk in self.talks:
                self.spawn(talk.live(self.climate.faults_s))
            self.loop.run_until(self.climate.faults_s)
            self._calm_down()
            self._drain()
            self.loop.given_up, given_up, self.loop.steps = False, self.loop.given_up, 0
            self._tear_down()
            self.loop.given_up = given_up
        self.server.close()
        self.wrong += [f"broke: {one}" for one in self.loop.broken]

    def _calm_down(self) -> None:
        self.calm = True
        sender.POLL_S = planner.POLL_S = spool.LOOK_S = CALM_POLL_S
        faults = self.climate.line
        for name in ("killed_before", "killed_after", "request_lost", "answer_lost", "slow", "bell_lost"):
            setattr(faults, name, 0.0)
        self.server.away_until = 0.0
        for vendor in self.vendors.values():
            vendor.calm_from = self.now
            vendor.stop_at_commit = 0.0

    def _drain(self) -> None:
        slowed = sum(-step for _, step in self.climate.steps if step < 0) / 1000
        # Health may still change its mind about what was.
        self.loop.run_until(max([self.now, *(one.at + 10.0 for one in self.climate.changes)]))
        limit = self.now + DRAIN_S + slowed + 2 * self.climate.clock_off_s
        while self.now < limit and not self.loop.given_up:
            self.loop.run_until(min(limit, self.now + LOOK_S))
            if self._nothing_left(self.lookout.look):
                # Let come what is to come, and look once more.
                taken = self._taken()
                self.loop.run_until(self.now + 5.0)
                if self._nothing_left(self.lookout.look_again) and taken == self._taken():
                    break
        self.waiting = [str(getattr(task.get_coro(), "__qualname__", "")) for task in self.people]
        self.lookout.tell()
        self.set_aside = self.aside()

    def _nothing_left(self, look: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Everybody was answered, every vendor has told us what it had to tell, and every client sees an end."""
        if self.people or any(vendor.to_tell for vendor in self.vendors.values()):
            return False
        self.spawn(look())
        self.loop.run_until(self.now + 60.0, ended=lambda: not self.people)
        return not self.people and not self.lookout.left

    def _taken(self) -> int:
        return sum(len(vendor.journal) for vendor in self.vendors.values())

    def left(self) -> list[str]:
        """What its people could not see the end of."""
        unheard = [said.key for talk in self.talks for said in talk.said if said.answer == ""]
        return [*self.lookout.left, *unheard, *self.waiting]

    def _tear_down(self) -> None:
        self.ended = True
        for process in list(self.processes.values()):
            process.stopped_until = 0.0
            process.kill()
        for task in list(self.people):
            task.cancel()
        self.loop.run_until(self.now + 1.0)

    def _set_up(self) -> None:
        process = Process(self.loop, "setup")
        core = self.core(process, LineFaults())

        async def set_up() -> None:
            for number in range(self.climate.talks):
                self.talks.append(await self._settle_in(core, number))

        process.start(set_up())
        self.loop.run_until(30.0, ended=lambda: not process.tasks)

    async def _settle_in(self, core: Core, number: int) -> Talk:
        """A customer with two or three addresses, one of them perhaps without consent; perhaps an agent on the move."""
        homes: dict[str, list[EndpointId]] = {}
        bindings: list[Binding] = []
        channels = list(dict.fromkeys(CAPABILITIES[one].channel for one in self.climate.endpoints))
        self.rng.shuffle(channels)
        for order, channel in enumerate(channels):
            serving = [one for one in self.climate.endpoints if CAPABILITIES[one].channel is channel]
            bound = serving[0] if channel is Channel.CHAT else None
            value = {
                Channel.SMS: f"+1555010{number:02d}",
                Channel.EMAIL: f"ann{number}@example.org",
                Channel.CHAT: f"session{number}",
            }[channel]
            refuses = order > 0 and self.rng.random() < 0.15
            binding = Binding(Address(channel, value), bound, verified=True, consent=not refuses, order=order)
            bindings.append(binding)
            homes[place_of(binding)] = serving
        agent = None
        if self.rng.random() < 0.3:
            endpoint = self.rng.choice([one for one in self.climate.endpoints if not one.startswith("chat/")])
            channel = CAPABILITIES[endpoint].channel
            value = f"bob{number}@example.com" if endpoint == MAIL else f"+1555090{number:02d}"
            agent = Agent(f"a0-bob{number}", "Bob", "", (Binding(Address(channel, value), None, verified=True),))
            homes[place_of(agent.bindings[0])] = [endpoint]
            await core.people.create_agent(agent)
        customer = Customer(
            f"c{self.rng.randrange(self.climate.shards)}-ann{number}", "Ann", "en", tuple(bindings), self.unix
        )
        await core.people.create(customer)
        talk = Talk(self, customer.id, f"4F2K{ALPHABET[number]}", bindings, homes, agent)
        talk.refused = {place_of(one): 0.0 for one in bindings if not one.consent}
        return talk

    def _events(self) -> None:
        """What happens at its hour."""
        climate, at = self.climate, self._at
        for moment, duration in climate.stops:
            at(moment, lambda duration=duration: self._stop(duration))
        for moment in climate.kills:
            at(moment, self._kill)
        for moment in climate.damages:
            at(moment, self._damage)
        for moment, duration in climate.away:
            at(moment, lambda duration=duration: setattr(self.server, "away_until", self.now + duration))
        for moment, step in climate.steps:
            at(moment, lambda step=step: setattr(self.server, "clock_off_ms", self.server.clock_off_ms + step))
        for number, (moment, scope, target, duration) in enumerate(climate.forced):
            forced = ForcedFailover(
                f"f0-{number}",
                frozenset({scope}),
                target,
                "ops",
                "drill",
                EPOCH_S + moment,
                EPOCH_S + moment + duration,
            )
            at(moment, lambda forced=forced: self._force(forced))

    def _at(self, moment: float, act: Callable[[], None]) -> None:
        PROCESS_OF_NOBODY.run(self.loop.call_at, moment, act)

    def _force(self, forced: ForcedFailover) -> None:
        self.spawn(self.request(lambda web: web.core.control.save_failover(forced.id, dump_failover(forced))))

    def _damage(self) -> None:
        if not damage(self.server, self.rng, self.climate.shards, [str(one) for one in self.vendors]) and not self.calm:
            self._at(self.now + 1.0, self._damage)

    def _stop(self, duration: float) -> None:
        self.processes[self.rng.choice(sorted(self.processes))].stop(self.now + duration)

    def _kill(self) -> None:
        self.processes[self.rng.choice(sorted(self.processes))].kill()
