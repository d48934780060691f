"""What the open sockets of one web chat share in this process: the bell, the beat, whether chat is in trouble."""

import asyncio
import contextlib
import ipaddress
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import structlog

from channels.chat.session import BEAT_EVERY_S, BEAT_KEY, OUTBOX_TTL_S, Door, outbox_key
from channels.errors import LocalFault
from channels.tools import AdapterStore, Clock
from health.report import Status
from router.switchboard import StoreUnavailable, Switchboard

if TYPE_CHECKING:
    from router.web.chat_socket import ChatSocket

STORE_TROUBLE = (LocalFault, StoreUnavailable)
"""Redis is not there: ours alone, and it passes."""
TICK_S = 0.25
"""How often every outbox is looked into while the store cannot say which one grew."""
LISTEN_AGAIN_TICKS = 8
LOOK_EVERY_S = 2.0
SOCKETS_MAX = 10_000
"""In one process; more are turned away with 503."""
SILENT_MAX = 500
"""Of these, those that have not said hello; a browser does at once, so the one silent longest makes room."""
SOCKETS_PER_SESSION_MAX = 8
"""Tabs; the oldest is closed when there are more."""
SAY_RATE_PER_S = 1.0
SAY_BURST = 10.0
NEW_TALKS_PER_S = 10.0
NEW_TALKS_BURST = 200.0
"""Conversations begun in one process: each is kept until an agent closes it, and a session costs nothing."""
NEW_TALKS_OF_ONE_PER_S = 0.2
NEW_TALKS_OF_ONE_BURST = 10.0
SOURCES_MAX = 10_000

log = structlog.get_logger()


@runtime_checkable
class Listenable(Protocol):
    """A store that says which of its lists grew."""

    def listen(self) -> AsyncIterator[str]:
        """Their keys, as they grow; ends or raises when the store goes away."""


@dataclass(slots=True)
class Allowance:
    """A token bucket: `burst` at once, `rate_per_s` in the long run. It begins full."""

    rate_per_s: float
    burst: float
    at: float
    """Monotonic seconds, when it was last looked at."""
    spent: float = 0.0

    def take(self, now: float) -> float:
        """Take one; 0, or the seconds to wait until there is one."""
        self.spent = max(0.0, self.spent - (now - self.at) * self.rate_per_s)
        self.at = now
        if self.spent > self.burst - 1:
            return (self.spent - self.burst + 1) / self.rate_per_s
        self.spent += 1
        return 0.0


def source_of(remote: str) -> str:
    """Whom an address stands for: itself, its /64 in IPv6; nobody where it is a proxy's or our own."""
    try:
        address = ipaddress.ip_address(remote.partition("%")[0])
    except ValueError:
        return ""
    if not address.is_global:
        return ""
    return str(ipaddress.ip_network(f"{address}/64", strict=False)) if address.version == 6 else str(address)


@dataclass(slots=True)
class _Talk:
    sockets: list["ChatSocket"] = field(default_factory=list)
    allowance: Allowance | None = None


