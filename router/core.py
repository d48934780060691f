"""What every use case and loop is built on: the stores, the settings, the endpoints as they are now."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from channels.contract import Capabilities
from channels.messages import Address, Channel
from channels.tools import Clock
from health.board import Board
from health.records import StatusRecord, fresh
from health.report import Direction, EndpointId, Status
from router.archive.archive import Archive
from router.domain.canary import Canary
from router.domain.conversation import Agent, Binding, Customer, MessageClass
from router.domain.failover import ForcedFailover, with_forced
from router.domain.ids import shard_of
from router.domain.routing import EndpointView, Policy
from router.domain.wording import Wording
from router.failovers import read_failover
from router.settings import Settings
from router.spool import Spool
from router.store import keys
from router.store.control import Control
from router.store.files import Files
from router.store.people import People
from router.store.store import Store
from router.unverified import UnverifiedNumbers

CONSOLE_ENDPOINT = EndpointId("chat/console")
CONSOLE_ADDRESS = Address(Channel.CHAT, "console")
CONSOLE_PLACE = keys.place(CONSOLE_ADDRESS, CONSOLE_ENDPOINT)
VIEWS_KEPT_S = 0.25
"""How old the endpoints' statuses may be that a route is chosen by; the gate itself is read inside `lease`."""
TOKEN_MAC_LENGTH = 10
TOKEN_FORM = re.compile(r"^(v[0-9]{1,2}-[0-9A-Z]{22})-([0-9a-f]{10})$")


class SwitchboardError(Exception):
    """A use case was refused. `reason` is machine-readable, `words` are for people."""

    def __init__(self, reason: str, words: str) -> None:
        super().__init__(f"{reason}: {words}")
        self.reason = reason
        self.words = words


class NotFound(SwitchboardError):
    """There is no such conversation, customer, message, endpoint."""


class Conflict(SwitchboardError):
    """It contradicts what is there: a reused idempotency key, a closed conversation, a lost race."""


class Invalid(SwitchboardError):
    """It cannot be done as asked: a bad number, an empty message, too long."""


class ArchiveUnavailable(SwitchboardError):
    """The archive does not answer; what is in Redis goes on."""


@dataclass(slots=True)
class _Views:
    at: float = -1.0
    views: tuple[EndpointView, ...] = ()
    statuses: Mapping[tuple[EndpointId, Direction], StatusRecord] = field(default_factory=dict)


