"""A web chat on a real socket, with a switchboard in memory that keeps what it accepts and can be told to fail."""

import asyncio
import contextlib
import time
import types
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from channels.chat.webchat import WebchatAdapter, WebchatSettings
from channels.messages import (
    Accepted,
    Address,
    Channel,
    Content,
    InboundMessage,
    Kind,
    Matter,
    OutboundMessage,
    ReceiptEvent,
)
from channels.tools import Tools
from health.report import EndpointId, Status
from router.domain.conversation import (
    Binding,
    Conversation,
    Customer,
    Leg,
    Message,
    MessageClass,
    MessageState,
    Side,
    SideName,
)
from router.settings import Settings
from router.store.adapter_store import RedisAdapterStore
from router.store.connecting import connect
from router.store.redis import Pipelined
from router.switchboard import (
    ConversationView,
    EndpointState,
    Invalid,
    JournalEntry,
    NotFound,
    Page,
    StoreUnavailable,
)
from router.web.chat import add_routes

CHAT = EndpointId("chat/web")
SMS = EndpointId("sms/sandbox")


class Clock:
    """The real one."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass
class FakeSwitchboard:
    """One customer a chat session; remembers everything it accepted."""

    accepted: list[InboundMessage] = field(default_factory=list)
    receipts: list[ReceiptEvent] = field(default_factory=list)
    customers: dict[str, Customer] = field(default_factory=dict)
    agents: set[Address] = field(default_factory=set)
    views: dict[str, ConversationView] = field(default_factory=dict)
    messages: dict[str, list[Message]] = field(default_factory=dict)
    entries: "asyncio.Queue[JournalEntry]" = field(default_factory=asyncio.Queue)
    status: Status = Status.UP
    broken: bool = False
    by_key: dict[str, Accepted] = field(default_factory=dict)

    def _check(self) -> None:
        if self.broken:
            raise StoreUnavailable("Redis is away")

    async def accept(self, event: InboundMessage | ReceiptEvent) -> Accepted:
        self._check()
        if isinstance(event, ReceiptEvent):
            self.receipts.append(event)
            return Accepted()
        if event.vendor_id in self.by_key:
            return replace(self.by_key[event.vendor_id], duplicate=True)
        self.accepted.append(event)
        talk = self._talk_of(event.sender, event.sender_name)
        message = self.said(talk, event.text, side=SideName.AGENT, endpoint=CHAT)
        self.by_key[event.vendor_id] = Accepted(talk, message.id)
        return self.by_key[event.vendor_id]

    def _talk_of(self, sender: Address, name: str) -> str:
        for customer in self.customers.values():
            if any(binding.address == sender for binding in customer.bindings):
                return f"v0-{customer.id}"
        customer = Customer(f"c0-{len(self.customers)}", name, "en", (Binding(sender, CHAT),), 1.0)
        self.customers[customer.id] = customer
        talk = f"v0-{customer.id}"
        leg = Leg(CHAT, sender, 1.0, "opened")
        conversation = Conversation(
            talk, customer.id, "4F2K9", "", True, 1.0, 0.0, "en", MessageClass.NORMAL, 5, "", "", {}, (), "",
            0.0, 1.0, 0.0, CHAT,
        )  # fmt: skip
        side = Side(talk, SideName.CUSTOMER, 1, 1, leg, 0, "", False, 0.0, "", 0.0)
        self.views[talk] = ConversationView(conversation, customer, side, replace(side, name=SideName.AGENT), "")
        self.messages[talk] = []
        return talk

    def said(self, talk: str, text: str, *, side: SideName = SideName.CUSTOMER, endpoint: EndpointId = CHAT,
             state: MessageState = MessageState.SENT, kind: Kind = Kind.MESSAGE, author: str = "",
             message_class: MessageClass = MessageClass.NORMAL) -> Message:  # fmt: skip
        """Something was said: to the customer, or with `side=AGENT` by the customer."""
        list_ = self.messages[talk]
        author = author or (self.views[talk].customer.id if side is SideName.AGENT else "g0-ana")
        number = len(list_) + 1
        message = Message(
            f"m0-{talk}-{number}", talk, side, kind, author, "Ana", Content(text), message_class, state, number,
            1_700_000_000.0 + number, 0.0, endpoint=endpoint,
        )  # fmt: skip
        list_.append(message)
        return message

    def move(self, talk: str, endpoint: EndpointId, address: Address) -> None:
        """The customer's side goes elsewhere, or comes back."""
        view = self.views[talk]
        side = replace(view.customer_side, leg=Leg(endpoint, address, 2.0, "failover"))
        self.views[talk] = replace(view, customer_side=side)
        self.entries.put_nowait(JournalEntry("0:2-0", 2.0, "side.rebound", talk, "", endpoint, {}))

    def may_be_left(self, address: Address) -> bool:
        return not address.value.startswith("+881")

    async def find_customers(self, address: Address, endpoint: EndpointId | None = None) -> list[Customer]:
        self._check()
        return [c for c in self.customers.values() if any(b.address == address for b in c.bindings)]

    async def conversations(self, *, open_only: bool, customer_id: str, limit: int) -> Any:
        return Page([v for v in self.views.values() if v.customer.id == customer_id], None)

    async def conversation(self, identity: str) -> ConversationView:
        self._check()
        if identity not in self.views:
            raise NotFound("not_found", "no such conversation")
        return self.views[identity]

    async def transcript(self, identity: str, *, before_sequence: int, limit: int) -> list[Message]:
        return [m for m in self.messages[identity] if not before_sequence or m.sequence < before_sequence][-limit:]

    async def learn_name(self, customer_id: str, name: str) -> None:
        self.customers[customer_id] = replace(self.customers[customer_id], name=name)

    async def set_binding(self, customer_id: str, binding: Binding) -> Customer:
        if binding.address in self.agents:
            raise Invalid("agents_address", "This address is an agent's.")
        customer = self.customers[customer_id]
        self.customers[customer_id] = replace(customer, bindings=(*customer.bindings, binding))
        talk = f"v0-{customer_id}"
        self.views[talk] = replace(self.views[talk], customer=self.customers[customer_id])
        return self.customers[customer_id]

    async def endpoints(self) -> list[EndpointState]:
        self._check()
        up = self.status is not Status.DOWN
        state = EndpointState(CHAT, Channel.CHAT, "webchat", self.status, Status.UP, 1.0, "", "", up, "", 1.0, 0, None)
        return [state]

    def set_status(self, status: Status) -> None:
        """The endpoint's status changes, and the journal says so."""
        self.status = status
        self.entries.put_nowait(JournalEntry("0:1-0", 1.0, "endpoint.changed", "", "", CHAT, {}))

    async def events(self, *, after: str | None, wait_s: float) -> AsyncIterator[JournalEntry | None]:
        while True:
            self._check()
            try:
                yield await asyncio.wait_for(self.entries.get(), wait_s)
            except TimeoutError:
                yield None


