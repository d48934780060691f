"""`make chaos`: the real process tree under load, processes killed and stopped, wires broken; then a verdict."""

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import aiohttp

from channels.messages import Channel
from channels.sandbox.app import MAIL, PHONE, SMS, SMS_BACKUP, Sandbox, SandboxSettings
from router.cli.up import children, prepare_store
from router.demo.judge import Ledger, Marker, answer, judge, read_question
from router.demo.people import CHAT, Api, Browser, Customers, PeopleStopped, Person, addresses, cast, introduce
from router.demo.stage import clear, forget_environment, make_folder, write_settings
from router.private_redis import PrivateRedis
from router.process_tree import ProcessTree, TreeStopped
from router.runtime import load_wording
from router.settings import PRIVATE_FOLDER_MODE, SETTINGS_FILE, default_broker_url, load_settings, write_private_file
from router.telemetry import configure_logging
from tests.chaos.proxy import Proxy, Toxin

OWN = {Channel.EMAIL: MAIL, Channel.CHAT: CHAT, Channel.PHONE: PHONE}
SPEAK_EVERY_S = {Channel.EMAIL: 2.0, Channel.CHAT: 1.0, Channel.SMS: 1.0, Channel.PHONE: 20.0}
"""How often an agent says something to one customer; a call takes its time."""
ASK_EVERY_S = {Channel.EMAIL: 5.0, Channel.CHAT: 4.0, Channel.SMS: 4.0, Channel.PHONE: 30.0}
BREATH_S = 4.0
"""Between two faults: the next one strikes while the last is still being mended."""
DRAIN_S = 30.0
"""Within which everything that was acknowledged must have arrived once the last fault is over."""
PATIENCE_S = 600.0
ROLES = ("web", "dispatch-email", "dispatch-sms", "dispatch-chat", "dispatch-phone", "supervise", "clockwork", "redis")


@dataclass(slots=True)
class World:
    """Everything that runs, and every record that the verdict is made of."""

    api: Api
    sandbox: Sandbox
    tree: ProcessTree
    playing: asyncio.Task[None]
    """Ends when the tree does: at Ctrl-C, or because a child will not live."""
    server: PrivateRedis
    proxies: dict[str, Proxy]
    people: Sequence[Person]
    customers: Customers
    ledger: Ledger
    folder: Path
    conversations: dict[int, str] = field(default_factory=dict)
    acknowledged: dict[Marker, tuple[float, str]] = field(default_factory=dict)
    """Answers that `/v1` took, when, and for customers who write over which endpoint."""
    asked: set[Marker] = field(default_factory=set)
    """Questions that customers wrote, and that their vendor goes on delivering until we acknowledge them."""
    spooled: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    silence: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when nobody is to begin another sentence."""

    def pid(self, role: str) -> int | None:
        """Of a living process."""
        return self.server.pid if role == "redis" else self.tree.pids.get(role)

    def say(self, text: str) -> None:
        """Tell who watches."""
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def free_port() -> int:
    """Nobody else's: two runs at the same time must not hear each other's browsers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def open_world(count: int, folder: Path) -> AsyncIterator[World]:
    """Vendors behind poisonable wires, a durable Redis, the tree that `up` runs, and people."""
    port, log = free_port(), (folder / "vendors.log").open("a", encoding="utf-8")
    configure_logging("info", log)
    ports = {name: 0 for name in SandboxSettings.model_fields if name.endswith("_port")}
    url = f"http://127.0.0.1:{port}"
    sandbox = Sandbox(SandboxSettings(router_url=url, phone_auto="answer", journal_folder=folder / "vendors", **ports))
    await sandbox.start()
    proxies, tables = {}, []
    for direct in sandbox.endpoint_tables():
        proxy, table = await _behind_a_proxy(dict(direct))
        proxies[str(table["id"])] = proxy
        tables.append(table)
    server = PrivateRedis(folder / "redis")
    await asyncio.to_thread(server.start)
    try:
        file = folder / SETTINGS_FILE
        write_private_file(file, write_settings(port, tables))
        settings = load_settings(file)
        settings = settings.model_copy(
            update={"redis_url": server.url, "broker_url": default_broker_url(server.url), "public_url": url}
        )
        key = await prepare_store(settings)
        (settings.data_dir / "metrics").mkdir(mode=PRIVATE_FOLDER_MODE)
        tree = ProcessTree(
            children(settings, file),
            log_folder=folder / "log",
            private_redis=server,
            say=lambda text: print(f"         {text.splitlines()[0]}", flush=True),
            stop_within_s=5.0,
        )
        ready = asyncio.Event()
        playing = asyncio.create_task(tree.run(ready.set))
        await ready.wait()
        people = cast(count)
        timeout = aiohttp.ClientTimeout(total=10.0)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http:
            ledger = Ledger(addresses(people), repeated=load_wording(settings).say("mark.repeated", "en").strip())
            sandbox.journal.watch(ledger.enter)
            ws = url.replace("http", "ws", 1) + "/chat/ws"
            browsers = {one.number: Browser(one, ledger, http, ws) for one in people if one.channel is Channel.CHAT}
            customers = Customers(people, sandbox.vendors, browsers)
            try:
                yield World(
                    Api(http, url, key), sandbox, tree, playing, server, proxies, people, customers, ledger, folder
                )
            finally:
                tree.stop()
                await asyncio.gather(playing, return_exceptions=True)
    finally:
        server.stop()
        for proxy in proxies.values():
            await proxy.stop()
        await sandbox.stop()
        log.close()


