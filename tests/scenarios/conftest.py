"""A world to tell stories in: vendors, the router's roles, a Redis, and people with phones and mailboxes."""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest

from channels.messages import Address, Channel
from channels.sandbox.app import Sandbox, SandboxSettings
from channels.sandbox.vendor import Entry, Fault
from health.report import Direction, EndpointId, Status
from router.api_keys import Role
from router.audit.auditor import audit
from router.dispatcher import run_dispatcher
from router.domain.conversation import Binding, Message, SideName
from router.runtime import Runtime, open_runtime
from router.settings import Settings
from router.supervisor import run_supervisor
from router.web.serve import run_web
from tests.context import Context, context_of

T = TypeVar("T")
SHARDS = int(os.environ.get("TEST_SHARDS", "1"))
"""How many parts the customers of a story are spread over."""
BROKER_URL = "redis://127.0.0.1:1/1"
"""Where nobody is: no story waits for Celery."""
SOON_S = 15.0
"""Far longer than anything here should take on a busy machine; a story that waits in vain fails with what it saw."""
LOOK_S = 0.03
VENDORS = {"email": "email/sandbox", "sms": "sms/sandbox", "backup": "sms/backup", "phone": "phone/sandbox"}
ROLES: Mapping[str, Callable[[Runtime], Awaitable[None]]] = {
    "web": run_web,
    "dispatch": run_dispatcher,
    "supervise": run_supervisor,
}


async def until(look: Callable[[], Awaitable[T]], what: str, within_s: float = SOON_S) -> T:
    """What `look` answers, as soon as it is true of anything."""
    deadline = time.monotonic() + within_s
    while True:
        if found := await look():
            return found
        assert time.monotonic() < deadline, f"in {within_s:.0f} s it did not happen: {what}"
        await asyncio.sleep(LOOK_S)


@dataclass
class Pocket:
    """What reaches one address. A message that nobody expects fails the story."""

    world: "World"
    address: str
    read: int = 0

    def unread(self) -> list[Entry]:
        """What came and was not expected yet, oldest first."""
        return self.world.arrived(self.address)[self.read :]

    async def expects(self, *words: str, within_s: float = SOON_S) -> Entry:
        """The next message here, which says all these words."""

        async def look() -> list[Entry]:
            return self.unread()

        said = " and ".join(repr(word) for word in words)
        entry = (await until(look, f"{self.address} hears {said}", within_s))[0]
        missing = [word for word in words if word not in entry.text]
        assert not missing, f"{self.address} expected {missing}, but heard over {entry.endpoint}: {entry.text!r}"
        self.read += 1
        return entry

    def stays_silent(self) -> None:
        """Nothing has come that was not expected."""
        assert not self.unread(), f"{self.address} did not expect: {[(e.endpoint, e.text) for e in self.unread()]}"


@dataclass
class Customer:
    """Somebody with a mailbox and a phone."""

    world: "World"
    mailbox: Pocket
    phone: Pocket
    id: str = ""

    async def writes_mail(self, text: str, *, subject: str = "", answering: Entry | None = None) -> None:
        """Mail us; an answer quotes and goes where the mail asked."""
        await self.world.vendor("email").write(self.mailbox.address, text, subject=subject, in_reply_to=answering)

    async def texts(self, text: str, *, over: str = "sms") -> None:
        """Send an SMS to one of our numbers."""
        await self.world.vendor(over).write(self.phone.address, text)

    async def conversation(self, index: int = 0) -> "Talk":
        """Their conversation with us; `index` counts from the oldest."""
        talks = await until(lambda: self._talks(index + 1), f"{self.mailbox.address} has a conversation")
        return talks[index]

    async def _talks(self, least: int) -> "list[Talk]":
        at = [Address(Channel.EMAIL, self.mailbox.address), Address(Channel.SMS, self.phone.address)]
        people = self.world.core.people
        ids = [self.id] if self.id else [one for each in at for one in await people.at(each)]
        found = [v for one in dict.fromkeys(ids) for v in await self.world.core.store.open_of_customer(one)]
        return [Talk(self.world, one) for one in sorted(set(found))] if len(set(found)) >= least else []


