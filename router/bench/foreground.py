"""What everybody else waits while something large goes on: new conversations, accepted at a steady pace."""

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

from health.report import EndpointId
from router.bench.load import accept_one
from router.bench.stage import Stage
from router.domain.ids import new_id

FOREGROUND_PER_S = 200.0
FOREGROUND_P99_MS = 5.0
"""What is to be reached."""
ASIDE = EndpointId("sms/aside")
"""Where those write who come meanwhile."""

T = TypeVar("T")


async def accepting(stage: Stage, meanwhile: Awaitable[T]) -> tuple[T, list[float]]:
    """Accept new conversations at a steady pace until `meanwhile` is over; how long each took, in ms."""
    waits: list[float] = []

    async def accept(due: float) -> None:
        await accept_one(stage.store, new_id("v", 0, int(time.time() * 1000)), next(stage.strangers), 0, ASIDE)
        waits.append((time.perf_counter() - due) * 1000)

    task = asyncio.ensure_future(meanwhile)
    due = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        while not task.done():
            group.create_task(accept(due))
            due += 1 / FOREGROUND_PER_S
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
    return await task, waits