async def _behind_a_proxy(table: dict[str, object]) -> tuple[Proxy, dict[str, object]]:
    """The vendor's table with our wire's port in it."""
    if "port" in table:
        proxy = Proxy("127.0.0.1", int(str(table["port"])))
        table["port"] = await proxy.start()
        return proxy, table
    name = next(key for key, value in table.items() if str(value).startswith("http://127.0.0.1:"))
    head, _, tail = str(table[name]).removeprefix("http://").partition("/")
    proxy = Proxy("127.0.0.1", int(head.partition(":")[2]))
    table[name] = f"http://127.0.0.1:{await proxy.start()}" + (f"/{tail}" if tail else "")
    return proxy, table


def own(person: Person) -> str:
    """Where a customer writes; half of those with a telephone have the number at the one vendor, half at the other."""
    return OWN.get(person.channel) or (SMS if person.number % 8 == 3 else SMS_BACKUP)


# Load


async def insist(world: World, work: Callable[[], Awaitable[dict[str, object]]]) -> dict[str, object]:
    """Ask again until it is acknowledged, as a client with an Idempotency-Key may. Raises TimeoutError after 10 min."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await work()
        except (aiohttp.ClientError, ConnectionError, TimeoutError, PeopleStopped) as error:
            words = str(error)
            world.refused[words[-3:] if isinstance(error, PeopleStopped) else type(error).__name__] += 1
            if isinstance(error, PeopleStopped) and " 503" not in words:
                raise
            if time.monotonic() > deadline:
                raise TimeoutError("never acknowledged") from error
            await asyncio.sleep(0.5)


async def pause(world: World, seconds: float) -> None:
    """Say nothing for a while, unless it is over."""
    try:
        async with asyncio.timeout(seconds):
            await world.silence.wait()
    except TimeoutError:
        return


async def speak(world: World, person: Person) -> None:
    """An agent's answers to one customer, each after the one before was acknowledged."""
    turn = 0
    await asyncio.sleep(person.number * 0.1)
    while not world.silence.is_set():
        turn += 1
        marker = (person.number, turn)
        path = f"/v1/conversations/{world.conversations[person.number]}/messages"

        async def post(path: str = path, marker: Marker = marker) -> dict[str, object]:
            return await world.api.post(path, {"text": answer(marker)}, key=f"answer-{marker[0]}-{marker[1]}")

        sent = await insist(world, post)
        world.spooled += sent.get("durable") == "spool"
        world.acknowledged[marker] = (time.time(), own(person))
        await pause(world, SPEAK_EVERY_S[person.channel])


