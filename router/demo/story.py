"""`throughline demo`: 200 customers on four channels, two outages and a recovery, told and judged in a minute."""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path

import aiohttp

from channels.messages import Channel
from channels.sandbox.app import MAIL, PHONE, SMS, Sandbox
from channels.sandbox.vendor import Fault
from router.demo.judge import LOCALE, Ledger, Marker, Outage, judge
from router.demo.people import CHAT, Agents, Api, Browser, Customers, Person, addresses, cast, introduce
from router.demo.play import LOOK_S, connector, perform, put_on, until
from router.demo.screen import SHOWN, Screen
from router.demo.stage import ACCOUNTS, SETTINGS, Stage, free_port, open_stage, vendor_settings, write_settings
from router.runtime import load_wording

TURN_S = 3.0
"""Within which everybody of a turn writes; sooner where they are few."""
LONG_TURN_S = 5.0
"""A vendor that hangs is noticed by those who go on writing."""
WRITE_PER_S_MIN = 10.0
WAIT_S = 40.0
"""For anything in the story, and a second more for each ten customers."""
QUIET_S = 1.0
"""After the last answer: whatever comes twice comes now."""
THINK_SHORT_S = (0.1, 0.6)
THINK_LONG_S = (0.8, 3.0)
"""Agents take their time, so that the second fault strikes amid their answers."""
ANSWERED_FIRST = 0.3
"""Of the answers are out when the second fault strikes: it must hit some that are under way."""
OWN = {Channel.EMAIL: MAIL, Channel.CHAT: CHAT, Channel.SMS: SMS, Channel.PHONE: PHONE}


BACK = {
    "recovering": "answers probes again; it gets a rising share of what begins.",
    "up": "is up: it has taken that share.",
}


@dataclass(slots=True)
class Story:
    """The plot, and what it has been told so far."""

    stage: Stage
    screen: Screen
    ledger: Ledger
    api: Api
    people: Sequence[Person]
    customers: Customers
    agents: Agents
    outages: list[Outage] = field(default_factory=list)

    async def tell(self) -> None:
        """From the first question to the last answer. Raises Stuck, PeopleStopped."""
        await introduce(self.api, self.people)
        await self.agents.listening.wait()
        await self._until(lambda: self._statuses(SHOWN) <= {"up"}, "every endpoint is up")
        everybody = {channel: [one for one in self.people if one.channel is channel] for channel in Channel}
        mail, chat = everybody[Channel.EMAIL], everybody[Channel.CHAT]
        sms, phone = everybody[Channel.SMS], everybody[Channel.PHONE]
        counts = f"{len(mail)} by mail, {len(chat)} in web chat, {len(sms)} by SMS, {len(phone)} by phone"
        self.screen.begin(f"{len(self.people)} customers write: {counts}")
        await self._turn(1, self.people, lambda one: OWN[one.channel])
        self.screen.say("Everybody has an answer, each where they wrote.", "green")
        await self._mail_hangs(mail, chat)
        await self._first_sms_vendor_refuses([*mail, *sms], phone)
        await self._mail_is_back(mail, chat)

    async def _mail_hangs(self, mail: Sequence[Person], chat: Sequence[Person]) -> None:
        self.screen.begin("They write again, and the mail vendor hangs: it takes connections and never answers")
        await self._break(MAIL, Fault.HANG, "hangs")
        await self._turn(2, [*mail, *chat], lambda one: OWN[one.channel], within_s=LONG_TURN_S)
        self._say_what_moved()
        await self.stage.sandbox.vendors[MAIL].set_fault(Fault.NONE)
        self.screen.say(f"{MAIL} is mended.")

    async def _first_sms_vendor_refuses(self, texting: Sequence[Person], phone: Sequence[Person]) -> None:
        self.screen.begin("Those who were moved simply reply by SMS; amid the answers the first SMS vendor refuses")
        self.agents.think_s = THINK_LONG_S
        over = {one.number: SMS for one in texting} | {one.number: PHONE for one in phone}
        asking = asyncio.create_task(self._turn(3, [*texting, *phone], lambda one: over[one.number]))
        wanted = {(one.number, 3) for one in texting}
        early = len(wanted) * ANSWERED_FIRST
        try:
            await self._until(
                lambda: wanted <= self.agents.seen and len(wanted & self.ledger.answered()) >= early,
                "every text reached the agents",
            )
            await self._break(SMS, Fault.REFUSE, "refuses connections")
            await asking
        finally:
            asking.cancel()
        self._say_what_moved()

    async def _mail_is_back(self, mail: Sequence[Person], chat: Sequence[Person]) -> None:
        await self._until(lambda: self._statuses({MAIL}) <= {"recovering", "up"}, "probes find the mail vendor well")
        self.screen.begin("Mail works again: whoever writes by mail is answered by mail")
        self.agents.think_s = THINK_SHORT_S
        await self._turn(4, [*mail, *chat], lambda one: OWN[one.channel])
        self.screen.say("Everybody has an answer, each where they wrote.", "green")
        await asyncio.sleep(QUIET_S)

    async def look(self) -> None:
        """Keep asking how the endpoints are, and tell what becomes of those that broke. Raises PeopleStopped."""
        while True:
            found = await self.api.get("/v1/endpoints")
            before, self.screen.states = self.screen.states, {one["id"]: one for one in found["items"]}
            for index, outage in enumerate(self.outages):
                state = self.screen.states[outage.endpoint]
                status = state["status_out"]
                if status == before[outage.endpoint]["status_out"]:
                    continue
                if status == "down" and not outage.noticed_at:
                    since = datetime.fromisoformat(state["since"]).timestamp()
                    self.outages[index] = replace(outage, noticed_at=since)
                    words = f"{outage.endpoint} is down, noticed after {since - outage.at:.1f} s; its gate is closed."
                    self.screen.say(words, "red")
                elif status in BACK:
                    self.screen.say(f"{outage.endpoint} {BACK[status]}", "green")
            await asyncio.sleep(LOOK_S)

    async def _turn(
        self, turn: int, people: Sequence[Person], over: Callable[[Person], str], within_s: float = TURN_S
    ) -> None:
        """Everybody of `people` asks once; returns when everybody was answered."""
        wanted: set[Marker] = {(one.number, turn) for one in people}
        await self.customers.ask(turn, people, over, spread_s=min(within_s, len(people) / WRITE_PER_S_MIN))
        await self._until(lambda: wanted <= self.ledger.answered(), "every question is answered")

    async def _break(self, endpoint: str, fault: Fault, words: str) -> None:
        self.outages.append(Outage(endpoint, words, time.time()))
        await self.stage.sandbox.vendors[endpoint].set_fault(fault)
        self.screen.say(f"{endpoint} {words} from now on.", "red")

    def _say_what_moved(self) -> None:
        broken = self.outages[-1].endpoint
        moved = [one for one in self.ledger.arrived if self.ledger.asked[one.marker][1] == broken != one.endpoint]
        where = ", ".join(sorted({one.endpoint for one in moved}))
        self.screen.say(f"{len(moved)} answers came by {where} instead; everybody has an answer.", "green")

    def _statuses(self, endpoints: Collection[str]) -> set[str]:
        return {self.screen.states[one]["status_out"] if one in self.screen.states else "" for one in endpoints}

    async def _until(self, holds: Callable[[], bool], words: str) -> None:
        await until(holds, words, WAIT_S + len(self.people) / 10)


