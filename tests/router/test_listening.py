"""Listeners: one that breaks is started again, and not at once for ever."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from channels.contract import Accept
from health.report import EndpointId
from router.listening import PAUSE_MAX_S, listen_alone
from tests.clocks import until

MAIL = EndpointId("email/support")


class Clock:
    """Nobody waits; how long they would have is kept, and listening takes what it is told to take."""

    def __init__(self) -> None:
        self.at = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


class Listener:
    """Breaks each time, at once or after it has listened for a while."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.listens_s = clock, 0.0

    async def listen(self, accept: Accept) -> None:
        self.clock.at += self.listens_s
        raise OSError("address already in use")


async def test_a_listener_that_breaks_at_once_is_tried_ever_less_often() -> None:
    """Its port is taken: a traceback twice a second helps nobody. After it has listened for long it begins anew."""
    clock = Clock()
    listener, core = Listener(clock), cast(Any, SimpleNamespace(clock=clock))
    running = asyncio.create_task(listen_alone(core, MAIL, cast(Any, listener), cast(Any, None), alone=False))
    try:
        await until(lambda: len(clock.slept) >= 9)
        assert clock.slept[:8] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, PAUSE_MAX_S, PAUSE_MAX_S]
        listener.listens_s = 60.0
        await until(lambda: 0.5 in clock.slept[9:])
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