async def ask(world: World, person: Person) -> None:
    """One customer's questions over their own channel."""
    turn = 1
    while not world.silence.is_set():
        turn += 1
        await write(world, person, turn)
        await pause(world, ASK_EVERY_S[person.channel])


async def write(world: World, person: Person, turn: int) -> None:
    """One question; a vendor brings it in its own time, a browser says it until it is taken."""
    taken = False
    while not taken:
        try:
            await world.customers.ask(turn, [person], own, 0.0)
            taken = True
        except* (PeopleStopped, ConnectionError, aiohttp.ClientError):
            await asyncio.sleep(0.5)
    world.asked.add((person.number, turn))


# Faults


async def kill(world: World, role: str) -> None:
    """SIGKILL."""
    world.say(f"kill -9 {role}")
    if pid := world.pid(role):
        os.kill(pid, signal.SIGKILL)


async def freeze(world: World, role: str, seconds: float) -> None:
    """SIGSTOP, and later SIGCONT."""
    world.say(f"stop {role} for {seconds:g} s")
    pid = world.pid(role)
    if pid is None:
        return
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def poison(world: World, endpoint: str, toxin: Toxin, seconds: float) -> None:
    """A wire that is broken for a while."""
    world.say(f"{endpoint}: {toxin} for {seconds:g} s")
    world.proxies[endpoint].poison(toxin)
    await asyncio.sleep(seconds)
    world.proxies[endpoint].poison(Toxin.NONE)


def plan(world: World, arguments: argparse.Namespace) -> list[Callable[[], Awaitable[None]]]:
    """Every fault in turn."""
    stops = (5.0,) if arguments.short else (5.0, 12.0, 60.0) if arguments.long else (5.0, 12.0)
    endpoints = (SMS_BACKUP,) if arguments.short else (MAIL, SMS, SMS_BACKUP, PHONE)
    found: list[Callable[[], Awaitable[None]]] = [partial(kill, world, role) for role in ROLES]
    found += [partial(freeze, world, role, seconds) for seconds in stops for role in ROLES]
    toxins = [one for one in Toxin if one is not Toxin.NONE]
    found += [partial(poison, world, endpoint, toxin, 8.0) for endpoint in endpoints for toxin in toxins]
    return found


# The run


async def watch(world: World) -> None:
    """Without the tree there is nothing left to break. Raises TreeStopped."""
    await asyncio.wait({world.playing})
    world.playing.result()
    raise TreeStopped("The process tree was stopped.")


def idle(world: World, count: int) -> list[Browser]:
    """Pages that are open and say nothing; they come back by themselves when web dies under them."""
    speaking = next(iter(world.customers.browsers.values()))
    return [Browser(Person(10_000 + n, Channel.CHAT), world.ledger, speaking.http, speaking.url) for n in range(count)]


async def begin(world: World) -> None:
    """Everybody has a conversation before anything breaks."""
    async with asyncio.TaskGroup() as group:
        for person in world.people:
            group.create_task(write(world, person, 1))
    deadline = time.monotonic() + 60
    while len(world.conversations) < len(world.people):
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {len(world.conversations)} conversations have begun")
        for conversation, marker in await heard(world):
            world.conversations[marker[0]] = conversation
        await asyncio.sleep(0.5)


async def heard(world: World) -> list[tuple[str, Marker]]:
    """Every question as it stands in a transcript, with its conversation."""
    found, cursor = [], ""
    while True:
        page = await world.api.get(f"/v1/conversations?limit=100{cursor}")
        for conversation in page["items"]:
            after = 0
            while True:
                path = f"/v1/conversations/{conversation['id']}/messages?limit=200&after={after}"
                rows = (await world.api.get(path))["items"]
                for row in rows:
                    marker = read_question(row["text"]) if row["to"] == "agent" else None
                    if marker is not None:
                        found.append((conversation["id"], marker))
                if len(rows) < 200:
                    break
                after = rows[-1]["sequence"]
        if not page["next_cursor"]:
            return found
        cursor = f"&cursor={page['next_cursor']}"


