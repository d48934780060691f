"""How a drill goes: answers as always; an outage that strikes with answers due; it is mended, and they come home."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import aiohttp

from channels.sandbox.app import Sandbox
from channels.sandbox.vendor import Fault, Journal
from health.thresholds import DetectorSettings
from router.demo.judge import Ledger, Marker, Outage, judge
from router.demo.people import Agents, Api, Customers, Person, addresses, introduce
from router.demo.play import LOOK_S, Stuck, connector, perform, put_on, until
from router.demo.screen import Screen
from router.demo.stage import HOLD_S, SETTINGS, Stage, free_port, open_stage, vendor_settings
from router.drill.crowd import Crowd, gather
from router.drill.findings import AFTER, BEFORE, DURING, Findings, Witness, find
from router.drill.rehearsal import build_vendors, forget_credentials, write_rehearsal
from router.drill.report import show_findings
from router.runtime import all_endpoints, load_wording
from router.settings import Settings

START_MAX_S = 120.0
"""For vendors, Redis and every process to start, and to stop."""
TURN_MAX_S = 40.0
"""For everybody's answer of a turn, beside what the slowest endpoint's rate asks for."""
SLOWEST_PER_S = 1.0
"""Of an endpoint that names no rate: what a new voice account may do."""
WRITE_PER_S = 10.0
"""Customers who write in a second."""
OUTAGES_TOLERATED = 3
"""A vendor that flaps is down more than once, and held longer each time."""
MARGIN_S = 30.0
QUIET_S = 1.0
"""After the last answer: whatever comes twice comes now."""
THINK_S = (0.1, 0.6)
ANSWERED_WITHIN = 0.7
"""Of the outage: agents spread their answers over this part of it."""
WORDS: Mapping[Fault, str] = {
    Fault.HANG: "hangs",
    Fault.REFUSE: "refuses connections",
    Fault.ERROR: "answers with errors",
    Fault.DROP_AFTER_ACCEPT: "breaks off after taking",
    Fault.SLOW: "is slow",
    Fault.LOSE_SILENTLY: "loses silently",
    Fault.FLAP: "flaps",
}


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be drilled."""

    faults: Mapping[str, Fault]
    """By endpoint."""
    customers: int
    lasts_s: float
    quick: bool


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a drill waits for what, in seconds: from the settings' own holds, so that it ends by itself."""

    turn_s: float
    recovery_s: float
    """From mended to used again."""
    settle_s: float
    """From mended until nothing waits for a receipt or a turn any more."""
    total_s: float

    @classmethod
    def of(cls, settings: Settings, order: Order) -> "Patience":
        """As long as the settings, or their `quick` form, can make anything last."""
        health, rates = settings.health, [one.rate_per_s or SLOWEST_PER_S for one in all_endpoints(settings)]
        holds = [one.hold_s if one.hold_s is not None else MARGIN_S * 2 for one in all_endpoints(settings)]
        hold_s = min(health.hold_max_s, health.hold_s * OUTAGES_TOLERATED)
        failover, messages = settings.failover, settings.messages
        if order.quick:
            quick = DetectorSettings.model_validate(SETTINGS["health"])
            holds, hold_s = [HOLD_S], quick.hold_s * OUTAGES_TOLERATED
        recovery_s = hold_s + health.recovery_probes * health.probe_down_every_s + MARGIN_S
        turn_s = TURN_MAX_S + order.customers / min(rates)
        settle_s = max(recovery_s, *holds, failover.park_s, failover.one_move_per_s, messages.hold_while_down_s)
        settle_s += turn_s
        return cls(turn_s, recovery_s, settle_s, START_MAX_S + 3 * turn_s + order.lasts_s + settle_s + recovery_s)


