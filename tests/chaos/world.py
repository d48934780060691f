"""What a chaos run consists of: vendors and Redis behind wires that can be broken, the process tree, people."""

import asyncio
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp

from channels.messages import Channel
from channels.sandbox.app import MAIL, PHONE, SMS, SMS_BACKUP, Sandbox, SandboxSettings
from router.cli.up import children, prepare_store
from router.demo.judge import Ledger, Marker
from router.demo.people import CHAT, Api, Browser, Customers, Person, addresses, cast
from router.demo.stage import write_settings
from router.process_tree import Child, ProcessTree, TreeStopped
from router.runtime import load_wording
from router.settings import (
    PRIVATE_FOLDER_MODE,
    SETTINGS_FILE,
    Settings,
    default_broker_url,
    load_settings,
    write_private_file,
)
from router.telemetry import configure_logging
from tests.chaos.proxy import Proxy
from tests.chaos.stores import STORES, OneRedis, Store

OWN = {Channel.EMAIL: MAIL, Channel.CHAT: CHAT, Channel.PHONE: PHONE}


@dataclass(frozen=True, slots=True)
class Gap:
    """Time that a disk or a replica lost: what was acknowledged in it may be gone, but must have been noticed."""

    since: float
    until: float
    """Unix seconds."""


@dataclass(slots=True)
class World:
    """Everything that runs, and every record that the verdict is made of."""

    api: Api
    sandbox: Sandbox
    tree: ProcessTree
    playing: asyncio.Task[None]
    """Ends when the tree does: at Ctrl-C, or because a child will not live."""
    store: Store
    proxies: dict[str, Proxy]
    people: Sequence[Person]
    customers: Customers
    ledger: Ledger
    folder: Path
    settings: Settings
    conversations: dict[int, str] = field(default_factory=dict)
    acknowledged: dict[Marker, tuple[float, str]] = field(default_factory=dict)
    """Answers that `/v1` took, when, and for customers who write over which endpoint."""
    asked: dict[Marker, float] = field(default_factory=dict)
    """Questions that customers wrote and that were taken, and when; vendors go on delivering until we acknowledge."""
    spooled: set[Marker] = field(default_factory=set)
    refused: Counter[str] = field(default_factory=Counter)
    gaps: list[Gap] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What a fault itself found to be wrong."""
    silence: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when nobody is to begin another sentence."""

    def pid(self, role: str) -> int | None:
        """Of a living process."""
        return self.store.pid if role == "redis" else self.tree.pids.get(role)

    def say(self, text: str) -> None:
        """Tell who watches."""
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    def in_a_gap(self, at: float) -> bool:
        """Whether what was acknowledged then may be gone."""
        return any(gap.since <= at <= gap.until for gap in self.gaps)


def free_port() -> int:
    """Nobody else's: two runs at the same time must not hear each other's browsers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def open_world(count: int, folder: Path, disk: Path, *, store_kind: str) -> AsyncIterator[World]:
    """Vendors and Redis behind poisonable wires, the tree that `up` runs, and people.

    What the product writes lies on `disk`; what others write down, beside it in `folder`.
    """
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
    file = folder / SETTINGS_FILE
    kind = STORES[store_kind]
    write_private_file(file, kind.head + write_settings(port, tables))
    try:
        async with kind.opened(disk / "redis") as store:
            settings = load_settings(file).model_copy(update={**store.settings, "public_url": url, "data_dir": disk})
            broker = settings.broker_url or default_broker_url(settings.redis_url or "")
            settings = settings.model_copy(update={"broker_url": broker})
            async with _inhabited(count, folder, settings, store, sandbox, proxies) as world:
                yield world
    finally:
        for proxy in proxies.values():
            await proxy.stop()
        await sandbox.stop()
        log.close()


@asynccontextmanager
async def _inhabited(
    count: int,
    folder: Path,
    settings: Settings,
    store: Store,
    sandbox: Sandbox,
    proxies: dict[str, Proxy],
) -> AsyncIterator[World]:
    """The tree, once it is ready, and people before its doors."""
    key = await prepare_store(settings)
    (settings.data_dir / "metrics").mkdir(mode=PRIVATE_FOLDER_MODE)
    tree = ProcessTree(
        [_ailing(child, folder) for child in children(settings, folder / SETTINGS_FILE)],
        log_folder=settings.data_dir / "log",
        private_redis=store.server if isinstance(store, OneRedis) else None,
        say=lambda text: print(f"         {text.splitlines()[0]}", flush=True),
        stop_within_s=5.0,
    )
    ready = asyncio.Event()
    playing = asyncio.create_task(tree.run(ready.set))
    try:
        await _until_ready(ready, playing)
        people, url = cast(count), settings.public_url
        timeout = aiohttp.ClientTimeout(total=10.0)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http:
            ledger = Ledger(addresses(people), repeated=load_wording(settings).say("mark.repeated", "en").strip())
            sandbox.journal.watch(ledger.enter)
            ws = url.replace("http", "ws", 1) + "/chat/ws"
            browsers = {one.number: Browser(one, ledger, http, ws) for one in people if one.channel is Channel.CHAT}
            customers = Customers(people, sandbox.vendors, browsers)
            api = Api(http, url, key)
            yield World(
                api, sandbox, tree, playing, store, proxies, people, customers, ledger, folder, settings
            )  # fmt: skip
    finally:
        tree.stop()
        await asyncio.gather(playing, return_exceptions=True)


def _ailing(child: Child, folder: Path) -> Child:
    """As `up` runs it; the clockwork can be made to fail in ways that no signal brings about."""
    if child.name != "clockwork":
        return child
    return replace(child, command=(sys.executable, "-m", "tests.chaos.clockwork", str(folder)))


async def _until_ready(ready: asyncio.Event, playing: asyncio.Task[None]) -> None:
    """Raises TreeStopped: it ended before."""
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({waiting, playing}, return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        playing.result()
        raise TreeStopped("The process tree ended before it was ready.")


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