@dataclass(frozen=True)
class Talk:
    """One conversation, as an agent has it on the screen."""

    world: "World"
    id: str

    async def shown(self) -> dict[str, Any]:
        """The conversation as the API shows it."""
        return await self.world.get(f"/v1/conversations/{self.id}")

    async def reference(self) -> str:
        """What the customer is told."""
        return str((await self.shown())["reference"])

    async def answer(self, text: str) -> str:
        """The agent answers, with words that no other answer of the story has; the message's id."""
        assert all(text not in one and one not in text for _, one in self.world.answers), (
            "the judge tells them by words"
        )
        self.world.answers.append((self.id, text))
        self.world.keys += 1
        path = f"/v1/conversations/{self.id}/messages"
        sent = await self.world.post(path, {"text": text}, key=f"answer-{self.world.keys}")
        return str(sent["message_id"])

    async def messages(self) -> list[Message]:
        """The transcript, attempts included."""
        return await self.world.runtime.switchboard.transcript(self.id)

    async def hears(self, text: str, within_s: float = SOON_S) -> Message:
        """What the customer wrote stands in the transcript, once."""

        async def look() -> list[Message]:
            found = await self.messages()
            return [one for one in found if one.side is SideName.AGENT and one.content.text.startswith(text)]

        (found,) = await until(look, f"{text!r} is in the transcript of {self.id}", within_s)
        return found

    async def states(self) -> dict[str, str]:
        """How far each thing we said got."""
        return {one.content.text: one.state.value for one in await self.messages() if one.side is SideName.CUSTOMER}

    async def reaches(self, state: str, text: str, within_s: float = SOON_S) -> Message:
        """Wait until what we said is in this state."""

        async def look() -> list[Message]:
            found = await self.messages()
            return [one for one in found if one.content.text == text and one.state.value == state]

        return (await until(look, f"{text!r} is {state}", within_s))[0]

    async def is_at(self, endpoint: str, side: SideName = SideName.CUSTOMER, within_s: float = SOON_S) -> None:
        """Wait until this side's leg is there."""

        async def look() -> bool:
            found = await self.world.core.store.side(self.id, side)
            return found is not None and found.leg.endpoint == endpoint

        await until(look, f"the {side.name.lower()}'s side of {self.id} is at {endpoint}", within_s)

    async def has_begun(self, message_id: str) -> None:
        """Wait until an attempt at it is under way."""

        async def look() -> bool:
            found = await self.world.core.store.message(message_id)
            return found is not None and any(not one.outcome for one in found.attempts)

        await until(look, f"an attempt at {message_id} is under way")

    async def context(self) -> Context:
        """Everything that must survive a rebind."""
        conversation = await self.world.core.store.conversation(self.id)
        assert conversation is not None
        customer = await self.world.core.customer_of(conversation.customer_id)
        return context_of(conversation, await self.messages(), customer.bindings)


@dataclass
class VendorSwitch:
    """A vendor, and what can be done to it."""

    vendor: Any

    async def write(self, customer: str, text: str, **more: Any) -> None:
        """Somebody writes over it."""
        await self.vendor.write(customer, text, **more)

    async def hangs(self) -> None:
        """It takes connections and never answers."""
        await self.vendor.set_fault(Fault.HANG)

    async def refuses(self) -> None:
        """Nobody listens there any more."""
        await self.vendor.set_fault(Fault.REFUSE)

    async def suffers(self, fault: Fault, share: float = 1.0) -> None:
        """Any other fault."""
        await self.vendor.set_fault(fault, share)

    async def recovers(self) -> None:
        """It is well again."""
        await self.vendor.set_fault(Fault.NONE)


