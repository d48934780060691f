"""The people of demo and drill: customers with mailboxes, phones, browsers, and the agents who answer over `/v1`."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from channels.messages import Channel
from channels.sandbox.vendor import Entry, Vendor
from router.demo.judge import LOCALE, Ledger, Marker, answer, question, read_question

CHAT = "chat/web"
AT_ONCE = 16
"""Requests under way at the same time, of customers and of agents each."""
PATIENCE_S = 20.0
"""How long a browser waits to be told that its words were taken."""
ASK_AGAIN_S = 0.5
FRAME_MAX = 64 * 1024
OTHERS: Mapping[Channel, tuple[Channel, ...]] = {
    Channel.EMAIL: (Channel.SMS,),
    Channel.CHAT: (),
    Channel.SMS: (Channel.EMAIL,),
    Channel.PHONE: (Channel.SMS,),
}
"""Where the demo's customers may be reached besides the channel they write on."""
FICTION_BLOCK = 100
"""Numbers 555-0100 to 555-0199 of every area code are kept for fiction."""
AREA_FIRST = 203
"""Above the stand-ins' own numbers and canaries, which are in 202."""

Json = dict[str, Any]


class PeopleStopped(Exception):
    """The API or the chat did not answer as it must; the text says what it said."""


@dataclass(frozen=True, slots=True)
class Person:
    """A customer, and the channel they write on."""

    number: int
    channel: Channel
    others: tuple[Channel, ...] = ()
    """Where they may be reached besides, none before the other."""

    @property
    def mailbox(self) -> str:
        """Theirs alone."""
        return f"customer{self.number}@customer.test"

    @property
    def phone(self) -> str:
        """Theirs alone, and nobody's in the real world."""
        block, line = divmod(self.number - 1, FICTION_BLOCK)
        return f"+1{AREA_FIRST + block}55501{line:02d}"

    @property
    def bindings(self) -> list[Json]:
        """What they agreed to, their own channel first. Whoever chats is known by their browser alone."""
        places = [] if self.channel is Channel.CHAT else [self.channel, *self.others]
        return [
            {
                "address": {"channel": place, "value": self.address(place)},
                "verified": True,
                "consent": True,
                "order": min(index, 1),
            }
            for index, place in enumerate(places)
        ]

    def address(self, channel: Channel) -> str:
        """Theirs on mail, SMS or phone."""
        return self.mailbox if channel is Channel.EMAIL else self.phone


def cast(customers: int) -> list[Person]:
    """`customers` people, numbered from 1, evenly on the four channels."""
    channels = tuple(OTHERS)
    own = [(number, channels[(number - 1) % len(channels)]) for number in range(1, customers + 1)]
    return [Person(number, channel, OTHERS[channel]) for number, channel in own]


def addresses(people: Iterable[Person]) -> dict[str, int]:
    """Whose each mailbox and number is."""
    return {place: one.number for one in people for place in (one.mailbox, one.phone)}


@dataclass(slots=True)
class Api:
    """`/v1` as an agent's program uses it."""

    http: aiohttp.ClientSession
    base: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        """Who asks."""
        return {"Authorization": f"Bearer {self.key}"}

    async def get(self, path: str) -> Json:
        """Read. Raises PeopleStopped."""
        async with self.http.get(self.base + path, headers=self.headers) as response:
            return await self._read(response)

    async def post(self, path: str, body: Mapping[str, object], *, key: str = "") -> Json:
        """Change. Raises PeopleStopped."""
        headers = {**self.headers, "Idempotency-Key": key} if key else self.headers
        async with self.http.post(self.base + path, json=body, headers=headers) as response:
            return await self._read(response)

    async def _read(self, response: aiohttp.ClientResponse) -> Json:
        if response.status >= 300:
            said = (await response.text())[:300]
            raise PeopleStopped(f"{response.method} {response.url.path} was answered with {response.status}: {said}")
        found: Json = await response.json()
        return found


