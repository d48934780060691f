"""The planner's loop: what rings is looked at."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from router import planner as planners
from router.planner import Planner


async def test_a_bell_that_rings_while_it_looks_is_looked_at_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """What became due after the look, and before its answer, does not wait for the next time it looks by itself."""
    monkeypatch.setattr(planners, "POLL_S", 60.0)
    bell, looks, again = asyncio.Event(), 0, asyncio.Event()

    async def look(_self: Planner, _shard: int) -> int:
        nonlocal looks
        looks += 1
        if looks == 1:
            bell.set()
        else:
            again.set()
        return 0

    monkeypatch.setattr(Planner, "step", look)
    running = asyncio.create_task(Planner(cast(Any, SimpleNamespace(store=SimpleNamespace(shards=1))), bell).run())
    try:
        async with asyncio.timeout(1):
            await again.wait()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