@dataclass(slots=True)
class Drill:
    """The plot, and what came of it so far."""

    order: Order
    crowd: Crowd
    patience: Patience
    stage: Stage
    screen: Screen
    ledger: Ledger
    api: Api
    customers: Customers
    agents: Agents
    locale: str
    witness: Witness = field(default_factory=Witness)
    outages: list[Outage] = field(default_factory=list)
    mended_at: float = 0.0

    async def tell(self) -> None:
        """From the first question to the last answer. Raises Stuck, PeopleStopped."""
        await introduce(self.api, self.crowd.people, self.locale)
        await self.agents.listening.wait()
        await self._until(lambda: self._are(self.screen.shown, {"up"}), "every stand-in is up")
        self.screen.begin(f"{len(self.crowd.people)} invented customers write, and are answered as always")
        await self._ask(BEFORE)
        await self._until(lambda: self._answered(BEFORE), "everybody has an answer before the outage")
        await self._strike()
        await self._mend()
        await self._go_home()
        await asyncio.sleep(QUIET_S)

    async def _strike(self) -> None:
        """They wait for answers, as people do when a vendor fails; agents answer into the outage."""
        self.agents.at_work.clear()
        await self._ask(DURING)
        wanted = {(one.number, DURING) for one in self.crowd.people}
        await self._until(lambda: wanted <= self.agents.seen, "every question reached the agents")
        self.screen.begin(f"They wrote again, and their answers are due; the outage lasts {self.order.lasts_s:g} s")
        for endpoint, fault in self.order.faults.items():
            self.outages.append(Outage(endpoint, WORDS[fault], time.time()))
            await self.stage.sandbox.vendors[endpoint].set_fault(fault)
            self.screen.say(f"{endpoint} {WORDS[fault]} from now on.", "red")
        self.agents.think_s = (THINK_S[0], max(THINK_S[1], self.order.lasts_s * ANSWERED_WITHIN))
        self.agents.at_work.set()
        await asyncio.sleep(self.order.lasts_s)

    async def _mend(self) -> None:
        self.mended_at = time.time()
        for endpoint in self.order.faults:
            await self.stage.sandbox.vendors[endpoint].set_fault(Fault.NONE)
            self.screen.say(f"{endpoint} is mended.")
        moved = sum(1 for one in self.ledger.arrived if self.ledger.has_moved(one))
        self.screen.say(f"{moved} answers came elsewhere so far; waiting for the rest, at most {self._settle:.0f} s.")
        if not await self._holds(lambda: self._answered(DURING), self._settle):
            self.screen.say("Some answers still wait; the report says which.", "yellow")

    async def _go_home(self) -> None:
        """Whoever writes there again is answered there, if it is used again."""
        down = [one.endpoint for one in self.outages if self.witness.first(one, "down")]
        if not await self._holds(lambda: self._are(down, {"recovering", "up"}), self.patience.recovery_s):
            self.screen.say(f"Not used again within {self.patience.recovery_s:.0f} s of being mended.", "yellow")
            return
        self.screen.begin("It works again: they write there once more")
        self.agents.think_s = THINK_S
        await self._ask(AFTER)
        if not await self._holds(lambda: self._answered(AFTER), self.patience.turn_s):
            self.screen.say("Not everybody has an answer; the report says what became of them.", "yellow")

    async def look(self) -> None:
        """Keep asking how the endpoints are, and tell what becomes of the drilled ones. Raises PeopleStopped."""
        told = 0
        while True:
            found = await self.api.get("/v1/endpoints")
            self.screen.states = {one["id"]: one for one in found["items"]}
            for index, outage in enumerate(self.outages):
                if not outage.noticed_at and (down := self.witness.first(outage, "down")):
                    self.outages[index] = replace(outage, noticed_at=down.at)
            news, told = self.witness.changes[told:], len(self.witness.changes)
            for change in news:
                since = next((one.at for one in self.outages if one.endpoint == change.endpoint), None)
                if since is not None and change.direction == "out":
                    words = f"{change.endpoint} is {change.after}, {change.at - since:.1f} s after the fault"
                    self.screen.say(f"{words} ({change.reason.replace('_', ' ')}).", COLOUR.get(change.after, ""))
            await asyncio.sleep(LOOK_S)

    async def states(self) -> dict[Marker, str]:
        """In which state the router holds each answer that did not arrive."""
        missing = self.ledger.asked.keys() - self.ledger.answered()
        said = {marker: self.agents.said[marker] for marker in missing if marker in self.agents.said}
        return {marker: (await self.api.get(f"/v1/messages/{one}"))["state"] for marker, one in said.items()}

    @property
    def _settle(self) -> float:
        return self.patience.settle_s

    async def _ask(self, turn: int) -> None:
        people = self.crowd.people
        await self.customers.ask(turn, people, self._home, spread_s=len(people) / WRITE_PER_S)

    def _home(self, person: Person) -> str:
        return self.crowd.home[person.number]

    def _answered(self, turn: int) -> bool:
        return {(one.number, turn) for one in self.crowd.people} <= self.ledger.answered()

    def _are(self, endpoints: Sequence[str], statuses: set[str]) -> bool:
        states = self.screen.states
        return all(one in states and states[one]["status_out"] in statuses for one in endpoints)

    async def _until(self, holds: Callable[[], bool], words: str) -> None:
        await until(holds, words, self.patience.turn_s)

    async def _holds(self, holds: Callable[[], bool], within_s: float) -> bool:
        try:
            await until(holds, "", within_s)
        except Stuck:
            return False
        return True


