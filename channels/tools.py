"""What the runtime hands an adapter: an HTTP client, a clock, a small durable store, files, a way to report."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import aiohttp

from health.report import EndpointId, Report


class Clock(Protocol):
    """Time as the router sees it."""

    def now(self) -> float:
        """Unix time in seconds."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class AdapterStore(Protocol):
    """A small durable store of the endpoint's own: cursors, partial segments, outboxes. Values are text.

    Keys are at most 200 characters, values at most 1 MB; every entry has a time to live of at most 30 days.
    Everything raises `LocalFault` where the store is away. Out of `send` that says that nothing was sent: an adapter
    that needs the store when the message may have been taken already raises `LocalOutcomeUnknown` instead.
    """

    async def get(self, key: str) -> str | None:
        """The value, or None."""

    async def put(self, key: str, value: str, ttl_s: float) -> None:
        """Set, durably, before returning."""

    async def add(self, key: str, value: str, ttl_s: float) -> bool:
        """Set only if absent; whether it was."""

    async def delete(self, key: str) -> None:
        """Forget."""

    async def collect(self, key: str, part: int, value: str, ttl_s: float) -> dict[int, str]:
        """Put one part of a set under `key` and return all parts so far (segments of one SMS)."""

    async def append(self, key: str, value: str, ttl_s: float) -> int:
        """Add to a list; its number, above all before it, never reused. Wakes whoever waits in `wait_for_more`."""

    async def read_after(self, key: str, number: int, count: int) -> list[tuple[int, str]]:
        """Up to `count` entries with a number above `number`, in order."""


class FileReader(Protocol):
    """Reads stored files by content hash."""

    async def read(self, sha256: str) -> bytes:
        """The bytes. Raises FileNotFoundError."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Everything an adapter may use besides its settings."""

    endpoint: EndpointId
    http: aiohttp.ClientSession
    clock: Clock
    store: AdapterStore
    files: FileReader
    report: Callable[[Report], None]
    """Push the adapter's own claim about its endpoint; never blocks, never raises."""
    organisation: str
    public_url: str
    """Base URL vendors call us at, without a trailing slash; webhooks are `{public_url}/hooks/{endpoint}`."""
