"""Clocks for what is under test, the real one and one that stands still, and waiting by the real one."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

START = 1_790_000_000.0
"""Unix time when a clock that stands still begins."""
SOON_S = 15.0
"""Far longer than anything that is waited for should take on a busy machine."""


@dataclass
class WallClock:
    """Real time, but for a shift, and for pauses that a test cannot wait for."""

    shift_s: float = 0.0
    pause_max_s: float = inf

    def now(self) -> float:
        """Unix time in seconds."""
        return time.time() + self.shift_s

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait, or pretend to."""
        await asyncio.sleep(min(seconds, self.pause_max_s))


@dataclass
class StillClock:
    """Time that moves only when told to."""

    at: float = START

    def now(self) -> float:
        """Unix time in seconds."""
        return self.at

    def monotonic(self) -> float:
        """The same."""
        return self.at

    async def sleep(self, seconds: float) -> None:
        """Nothing under test waits by itself."""
        raise AssertionError(f"somebody waits {seconds} s on a clock that nobody moves")


async def until(holds: Callable[[], object], within_s: float = SOON_S) -> None:
    """Poll until it holds; TimeoutError where it does not."""
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.01)