class ChatHub:
    """The sockets of one web chat in one process. `run` is entered once, around the life of the web role."""

    def __init__(
        self,
        door: Door,
        *,
        organisation: str,
        secret: str,
        switchboard: Switchboard,
        store: AdapterStore,
        clock: Clock,
    ) -> None:
        self.door = door
        self.organisation = organisation
        self.secret = secret
        self.switchboard = switchboard
        self.store = store
        self.clock = clock
        self.trouble = ""
        """Why chat is in trouble, or empty."""
        self._talks: dict[str, _Talk] = {}
        self._sockets = 0
        self._silent: dict[ChatSocket, None] = {}
        self._new_talks = Allowance(NEW_TALKS_PER_S, NEW_TALKS_BURST, clock.monotonic())
        self._sources: OrderedDict[str, Allowance] = OrderedDict()

    @property
    def full(self) -> bool:
        """Whether this process holds all the sockets it may."""
        return self._sockets >= SOCKETS_MAX

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Beat, look and ring until left; then close every socket, so that browsers go to another process."""
        loops = (self._beat(), self._watch(), self._ring())
        tasks = [asyncio.create_task(loop, name=f"chat {self.door.endpoint}") for loop in loops]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.close()
            with contextlib.suppress(*STORE_TROUBLE):
                await self.store.delete(BEAT_KEY)

    async def close(self) -> None:
        """Say goodbye to every browser; it comes back elsewhere, or here once we are back."""
        await asyncio.gather(*(socket.leave("going away") for socket in (*self._silent, *self._open())))

    def come(self, socket: "ChatSocket") -> None:
        """One more open socket, of nobody yet; it counts, and is among the silent until `join`."""
        self._sockets += 1
        self._silent[socket] = None
        if len(self._silent) > SILENT_MAX:
            longest = next(iter(self._silent))
            del self._silent[longest]
            longest.cut()

    async def join(self, socket: "ChatSocket") -> None:
        """It said hello: one more of its session."""
        self._silent.pop(socket, None)
        talk = self._talks.setdefault(socket.session, _Talk())
        talk.sockets.append(socket)
        if len(talk.sockets) > SOCKETS_PER_SESSION_MAX:
            await talk.sockets[0].leave("too many tabs")

    def part(self, socket: "ChatSocket") -> None:
        """A socket is gone."""
        self._sockets -= 1
        self._silent.pop(socket, None)
        talk = self._talks.get(socket.session)
        if talk is None or socket not in talk.sockets:
            return
        talk.sockets.remove(socket)
        if not talk.sockets:
            del self._talks[socket.session]

    def may_say(self, session: str) -> float:
        """0 when `session` may say something now, else the seconds it has to wait."""
        now = self.clock.monotonic()
        talk = self._talks.setdefault(session, _Talk())
        talk.allowance = talk.allowance or Allowance(SAY_RATE_PER_S, SAY_BURST, now)
        return talk.allowance.take(now)

    def may_begin(self, remote: str) -> float:
        """0 when somebody from `remote` may begin a conversation now, else the seconds they have to wait."""
        now = self.clock.monotonic()
        if source := source_of(remote):
            allowance = self._sources.pop(source, None) or Allowance(
                NEW_TALKS_OF_ONE_PER_S, NEW_TALKS_OF_ONE_BURST, now
            )
            self._sources[source] = allowance
            while len(self._sources) > SOURCES_MAX:
                self._sources.popitem(last=False)
            if wait_s := allowance.take(now):
                return wait_s
        return self._new_talks.take(now)

    async def show_elsewhere(self, said_in: "ChatSocket", frame: dict[str, object]) -> None:
        """Show what was said in one tab in the session's others."""
        talk = self._talks.get(said_in.session, _Talk())
        await asyncio.gather(*(socket.tell(frame) for socket in talk.sockets if socket is not said_in))

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(*STORE_TROUBLE):
                await self.store.put(BEAT_KEY, str(self.clock.now()), OUTBOX_TTL_S)
            await asyncio.sleep(BEAT_EVERY_S)

    async def _watch(self) -> None:
        after: str | None = None
        looked = -LOOK_EVERY_S
        while True:
            try:
                async for entry in self.switchboard.events(after=after, wait_s=LOOK_EVERY_S):
                    if entry is not None:
                        after = entry.id
                        if entry.kind in {"side.rebound", "conversation.closed"}:
                            await self._moved(entry.conversation_id)
                    about_us = entry is not None and entry.endpoint == self.door.endpoint
                    now = self.clock.monotonic()
                    if about_us or now - looked >= LOOK_EVERY_S:
                        looked = now
                        await self._look()
            except STORE_TROUBLE as fault:
                await self._set_trouble("store")
                log.warning("chat.watch_interrupted", endpoint=self.door.endpoint, reason=type(fault).__name__)
            await asyncio.sleep(1)

    async def _look(self) -> None:
        for state in await self.switchboard.endpoints():
            if state.id == self.door.endpoint:
                bad = {Status.SUSPECT, Status.DOWN}
                hurt = state.out in bad or state.in_ is Status.DOWN or not state.gate_open
                await self._set_trouble((state.reason or "down") if hurt else "")

    async def _set_trouble(self, why: str) -> None:
        if bool(why) != bool(self.trouble):
            log.info("chat.trouble_changed", endpoint=self.door.endpoint, trouble=why)
            self.trouble = why
            await asyncio.gather(*(socket.tell({"type": "trouble", "on": bool(why)}) for socket in self._open()))
        self.trouble = why

    async def _moved(self, conversation_id: str) -> None:
        if not conversation_id:
            return
        for socket in self._open():
            if socket.conversation_id == conversation_id:
                await socket.tell_place()

    def _open(self) -> list["ChatSocket"]:
        return [socket for talk in self._talks.values() for socket in talk.sockets]

    async def _ring(self) -> None:
        """Wake the sockets whose outbox grew; while the store does not say which, wake all of them by the tick.

        All wake in one loop tick, so the store gathers their reads into one round trip.
        """
        while True:
            if isinstance(self.store, Listenable):
                listening = asyncio.create_task(self._hear(self.store))
                # A hub that stops while Redis goes reads its fault nowhere else, and asyncio would complain of it.
                listening.add_done_callback(lambda task: task.cancelled() or task.exception())
                try:
                    await asyncio.wait({listening})
                finally:
                    listening.cancel()
                if not listening.cancelled() and (fault := listening.exception()):
                    log.warning("chat.bell_lost", endpoint=self.door.endpoint, reason=type(fault).__name__)
            for _ in range(LISTEN_AGAIN_TICKS):
                await asyncio.sleep(TICK_S)
                for socket in self._open():
                    socket.rung.set()

    async def _hear(self, store: Listenable) -> None:
        async for key in store.listen():
            talk = self._talks.get(key.removeprefix(outbox_key("")))
            for socket in talk.sockets if talk else ():
                socket.rung.set()