async def drained(world: World) -> float:
    """Seconds until every acknowledged word has arrived, both ways; at most twice what is allowed."""
    begun = time.monotonic()
    while time.monotonic() - begun < 2 * DRAIN_S:
        if world.acknowledged.keys() <= world.ledger.answered():
            try:
                if world.asked <= {marker for _, marker in await heard(world)}:
                    break
            except (PeopleStopped, aiohttp.ClientError, TimeoutError):
                pass  # not back yet
        await asyncio.sleep(0.5)
    return time.monotonic() - begun


async def verdict(world: World, took_s: float) -> list[str]:
    """What must not be, in words."""
    world.ledger.asked = world.acknowledged  # it counts questions, too; those are judged by the transcripts
    found = judge(world.ledger, (), load_wording(load_settings(world.folder / SETTINGS_FILE)))
    times = Counter(marker for _, marker in await heard(world))
    lost = sorted(world.asked - times.keys())
    twice = sorted(marker for marker, count in times.items() if count > 1)
    world.say(
        f"{found.asked} messages acknowledged ({world.spooled} by the spool), {found.answered} arrived, "
        f"{found.doubled_flagged} doubled and flagged; {len(world.asked)} questions, {len(times)} taken; "
        f"drained in {took_s:.1f} s; not acknowledged at once: {dict(world.refused)}"
    )
    faults = {
        "acknowledged and lost": found.lost,
        "doubled without a flag": found.doubled,
        "out of order": found.reordered,
        "at somebody else's address": [one for one in found.strange if " came to customer " in one],
        "questions lost": lost,
        "questions taken twice": twice,
    }
    wrong = [f"{words}: {len(rows)}: {list(rows)[:8]}" for words, rows in faults.items() if rows]
    return wrong + ([f"drained in {took_s:.1f} s, allowed are {DRAIN_S:g}"] if took_s > DRAIN_S else [])


async def play(arguments: argparse.Namespace, folder: Path) -> int:
    """One run; the exit status."""
    async with open_world(arguments.customers, folder) as world, asyncio.TaskGroup() as group:
        browsers = [group.create_task(browser.run()) for browser in world.customers.browsers.values()]
        browsers += [group.create_task(one.run()) for one in idle(world, arguments.sockets)]
        watching = group.create_task(watch(world))
        await introduce(world.api, world.people)
        await begin(world)
        world.say(f"{len(world.people)} customers have a conversation; agents speak, customers ask, faults begin")
        load = [group.create_task(work(world, person)) for person in world.people for work in (speak, ask)]
        for fault in plan(world, arguments):
            await asyncio.sleep(BREATH_S)
            await fault()
        world.say("The last fault is over; everybody finishes their sentence")
        world.silence.set()
        since = time.monotonic()
        await asyncio.wait(load, timeout=DRAIN_S)
        took_s = time.monotonic() - since + await drained(world)
        wrong = await verdict(world, took_s)
        for task in [*load, *browsers, watching]:
            task.cancel()
    for line in wrong:
        world.say(line)
    world.say("Failed." if wrong else "Nothing acknowledged was lost, doubled without a flag, or out of order.")
    return 1 if wrong else 0


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--customers", type=int, default=24)
    parser.add_argument("--sockets", type=int, default=200, help="chat pages that are open beside them")
    parser.add_argument("--short", action="store_true", help="kills, 5 s stops, one vendor: about three minutes")
    parser.add_argument("--long", action="store_true", help="also stops of 60 s")
    arguments = parser.parse_args()
    forget_environment()
    folder = make_folder()
    status = 1
    try:
        status = asyncio.run(play(arguments, folder))
    finally:
        if status == 0:
            clear(folder)
        else:
            print(f"Logs and the vendors' journals are in {folder}")
    return status


if __name__ == "__main__":
    sys.exit(main())