@dataclass
class World:
    """One deployment with its vendors and people, all in this process but for what a story runs apart."""

    settings: Settings
    tables: list[dict[str, object]]
    """Of the vendors' endpoints."""
    sandbox: Sandbox
    http: aiohttp.ClientSession
    roles: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    runtimes: dict[str, Runtime] = field(default_factory=dict)
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)
    pockets: dict[str, Pocket] = field(default_factory=dict)
    answers: list[tuple[str, str]] = field(default_factory=list)
    bearer: str = ""
    keys: int = 0

    @property
    def runtime(self) -> Runtime:
        """The web role's."""
        return self.runtimes["web"]

    @property
    def core(self) -> Any:
        """The web role's core."""
        return self.runtime.core

    # People -----------------------------------------------------------------------------------------------------

    def pocket(self, address: str) -> Pocket:
        """What reaches this address; from now on nothing unexpected may."""
        return self.pockets.setdefault(address, Pocket(self, address))

    def customer(self, name: str, phone: str = "") -> Customer:
        """Somebody who may write to us; we do not know them yet."""
        mailbox = f"{name}@customer.test"
        number = phone or f"+1202555{1000 + sum(ord(c) * 31**i for i, c in enumerate(name)) % 9000}"
        return Customer(self, self.pocket(mailbox), self.pocket(number))

    async def known_customer(self, name: str, *channels: Channel, phone: str = "", locale: str = "en") -> Customer:
        """A customer with verified, consented bindings, in this order (mail then SMS, if none is named)."""
        person = self.customer(name, phone)
        places = {Channel.EMAIL: person.mailbox.address}
        bindings = tuple(
            Binding(Address(one, places.get(one, person.phone.address)), verified=True, order=order)
            for order, one in enumerate(channels or (Channel.EMAIL, Channel.SMS))
        )
        made = await self.runtime.switchboard.create_customer(name=name.title(), locale=locale, bindings=bindings)
        person.id = made.id
        return person

    def arrived(self, address: str) -> list[Entry]:
        """What really reached an address by mail or SMS, in order."""
        return [
            one
            for one in self.sandbox.journal.entries
            if one.to_customer and one.delivered and one.customer == address and not one.endpoint.startswith("phone/")
        ]

    # Faces ------------------------------------------------------------------------------------------------------

    async def get(self, path: str) -> Any:
        """Ask the API."""
        return await self._ask("GET", path, None, "")

    async def post(self, path: str, body: Mapping[str, Any], *, key: str = "") -> Any:
        """Tell the API."""
        return await self._ask("POST", path, body, key)

    async def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """Change something over the API."""
        return await self._ask("PATCH", path, body, "")

    async def put(self, path: str, body: Mapping[str, Any]) -> Any:
        """Put something there over the API."""
        return await self._ask("PUT", path, body, "")

    async def talk(self, reference: str) -> Talk:
        """The conversation with this reference."""
        return Talk(self, (await self.get(f"/v1/conversations/{reference}"))["id"])

    async def eventually(self, look: Callable[[], Awaitable[T]], what: str) -> T:
        """What `look` answers, as soon as it is true of anything."""
        return await until(look, what)

    async def soon(self, look: Callable[[], T], what: str, within_s: float = 30.0) -> T:
        """What `look` answers, as soon as it is true of anything."""

        async def ask() -> T:
            return look()

        return await until(ask, what, within_s)

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, key: str) -> Any:
        status, answer = await self.attempt(method, path, body, key=key)
        assert status < 300, f"{method} {path}: {status} {answer}"
        return answer

    async def attempt(self, method: str, path: str, body: Mapping[str, Any] | None, *, key: str = "") -> Any:
        """The status and the body of what may be refused."""
        headers = {"Authorization": f"Bearer {self.bearer}"} | ({"Idempotency-Key": key} if key else {})
        async with self.http.request(method, self.settings.public_url + path, json=body, headers=headers) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None

    # Vendors and health -----------------------------------------------------------------------------------------

    def vendor(self, name: str) -> VendorSwitch:
        """`email`, `sms`, `backup` or `phone`."""
        return VendorSwitch(self.sandbox.vendors[VENDORS[name]])

    async def status(self, endpoint: str, direction: Direction = Direction.OUT) -> Status:
        """What the board concludes now."""
        record = (await self.core.board.statuses()).get((EndpointId(endpoint), direction))
        return record.status if record else Status.UNKNOWN

    async def expects_status(self, endpoint: str, *wanted: Status, within_s: float = SOON_S) -> None:
        """Wait for a conclusion."""

        async def look() -> bool:
            return await self.status(endpoint) in wanted

        await until(look, f"{endpoint} is {' or '.join(wanted)}", within_s)

    async def proven_since(self, endpoint: EndpointId, at: float) -> None:
        """Wait until a canary that was sent after `at` has come back."""

        async def look() -> bool:
            saved = (await self.core.board.detectors()).get(endpoint, {})
            return bool(saved.get("proven_at", 0.0) > at)

        await until(look, f"a canary of {endpoint} came back")

    # Roles ------------------------------------------------------------------------------------------------------

    async def start(self, *roles: str) -> None:
        """Run roles in this process, each with its own connections."""
        for role in roles:
            opened = asyncio.Event()
            self.roles[role] = asyncio.create_task(self._run(role, opened), name=role)
            waiting = asyncio.create_task(opened.wait())
            await asyncio.wait({waiting, self.roles[role]}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if self.roles[role].done():
                self.roles[role].result()

    async def start_another(self, role: str) -> None:
        """Run a role a second time, as a larger site does."""
        opened = asyncio.Event()
        first = self.runtimes[role]
        self.roles[f"{role} 2"] = asyncio.create_task(self._run(role, opened), name=f"{role} 2")
        await opened.wait()
        self.runtimes[role] = first

    async def _run(self, role: str, opened: asyncio.Event) -> None:
        async with open_runtime(self.settings, role) as runtime:
            self.runtimes[role] = runtime
            opened.set()
            await ROLES[role](runtime)

    async def stop(self, role: str) -> None:
        """End a role as SIGTERM does."""
        task = self.roles.pop(role)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def spawn(self, *command: str, code: str | None = None) -> asyncio.subprocess.Process:
        """Run `throughline ...` as a process of its own, which a story may kill with -9; `code`: of another version."""
        shown = self.settings.model_dump(mode="json", include={"redis_url", "public_url", "organisation"})
        environment = {f"THROUGHLINE_{name.upper()}": str(value) for name, value in shown.items()}
        environment |= {
            "THROUGHLINE_DATA_DIR": str(self.settings.data_dir),
            "THROUGHLINE_SECRET": self.settings.secret.get_secret_value(),
            "THROUGHLINE_SANDBOX__ENABLED": "false",
            "THROUGHLINE_SHARDS": str(self.settings.shards),
            "THROUGHLINE_BROKER_URL": BROKER_URL,
            "THROUGHLINE_HEALTH": self.settings.health.model_dump_json(exclude_defaults=True),
            "THROUGHLINE_DISPATCH": self.settings.dispatch.model_dump_json(exclude_unset=True),
            "THROUGHLINE_ENDPOINTS": json.dumps(self.tables),
        }
        log = (self.settings.data_dir / f"process{len(self.processes)}.log").open("wb")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "router", *command, env=os.environ | environment, stdout=log, stderr=log, cwd=code
        )
        log.close()
        self.processes.append(process)
        return process

    async def has_workers(self, role: str, count: int, within_s: float = 2 * SOON_S) -> None:
        """Wait until so many beat in a role; on a busy machine a process takes a while to start."""

        async def look() -> bool:
            return sum(beat.role == role for beat in await self.core.board.beats()) >= count

        await until(look, f"{count} of {role} beat", within_s)

    async def journals(self, kind: str, within_s: float = SOON_S) -> dict[str, str]:
        """Wait for the newest journal entry of a kind."""

        async def look() -> list[dict[str, str]]:
            store = self.core.store
            rows = [row for shard in range(store.shards) for _, row in await store.journal_last(shard, 500)]
            return [row for row in rows if row["k"] == kind]

        return (await until(look, f"{kind} is in the journal", within_s))[0]

    # The end of a story -----------------------------------------------------------------------------------------

    async def settles(self, within_s: float = SOON_S) -> None:
        """Wait until nothing is on its way: no side has work anywhere, nothing is leased."""
        store = self.core.store
        left: list[tuple[str, list[str]]] = []

        async def look() -> bool:
            places = [*self.core.capabilities, "@plan"]
            looks = [(place, shard) for place in places for shard in range(store.shards)]
            left[:] = [(place, due) for place, shard in looks if (due := await store.due_at(shard, place))]
            return not left

        try:
            await until(look, "everything drains", within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; still due: {left}") from error

    async def ends_well(self, *, drained: bool = True, spoken: tuple[str, ...] = ()) -> None:
        """Nothing unexpected came, nothing is on its way, nothing was lost, doubled unflagged or reordered.

        `spoken`: what was said where vendors keep no text of it, so that the story itself has looked.
        """
        if drained:
            await self.settles()
        for pocket in self.pockets.values():
            pocket.stays_silent()
        strangers = {one.customer for one in self.sandbox.journal.entries if one.to_customer} - self.pockets.keys()
        assert not strangers, f"written to people of no story: {strangers}"
        self._judge(spoken)
        core = self.core
        assert not await audit(core.store, core.control, core.board, core.files, now=core.clock.now())

    def _judge(self, spoken: tuple[str, ...]) -> None:
        """From the vendors' own journal, not from our store."""
        last: dict[str, int] = {}
        taken = [entry for entry in self.sandbox.journal.entries if entry.to_customer and entry.delivered]
        for conversation, text in self.answers:
            found = [one for one in taken if text in _fresh(one)]
            assert found or text in spoken, f"lost: {text!r}"
            for again in found[1:]:
                assert _is_flagged(again), f"doubled without a flag: {text!r} over {[one.endpoint for one in found]}"
            if found:
                assert found[0].number > last.get(conversation, 0), f"reordered: {text!r}"
                last[conversation] = found[0].number

    async def close(self) -> None:
        """End everything; a role that died by itself fails the story."""
        died = [task for task in self.roles.values() if task.done()]
        for process in self.processes:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
                await process.wait()
        for role in reversed(list(self.roles)):
            if not self.roles[role].done():
                await self.stop(role)
        await self.http.close()
        await self.sandbox.stop()
        for task in died:
            task.result()


def _fresh(entry: Entry) -> str:
    """What a message says itself, without what it quotes."""
    return "\n".join(line for line in entry.text.splitlines() if not line.startswith(">"))


def _is_flagged(entry: Entry) -> bool:
    return "possible_duplicate" in entry.details or "Perhaps a repeat" in entry.text


def _free_port() -> int:
    """Below the ports that outgoing connections take for themselves: it is bound a moment later, not now."""
    for _ in range(100):
        port = random.randrange(15_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port in a hundred tries")


@contextlib.asynccontextmanager
async def open_world(
    redis_url: str, folder: Path, *, start: tuple[str, ...] = tuple(ROLES), **settings: Any
) -> AsyncIterator[World]:
    """A world that runs, every endpoint up; it must end well by itself where a story does not say so."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    ports = {name: 0 for name in SandboxSettings.model_fields if name.endswith("_port")} | {"lmtp_port": _free_port()}
    sandbox = Sandbox(SandboxSettings(router_url=url, **ports))
    await sandbox.start()
    quick: dict[str, Any] = {"hold_s": 2.0, "ramp_s": 3.0, "ramp_successes": 2, "recovery_probes": 2}
    more, each = settings.pop("endpoints_more", {}), settings.pop("endpoints_each", {})
    # Canaries go out where something is suspected; a story that wants them regularly says so.
    tables = [table | {"canary_every_s": 0.0} | more | each.get(table["id"], {}) for table in sandbox.endpoint_tables()]
    known = Settings(
        organisation="Example Shop",
        redis_url=redis_url,
        broker_url=BROKER_URL,
        shards=settings.pop("shards", SHARDS),
        data_dir=folder,
        secret="s" * 40,
        public_url=url,
        web={"port": port},
        sandbox={"enabled": False},
        endpoints=tables,
        health=quick | settings.pop("health", {}),
        **settings,
    )
    world = World(known, tables, sandbox, aiohttp.ClientSession())
    try:
        await world.start(*start)
        _, world.bearer = await world.runtime.keys.create(Role.ADMIN, "stories")
        if "supervise" in start:
            for endpoint in VENDORS.values():
                await world.expects_status(endpoint, Status.UP)
        yield world
    finally:
        await world.close()


@pytest.fixture
async def world(redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """Everything runs, all endpoints are up, nobody has written yet."""
    async with open_world(redis_url, tmp_path) as one:
        yield one


@pytest.fixture
def build_world(redis_url: str, tmp_path: Path) -> Callable[..., Any]:
    """Opens a world with settings of its own: `async with build_world(messages={...}) as world`."""
    return lambda **settings: open_world(settings.pop("redis_url", redis_url), tmp_path, **settings)