@dataclass
class House:
    """A running web role with one web chat."""

    switchboard: FakeSwitchboard
    store: RedisAdapterStore
    adapter: WebchatAdapter
    http: aiohttp.ClientSession
    runtime: Any
    port: int = 0
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Serve; on the same port as before, if there was one."""
        app = web.Application()
        add_routes(app, self.runtime)
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """The web process goes away."""
        await self._runner.cleanup()

    def say_to(self, session: str, text: str, *, message_id: str = "m0-1", token: str = "a0-1",
               kind: Kind = Kind.MESSAGE) -> Any:  # fmt: skip
        """The dispatcher sends to a session."""
        matter = Matter(organisation="Example", reference="4F2K9", locale="en")
        to = Address(Channel.CHAT, session)
        return self.adapter.send(OutboundMessage(message_id, "v0-c0-0", token, kind, to, Content(text), matter))

    async def connect(self, *, token: str = "", cursor: int = 0, origin: str = "") -> "Browser":
        """Open a socket and say hello."""
        return await _browse(self.http, self.url, token=token, cursor=cursor, origin=origin)


@dataclass
class ShopSite:
    """Where the widget is embedded."""

    origin: str = ""
    widget_url: str = ""


@dataclass
class Browser:
    """A browser's end of the socket."""

    socket: aiohttp.ClientWebSocketResponse
    token: str = ""
    heard: list[dict[str, Any]] = field(default_factory=list)

    @property
    def session(self) -> str:
        return self.token.partition(".")[0]

    async def send(self, **frame: Any) -> None:
        await self.socket.send_json(frame)

    async def expect(self, kind: str, within_s: float = 5.0) -> dict[str, Any]:
        """The next frame of this type; others on the way are kept in `heard`."""
        async with asyncio.timeout(within_s):
            while True:
                message = await self.socket.receive()
                assert message.type is aiohttp.WSMsgType.TEXT, f"closed: {message.data} {message.extra}"
                frame = message.json()
                self.heard.append(frame)
                if frame["type"] == kind:
                    return frame

    async def say(self, text: str, identity: str = "client-id-1") -> dict[str, Any]:
        await self.send(type="say", id=identity, text=text)
        return await self.expect("taken")


