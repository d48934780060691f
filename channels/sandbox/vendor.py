"""What every stand-in vendor has: a switch for its fault, a journal of what it took, a way to write to us."""

import json
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TextIO

ENTRIES_MAX = 200_000
FLAP_PERIOD_S = 6.0
SLOW_S = 2.5


class Fault(StrEnum):
    """What a stand-in vendor can be told to do wrong, on its real wire protocol."""

    NONE = "none"
    REFUSE = "refuse"  # nobody listens: connections are refused
    HANG = "hang"  # takes the connection and the request, never answers
    ERROR = "error"  # answers with the protocol's own server fault (5xx, 421, ESME_RSYSERR)
    DROP_AFTER_ACCEPT = "drop_after_accept"  # takes the message, then breaks off before it answers
    SLOW = "slow"  # answers after `SLOW_S`
    THROTTLE = "throttle"  # asks us to wait (429, 450 4.7.1, ESME_RTHROTTLED)
    LOSE_SILENTLY = "lose_silently"  # answers that it took it, delivers nothing, sends no receipt
    FLAP = "flap"  # refuses and works by turns, half of `FLAP_PERIOD_S` each


@dataclass(slots=True)
class Switch:
    """A vendor's fault, and how many messages it still concerns (None: until switched back)."""

    fault: Fault = Fault.NONE
    share: float = 1.0
    """Part of the messages it hits, 0 to 1."""
    since: float = 0.0

    def now_is(self, now: float) -> Fault:
        """The fault in force at `now` (unix seconds); a flapping vendor begins by refusing."""
        if self.fault is not Fault.FLAP:
            return self.fault
        return Fault.REFUSE if (now - self.since) % FLAP_PERIOD_S < FLAP_PERIOD_S / 2 else Fault.NONE


@dataclass(frozen=True, slots=True)
class Entry:
    """One message a vendor took from us (`to_customer`) or that a customer wrote through it."""

    number: int
    at: float
    endpoint: str
    to_customer: bool
    customer: str
    """The customer's address on this channel."""
    text: str
    vendor_id: str = ""
    subject: str = ""
    delivered: bool = True
    """False: taken and lost, as switched."""
    details: dict[str, str] = field(default_factory=dict)
    """What the wire carried besides: `message_id`, `token`, `data_coding`, `segments`, `reply_to`, ..."""


class Journal:
    """Everything that crossed the vendors' wires, in order. The demo and the chaos runs judge by it alone."""

    def __init__(self, path: Path | None = None) -> None:
        self.entries: deque[Entry] = deque(maxlen=ENTRIES_MAX)
        self._count = 0
        self._file: TextIO | None = path.open("a", encoding="utf-8", buffering=1) if path else None
        self._watchers: list[Callable[[Entry], None]] = []

    def add(
        self,
        *,
        at: float,
        endpoint: str,
        to_customer: bool,
        customer: str,
        text: str,
        vendor_id: str = "",
        subject: str = "",
        delivered: bool = True,
        details: dict[str, str] | None = None,
    ) -> Entry:
        """Write one entry down; its number counts from 1."""
        self._count += 1
        entry = Entry(
            number=self._count,
            at=at,
            endpoint=endpoint,
            to_customer=to_customer,
            customer=customer,
            text=text,
            vendor_id=vendor_id,
            subject=subject,
            delivered=delivered,
            details=details or {},
        )
        self.entries.append(entry)
        if self._file is not None:
            self._file.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")
        for watcher in self._watchers:
            watcher(entry)
        return entry

    def watch(self, watcher: Callable[[Entry], None]) -> None:
        """Call `watcher` with each new entry."""
        self._watchers.append(watcher)

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Vendor(Protocol):
    """One stand-in vendor."""

    endpoint: str
    """The endpoint id it stands in for: `sms/sandbox`."""
    switch: Switch
    canary: str
    """An address that is no customer's: what is delivered to it comes back, and is not written down. Empty: none."""

    async def start(self) -> None:
        """Listen on its port on 127.0.0.1."""

    async def stop(self) -> None:
        """Stop listening, end connections."""

    async def set_fault(self, fault: Fault, share: float = 1.0) -> None:
        """Switch a fault on, or off with `Fault.NONE`; REFUSE really closes the port."""

    async def write(self, customer: str, text: str, *, subject: str = "", in_reply_to: Entry | None = None) -> str:
        """The customer writes to us over this vendor, as the vendor would deliver it; returns the vendor id.

        Delivered in the background and retried as the real vendor would until we acknowledge it, at most 10 minutes.
        """

    def endpoint_table(self) -> dict[str, object]:
        """The `[[endpoints]]` table under which the router reaches this vendor."""
