"""One seed's world: our real loops on a virtual clock, around a real Redis, among faulty vendors and people."""

import asyncio
import contextlib
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import redis

from channels.errors import LocalFault
from channels.messages import Address, Channel, ReceiptEvent, ReceiptState
from health.report import EndpointId
from router import planner, sender, spool
from router.core import CONSOLE_ENDPOINT, Core, SwitchboardError
from router.domain.conversation import Agent, Binding, Customer
from router.domain.failover import ForcedFailover
from router.domain.ids import ALPHABET
from router.failovers import dump_failover
from router.spool_files import ASIDE
from router.store.codec import place_of
from router.store.redis import StoreUnavailable
from router.switchboard import Switchboard
from tests.simulation.climate import CAPABILITIES, MAIL, Climate, draw_climate
from tests.simulation.damage import damage
from tests.simulation.lookout import Lookout
from tests.simulation.loop import EPOCH_S, Process, VirtualLoop
from tests.simulation.people import Talk
from tests.simulation.roles import Roles
from tests.simulation.server import PROCESS_OF_NOBODY, LineFaults, Server
from tests.simulation.surroundings import CALM_POLL_S, surrounded
from tests.simulation.vendors import Taken, Vendor

DRAIN_S = 2_400.0
"""After the last fault everything must have drained within this, on the virtual clock: 10 minutes for a person, 5 for
parked bulk, and what follows them."""
LOOK_S = 20.0
"""Between two looks of the people at what became of their words, while it drains."""

SHM = Path("/dev/shm")
"""Where files cost no disk, if there is one."""

T = TypeVar("T")


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
        self.roles = Roles(self)
        self.server = Server(client, self.loop, mutate=mutate, ring=self.roles.ring, log=log)
        self.wrong: list[str] = self.server.wrong
        self.calm = False
        self.pace = 5.0 if self.climate.faults_s > 1000.0 else 1.0
        """Idle loops look this many times less often in a run of an hour."""
        self.loop.thread_s = lambda: self.rng.uniform(0.0, 0.02)
        self.set_aside = ""
        self.waiting: list[str] = []
        """What clients still waited for when everything was to be drained."""
        self.words = 0
        self.people: dict[asyncio.Task[Any], None] = {}
        self.repairs = self.renamed = 0
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
            web = self.roles.processes.get("web")
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
                answer = await work(self.roles.doors[web.name])
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

    def repaired(self, words: str, side: str) -> None:
        """The reconciler put something back. Each is a fault found, but where we did the damage."""
        self.repairs += 1
        late = words in {"an attempt that ran out long ago was ended", "it was due too late"}
        if not self.climate.damages and not (late and self.roles.nobody_looked()):
            self.wrong.append(f"{side} had to be repaired at {self.now:.1f} s: {words}")

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
        with tempfile.TemporaryDirectory(prefix="tl-", dir=SHM if SHM.is_dir() else None) as folder, surrounded(self):
            self.folder = Path(folder)
            self._set_up()
            self._events()
            self.roles.begin()
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
        self.roles.end()
        for task in list(self.people):
            task.cancel()
        self.loop.run_until(self.now + 1.0)

    def _set_up(self) -> None:
        process = Process(self.loop, "setup")
        core = self.roles.core(process, LineFaults())

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
            at(moment, lambda duration=duration: self.roles.stop_one(duration))
        for moment in climate.kills:
            at(moment, self.roles.kill_one)
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