COLOUR = {"down": "red", "suspect": "yellow", "recovering": "cyan", "up": "green"}


def announce(order: Order, screen: Screen, whose: str) -> None:
    """Say what is drilled, whose policy it is, and what differs from it."""
    drilled = ", ".join(f"{endpoint} {WORDS[fault]}" for endpoint, fault in order.faults.items())
    screen.begin(f"Drill: {drilled} for {order.lasts_s:g} s, with {order.customers} invented customers")
    screen.say(f"Policy of: {whose}. Vendors, store and people are stand-ins on this machine.")
    if order.quick:
        screen.settings(SETTINGS, {"every vendor": {"hold_s": HOLD_S}})


def run_drill(settings: Settings, order: Order, screen: Screen) -> int:
    """Rehearse it, print the report, leave nothing behind. The exit status: 1 if anything was lost, doubled without a
    flag or out of order, if the outage was never noticed, nothing could move, or it could not be played to its end;
    130 where it was interrupted.
    """
    forget_credentials(settings)
    return put_on("drill", screen, lambda folder: _play(settings, order, screen, folder))


async def _play(settings: Settings, order: Order, screen: Screen, folder: Path) -> int:
    crowd, patience = gather(settings, tuple(order.faults), order.customers), Patience.of(settings, order)
    screen.say(f"Ends by itself within {patience.total_s:.0f} s; Ctrl-C ends it at once. Starting the stand-ins ...")
    port, journal = free_port(), Journal()
    vendors = build_vendors(settings, journal, f"http://127.0.0.1:{port}")
    sandbox = Sandbox(vendor_settings(folder, port), vendors=vendors, journal=journal)
    write = partial(write_rehearsal, settings, vendors, port, quick=order.quick)
    try:
        async with asyncio.timeout(patience.total_s):
            with screen:
                async with (
                    open_stage(folder, sandbox, write, screen.say) as stage,
                    aiohttp.ClientSession(connector=connector()) as http,
                ):
                    findings, stuck = await _perform(order, crowd, patience, stage, screen, http)
    except TimeoutError:
        screen.say(f"It did not end within {patience.total_s:.0f} s and was stopped.", "bold red")
        return 1
    return show_findings(screen, findings, crowd, stuck)


async def _perform(
    order: Order, crowd: Crowd, patience: Patience, stage: Stage, screen: Screen, http: aiohttp.ClientSession
) -> tuple[Findings, str]:
    wording = load_wording(stage.settings)
    locale = wording.locale_for(stage.settings.default_locale)
    ledger = Ledger(addresses(crowd.people), repeated=wording.say("mark.repeated", locale).strip())
    api = Api(http, stage.settings.public_url, stage.key)
    drill = Drill(
        order=order,
        crowd=crowd,
        patience=patience,
        stage=stage,
        screen=screen,
        ledger=ledger,
        api=api,
        customers=Customers(crowd.people, stage.sandbox.vendors, {}),
        agents=Agents(api),
        locale=locale,
    )
    drill.agents.hear = drill.witness.hear
    screen.ledger = ledger
    stage.sandbox.journal.watch(ledger.enter)
    stage.sandbox.journal.watch(drill.customers.receive)
    stuck = await perform(stage, [drill.agents.run, drill.look], drill.tell)
    verdict = judge(ledger, drill.outages, wording, locale)
    states = await drill.states()
    mended_at = drill.mended_at or time.time()
    findings = find(verdict, ledger, crowd, drill.witness, order.faults, mended_at=mended_at, states=states)
    return findings, stuck