async def introduce(api: Api, people: Sequence[Person], locale: str = LOCALE) -> None:
    """Tell the router whom it knows and what they agreed to; browsers introduce themselves. Raises PeopleStopped."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(person: Person) -> None:
        async with turns:
            body = {"name": f"Customer {person.number}", "locale": locale, "bindings": person.bindings}
            await api.post("/v1/customers", body)

    async with asyncio.TaskGroup() as group:
        for person in people:
            if person.bindings:
                group.create_task(one(person))


@dataclass(slots=True)
class Browser:
    """A customer's chat page, as far as its WebSocket shows; remembers what it was shown and resumes from there."""

    person: Person
    ledger: Ledger
    http: aiohttp.ClientSession
    url: str
    token: str = ""
    cursor: int = 0
    _shown: set[str] = field(default_factory=set)
    _taken: dict[str, asyncio.Event] = field(default_factory=dict)
    _socket: aiohttp.ClientWebSocketResponse | None = None
    _ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Be open until cancelled; whatever breaks the socket, come back and go on after the last number noted."""
        while True:
            try:
                async with self.http.ws_connect(self.url, max_msg_size=FRAME_MAX) as socket:
                    hello = {"type": "hello", "token": self.token, "cursor": self.cursor, "locale": "en"}
                    await socket.send_json(hello)
                    self._socket = socket
                    async for frame in socket:
                        await self._hear(socket, json.loads(frame.data))
            except (aiohttp.ClientError, ConnectionError):
                pass  # the page would try again, too
            self._ready.clear()
            await asyncio.sleep(ASK_AGAIN_S)

    async def say(self, marker: Marker) -> None:
        """Write, again under the same id until it is taken. Raises PeopleStopped after 20 s."""
        identity = f"question-{marker[0]}-{marker[1]}"
        taken = self._taken.setdefault(identity, asyncio.Event())
        self.ledger.ask(marker, time.time(), CHAT)
        deadline = time.monotonic() + PATIENCE_S
        while not taken.is_set():
            if time.monotonic() > deadline:
                raise PeopleStopped(f"Web chat did not take {identity} within {PATIENCE_S:g} s.")
            await self._ready.wait()
            if self._socket is not None and not self._socket.closed:
                name = f"Customer {self.person.number}"
                await self._socket.send_json({"type": "say", "id": identity, "text": question(marker), "name": name})
            try:
                async with asyncio.timeout(PATIENCE_S / 4):
                    await taken.wait()
            except TimeoutError:
                continue

    async def _hear(self, socket: aiohttp.ClientWebSocketResponse, frame: Json) -> None:
        match frame["type"]:
            case "welcome":
                self.token = frame["token"]
                self._ready.set()
            case "taken" if frame["id"] in self._taken:
                self._taken[frame["id"]].set()
            case "message":
                if frame["id"] not in self._shown:
                    self._shown.add(frame["id"])
                    self.ledger.show(time.time(), CHAT, self.person.number, frame["text"], frame["id"])
                await socket.send_json({"type": "seen", "number": frame["number"]})
            case "noted":
                self.cursor = max(self.cursor, frame["number"])


@dataclass(slots=True)
class Customers:
    """All of them, with what they hold in their hands."""

    people: Sequence[Person]
    vendors: Mapping[str, Vendor]
    browsers: Mapping[int, Browser]
    last_mail: dict[int, Entry] = field(default_factory=dict)
    """What they answer to."""
    _mailboxes: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self._mailboxes = {one.mailbox: one.number for one in self.people}

    def receive(self, entry: Entry) -> None:
        """Keep the last mail each of them got."""
        if entry.to_customer and entry.endpoint.startswith(Channel.EMAIL):
            self.last_mail[self._mailboxes[entry.customer]] = entry

    async def ask(self, turn: int, people: Sequence[Person], over: Callable[[Person], str], spread_s: float) -> None:
        """Each of `people` writes once over their endpoint, spread evenly over `spread_s`. Raises PeopleStopped."""
        gap_s = spread_s / max(1, len(people))
        async with asyncio.TaskGroup() as group:
            for person in random.Random(turn).sample(list(people), len(people)):
                group.create_task(self._ask((person.number, turn), person, over(person)))
                await asyncio.sleep(gap_s)

    async def _ask(self, marker: Marker, person: Person, endpoint: str) -> None:
        if endpoint == CHAT:
            await self.browsers[person.number].say(marker)
            return
        by_mail = endpoint.startswith(Channel.EMAIL)
        answered = self.last_mail.get(person.number) if by_mail else None
        await self.vendors[endpoint].write(
            person.mailbox if by_mail else person.phone,
            question(marker),
            subject="" if answered or not by_mail else "My parcel",
            in_reply_to=answered,
        )


@dataclass(slots=True)
class Agents:
    """They listen to the stream of events, read every question and answer it where the router puts it."""

    api: Api
    think_s: tuple[float, float] = (0.1, 0.6)
    seen: set[Marker] = field(default_factory=set)
    """Questions that reached them."""
    said: dict[Marker, str] = field(default_factory=dict)
    """Answers that `/v1` took, with their message ids."""
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    _chance: random.Random = field(default_factory=lambda: random.Random(7))
    listening: asyncio.Event = field(default_factory=asyncio.Event)
    at_work: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is not set they read and answer nothing yet."""
    hear: Callable[[Json], None] = field(default=lambda _: None)
    """Told of each event before they act on it."""

    def __post_init__(self) -> None:
        self.at_work.set()

    async def run(self) -> None:
        """Work until cancelled. Raises PeopleStopped."""
        last = ""
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    last = await self._follow(group, last)
                except (aiohttp.ClientError, ConnectionError):
                    await asyncio.sleep(ASK_AGAIN_S)

    async def _follow(self, group: asyncio.TaskGroup, last: str) -> str:
        headers = {**self.api.headers, **({"Last-Event-ID": last} if last else {})}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
        async with self.api.http.get(f"{self.api.base}/v1/events", headers=headers, timeout=timeout) as stream:
            if stream.status != 200:
                raise PeopleStopped(f"/v1/events was answered with {stream.status}.")
            async for raw in stream.content:
                line = raw.decode().rstrip("\n")
                if line.startswith("retry:"):
                    self.listening.set()
                elif line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    last = event["id"]
                    self.hear(event)
                    if event["kind"] == "message.accepted" and event["facts"].get("s") == "a":
                        group.create_task(self._answer(event["message_id"]))
        return last

    async def _answer(self, message_id: str) -> None:
        async with self._turns:
            asked = await self.api.get(f"/v1/messages/{message_id}")
        marker = read_question(asked["text"])
        if marker is None or marker in self.seen:
            return
        self.seen.add(marker)
        await self.at_work.wait()
        await asyncio.sleep(self._chance.uniform(*self.think_s))
        async with self._turns:
            path = f"/v1/conversations/{asked['conversation_id']}/messages"
            key = f"answer-{marker[0]}-{marker[1]}"
            sent = await self.api.post(path, {"text": answer(marker)}, key=key)
        self.said[marker] = sent["message_id"]