async def _browse(
    http: aiohttp.ClientSession, url: str, *, token: str = "", cursor: int = 0, origin: str = ""
) -> Browser:
    headers = {"Origin": origin} if origin else {}
    browser = Browser(await http.ws_connect(f"{url}/chat/ws", headers=headers))
    await browser.send(type="hello", token=token, cursor=cursor, locale="en")
    browser.token = (await browser.expect("welcome"))["token"]
    return browser


@pytest.fixture
def browse() -> Any:
    """Opens a socket and says hello."""
    return _browse


@pytest.fixture
async def shop_site() -> AsyncIterator["ShopSite"]:
    """Somebody's own site, on an origin of its own, that embeds the widget; its styles are hostile."""
    site = ShopSite()

    async def page(_: web.Request) -> web.Response:
        style = "<style>div, p, button { color: red !important; display: none } * { font: 40px serif }</style>"
        script = f'<script type="module" src="{site.widget_url}"></script>'
        return web.Response(text=f"<!doctype html><title>Shop</title>{style}<body>{script}", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site.origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield site
    await runner.cleanup()


@pytest.fixture
async def house(redis_url: str, shop_site: "ShopSite") -> AsyncIterator[House]:
    """One web chat that `https://shop.example` and the shop's site may embed; outboxes in a real Redis."""
    redis = connect(redis_url)
    async with open_house(FakeSwitchboard(), RedisAdapterStore(Pipelined(redis), CHAT), shop_site.origin) as one:
        shop_site.widget_url = f"{one.url}/chat/widget.js"
        yield one
    await redis.aclose()


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Any]:
    """Poll until something is true, at most 5 s."""

    async def wait(true: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not true():
                await asyncio.sleep(0.02)

    return wait


@contextlib.asynccontextmanager
async def open_house(
    switchboard: Any, store: RedisAdapterStore, shop_origin: str = "https://shop.test"
) -> AsyncIterator[House]:
    """A web role with one web chat on a free port."""
    clock = Clock()
    async with aiohttp.ClientSession() as http:
        tools = Tools(CHAT, http, clock, store, None, lambda report: None, "Example Shop", "http://x")
        origins = ("https://shop.example", shop_origin)
        adapter = WebchatAdapter(WebchatSettings(id=CHAT, allowed_origins=origins), tools)
        runtime = types.SimpleNamespace(
            settings=Settings(organisation="Example Shop", secret="s" * 40, public_url="https://talk.example"),
            switchboard=switchboard,
            adapters={CHAT: adapter},
            clock=clock,
            adapter_store=lambda endpoint: store,
        )
        house = House(switchboard, store, adapter, http, runtime)
        await house.start()
        try:
            yield house
        finally:
            await house.stop()