def run_demo(*, customers: int) -> int:
    """Play it, print the verdict, leave nothing behind. The exit status: 1 if anything was lost, out of order or
    doubled without a flag, if somebody got two notices for one outage, or if it could not be played to its end.
    """
    screen = Screen()
    return put_on("demo", screen, lambda folder: _play(customers, screen, folder))


async def _play(customers: int, screen: Screen, folder: Path) -> int:
    people = cast(customers)
    screen.begin(f"Throughline demo: {customers} customers, four channels, two outages and a recovery")
    screen.settings(SETTINGS, ACCOUNTS)
    screen.say("Starting vendors, Redis, web, dispatchers, supervisor and clockwork ...")
    port = free_port()
    sandbox = Sandbox(vendor_settings(folder, port))
    write = partial(_write, port, sandbox)
    with screen:
        async with (
            open_stage(folder, sandbox, write, screen.say) as stage,
            aiohttp.ClientSession(connector=connector()) as http,
        ):
            wording = load_wording(stage.settings)
            ledger = Ledger(addresses(people), repeated=wording.say("mark.repeated", LOCALE).strip())
            screen.ledger = ledger
            story = _story(stage, screen, ledger, people, http)
            browsers = [browser.run for browser in story.customers.browsers.values()]
            stuck = await perform(stage, [*browsers, story.agents.run, story.look], story.tell)
            verdict = judge(ledger, story.outages, wording)
    screen.verdict(verdict)
    if stuck:
        screen.say(stuck, "red")
    good = not stuck and not verdict.faults
    words = "Nothing was lost, doubled without a flag, or out of order." if good else "The demo failed."
    screen.say(words, "bold green" if good else "bold red")
    return 0 if good else 1


def _write(port: int, sandbox: Sandbox) -> str:
    return write_settings(port, sandbox.endpoint_tables())


def _story(
    stage: Stage, screen: Screen, ledger: Ledger, people: Sequence[Person], http: aiohttp.ClientSession
) -> Story:
    api = Api(http, stage.settings.public_url, stage.key)
    chat = stage.settings.public_url.replace("http", "ws", 1) + "/chat/ws"
    browsers = {one.number: Browser(one, ledger, http, chat) for one in people if one.channel is Channel.CHAT}
    customers = Customers(people, stage.sandbox.vendors, browsers)
    stage.sandbox.journal.watch(ledger.enter)
    stage.sandbox.journal.watch(customers.receive)
    return Story(stage, screen, ledger, api, people, customers, Agents(api))
