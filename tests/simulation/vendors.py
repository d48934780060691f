"""Vendors with faults and journals, and the adapters that speak to them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from channels.contract import Capabilities
from channels.errors import (
    EndpointMisconfigured,
    EndpointUnavailable,
    MessageRejected,
    OutcomeUnknown,
    RecipientUnreachable,
    Throttled,
)
from channels.messages import OutboundMessage, Receipt, ReceiptEvent, ReceiptState
from health.report import EndpointId
from tests.simulation.loop import PROCESS, VirtualLoop
from tests.simulation.server import PROCESS_OF_NOBODY

MODES = (
    "refuses", "hangs", "drops", "loses", "throttles", "slow", "bounces", "rejects", "flaky", "misconfigured", "deaf",
    "unreachable",
)  # fmt: skip
DOWN = frozenset({"refuses", "hangs", "drops", "misconfigured"})
"""What health would conclude `down` from."""


@dataclass(slots=True)
class Taken:
    """What a vendor took, in its own journal."""

    at: float
    endpoint: str
    place: str
    message_id: str
    token: str
    kind: str
    text: str
    flagged: bool
    late: bool
    expires_at: float
    delivered: bool
    """It reached the person; else it was lost silently, or bounced."""
    shown: bool = True
    """False: the vendor knows the message id already and shows it once."""
    told: bool = False
    """We answered its receipt that it was delivered."""


@dataclass(slots=True)
class Weather:
    """One spell of a fault at a vendor."""

    begins: float
    ends: float
    mode: str
    share: float


@dataclass
class Vendor:
    """One endpoint's far side."""

    endpoint: EndpointId
    capabilities: Capabilities
    loop: VirtualLoop
    rng: Random
    post: Callable[[ReceiptEvent, Taken], None]
    """Calls our webhook, until we say that it is durable."""
    weather: list[Weather] = field(default_factory=list)
    journal: list[Taken] = field(default_factory=list)
    calm_from: float = float("inf")
    stop_at_commit: float = 0.0
    """The share of sends during which the sender is stopped right at the commit point."""
    nobody_at: set[str] = field(default_factory=set)
    """Addresses that it said nobody is at."""
    said_no: set[str] = field(default_factory=set)
    """Ids of messages that it refused, or took and gave no timely receipt for."""
    to_tell: int = 0
    """Receipts that are on their way to us."""
    _ids: int = 0

    def mode(self) -> str:
        """What the vendor does to this very message."""
        now = self.loop.time()
        if now < self.calm_from:
            for spell in self.weather:
                if spell.begins <= now < spell.ends and self.rng.random() < spell.share:
                    if spell.mode != "flaky":
                        return spell.mode
                    return self.rng.choice(("refuses", "drops", "hangs", "well"))
        return "well"

    def is_down(self) -> bool:
        """Whether nearly everything fails here now."""
        now = self.loop.time()
        return now < self.calm_from and any(
            spell.begins <= now < spell.ends and spell.mode in DOWN and spell.share > 0.7 for spell in self.weather
        )

    def take(self, message: OutboundMessage, mode: str) -> str:
        """It is ours now; our id of it."""
        self._ids += 1
        vendor_id = f"{self.endpoint}#{self._ids}"
        known = self.capabilities.idempotent and any(one.message_id == message.message_id for one in self.journal)
        delivered = mode not in {"loses", "bounces"}
        taken = (
            Taken(
                self.loop.time(), self.endpoint, str(message.to), message.message_id, message.token, message.kind,
                message.content.text, message.possible_duplicate, message.late, message.expires_at or 0.0, delivered,
                not known,
            )
        )  # fmt: skip
        self.journal.append(taken)
        if self.capabilities.receipt_due_s is not None or not delivered:
            self.said_no.add(message.message_id)
        if self.capabilities.receipts and mode not in {"loses", "deaf"}:
            self._tell(message, vendor_id, mode, taken)
        return vendor_id

    def _tell(self, message: OutboundMessage, vendor_id: str, mode: str, taken: Taken) -> None:
        """Receipts: early, late, doubled, out of order, now and then never."""
        states = [ReceiptState.UNDELIVERED] if mode == "bounces" else [ReceiptState.DELIVERED]
        if states == [ReceiptState.DELIVERED] and self.rng.random() < 0.3:
            states = [ReceiptState.SENT, ReceiptState.DELIVERED, ReceiptState.READ]
        permanent = self.rng.random() < 0.1
        if mode == "bounces" and permanent:
            self.nobody_at.add(str(message.to))
        for state in states:
            for _ in range(2 if self.rng.random() < 0.1 else 1):
                delay = self.rng.choice((0.0, 0.01, 0.5, 2.0, 15.0, 90.0)) * self.rng.random()
                event = ReceiptEvent(
                    self.endpoint,
                    state,
                    self.loop.time() + delay,
                    token=message.token if self.capabilities.echoes_token else "",
                    vendor_id=vendor_id,
                    reason="bounced" if state is ReceiptState.UNDELIVERED else "",
                    permanent=permanent,
                )
                self.to_tell += 1
                PROCESS_OF_NOBODY.run(self.loop.call_later, delay, self.post, event, taken)


class SimAdapter:
    """Speaks to a vendor for one process."""

    def __init__(self, vendor: Vendor) -> None:
        self.vendor = vendor
        self.capabilities = vendor.capabilities

    async def send(self, message: OutboundMessage) -> Receipt:
        """Say it once."""
        vendor, rng = self.vendor, self.vendor.rng
        mode = vendor.mode()
        await asyncio.sleep(rng.uniform(0.002, 0.1))
        match mode:
            case "refuses":
                raise EndpointUnavailable("refused", "refused")
            case "misconfigured":
                raise EndpointMisconfigured("bad_credential", "bad credential")
            case "rejects":
                vendor.said_no.add(message.message_id)
                raise MessageRejected("too_large", "too large")
            case "unreachable":
                vendor.nobody_at.add(str(message.to))
                raise RecipientUnreachable("no_such_user", "nobody there")
            case "throttles":
                raise Throttled("slow_down", "slow down", rng.uniform(0.5, 20.0))
            case "slow":
                await asyncio.sleep(rng.uniform(0.5, 9.0))
        if rng.random() < vendor.stop_at_commit:
            await self._stopped_at_commit(message, mode)
        taken = mode not in {"drops", "hangs"} or rng.random() < 0.6
        vendor_id = vendor.take(message, mode) if taken else ""
        await asyncio.sleep(rng.uniform(0.002, 0.1))
        if mode == "drops":
            raise OutcomeUnknown("dropped", "dropped")
        if mode == "hangs":
            await asyncio.sleep(3600.0)
        delivered = self.capabilities.provider == "console"
        return Receipt((vendor_id,), ReceiptState.DELIVERED if delivered else ReceiptState.SENT)

    async def _stopped_at_commit(self, message: OutboundMessage, mode: str) -> None:
        """Stopped between its last look at the clock and the write: the vendor hears of it afterwards."""
        process, vendor = PROCESS.get(), self.vendor
        if process is None or process.dead:
            return
        wakes = vendor.loop.time() + vendor.rng.choice((1.0, 6.0, 12.0, 40.0, 90.0))
        process.stop(wakes)
        PROCESS_OF_NOBODY.run(vendor.loop.call_at, wakes, self._written, process, message, mode)
        await asyncio.sleep(3600.0)

    def _written(self, process: object, message: OutboundMessage, mode: str) -> None:
        if not getattr(process, "dead", False):
            self.vendor.take(message, mode)