@dataclass(slots=True)
class Core:
    """One process's hold on everything; made by the runtime."""

    settings: Settings
    store: Store
    people: People
    control: Control
    board: Board
    files: Files
    archive: Archive
    wording: Wording
    clock: Clock
    capabilities: Mapping[EndpointId, Capabilities]
    spool: Spool | None = None
    """Where this process keeps what Redis cannot take now; None: it takes nothing from outside, or refuses it."""
    canaries: Mapping[EndpointId, Canary] = field(default_factory=dict)
    """Endpoints that can send a message to ourselves, and where to."""
    _views: _Views = field(default_factory=_Views)
    unverified: UnverifiedNumbers = field(init=False)
    """Numbers nobody has verified that we began to write to."""

    def __post_init__(self) -> None:
        """Count for this process."""
        self.unverified = UnverifiedNumbers(self.store, self.settings)

    @property
    def organisation(self) -> str:
        """The name customers know."""
        return self.settings.organisation

    @property
    def policy(self) -> Policy:
        """What routes may do."""
        limits = self.unverified.limits(self.clock.now())
        return Policy(channel_order=self.settings.failover.channel_order, unverified=limits)

    async def statuses(self) -> Mapping[tuple[EndpointId, Direction], StatusRecord]:
        """The board's conclusions, as they may be believed now; at most a quarter of a second old."""
        await self.views()
        return self._views.statuses

    async def views(self) -> tuple[EndpointView, ...]:
        """Every endpoint as routing sees it, forced failovers included; at most a quarter of a second old."""
        now = self.clock.now()
        if 0 <= now - self._views.at < VIEWS_KEPT_S:
            return self._views.views
        statuses = {key: fresh(record, now) for key, record in (await self.board.statuses()).items()}
        gates = await self.control.gates()
        plain = [self._view(endpoint, statuses, gates, order) for order, endpoint in enumerate(self.capabilities)]
        views = with_forced(plain, await self.failovers(), now)
        self._views = _Views(now, views, statuses)
        return views

    async def failovers(self) -> list[ForcedFailover]:
        """Every forced failover that still holds, and the latest that are over."""
        rows = await self.control.failovers(self.clock.now())
        return [read_failover(identity, row) for identity, row in rows.items()]

    def forget_views(self) -> None:
        """Read the endpoints anew at the next call."""
        self._views = _Views()

    def bindings_of_agent(self, agent: Agent | None) -> tuple[Binding, ...]:
        """Where an agent's side may be: their own bindings, and always the console."""
        console = Binding(CONSOLE_ADDRESS, CONSOLE_ENDPOINT, verified=True, order=1000)
        return (*(agent.bindings if agent else ()), console)

    def expiry(self, message_class: MessageClass, now: float) -> float:
        """When a message of this class expires, unix seconds."""
        limits = self.settings.messages
        lifetimes = {
            MessageClass.URGENT: limits.expires_urgent_s,
            MessageClass.NORMAL: limits.expires_normal_s,
            MessageClass.BULK: limits.expires_bulk_s,
            MessageClass.SECRET: limits.expires_secret_s,
        }
        return now + lifetimes[message_class]

    def reply_token(self, conversation_id: str) -> str:
        """What stands in a reply's address: the conversation, signed."""
        return f"{conversation_id}-{self._mac(conversation_id)}"

    def read_reply_token(self, token: str) -> str:
        """The conversation of a signed reply token, or ''. Mail servers may have changed its case."""
        head, dash, mac = token.rpartition("-")
        kind, dash_two, tail = head.partition("-")
        normal = f"{kind.lower()}-{tail.upper()}-{mac.lower()}"
        found = TOKEN_FORM.match(normal)
        if not dash or not dash_two or found is None:
            return ""
        return found[1] if hmac.compare_digest(found[2], self._mac(found[1])) else ""

    async def customer_of(self, customer_id: str) -> Customer:
        """The customer, or one without a binding where the record is gone (erased)."""
        found = await self.people.customer(customer_id)
        return found or Customer(customer_id, "", self.settings.default_locale, (), 0.0)

    async def wake_customer(self, customer_id: str) -> None:
        """Look again at once at what waits for a way to this customer: they have a new address, or consent again."""
        sides = [f"{one}:c" for one in await self.store.open_of_customer(customer_id)]
        if sides:
            await self.store.wake_sides(shard_of(customer_id), sides)

    def _mac(self, text: str) -> str:
        secret = self.settings.secret.get_secret_value().encode()
        return hmac.new(secret, f"reply:{text}".encode(), hashlib.sha256).hexdigest()[:TOKEN_MAC_LENGTH]

    def _view(
        self,
        endpoint: EndpointId,
        statuses: Mapping[tuple[EndpointId, Direction], StatusRecord],
        gates: Mapping[EndpointId, bool],
        order: int,
    ) -> EndpointView:
        out = statuses.get((endpoint, Direction.OUT))
        inbound = statuses.get((endpoint, Direction.IN))
        return EndpointView(
            id=endpoint,
            capabilities=self.capabilities[endpoint],
            status_out=out.status if out else Status.UNKNOWN,
            status_in=inbound.status if inbound else Status.UNKNOWN,
            gate_open=gates.get(endpoint, True),
            share=min(out.share if out else 1.0, inbound.share if inbound else 1.0),
            order=order,
        )
