"""Probes under way: tasks by endpoint, started, collected, given up."""

import asyncio
from collections.abc import Awaitable

from health.report import EndpointId


class Errands:
    """At most one running task a name; ended ones are collected, abandoned ones are waited out."""

    def __init__(self) -> None:
        self._tasks: dict[EndpointId, asyncio.Task[None]] = {}
        self._abandoned: dict[EndpointId, asyncio.Task[None]] = {}

    def start(self, name: EndpointId, work: Awaitable[None]) -> None:
        """Begin one."""
        self._tasks[name] = asyncio.create_task(_run(work))

    def busy(self, name: EndpointId) -> bool:
        """One of that name runs, or has been abandoned and has not ended yet."""
        if name in self._abandoned and self._abandoned[name].done():
            del self._abandoned[name]
        return name in self._tasks or name in self._abandoned

    def ended(self) -> list[tuple[EndpointId, BaseException | None]]:
        """Those that ended since the last call, each with what it raised."""
        done = [(name, task) for name, task in self._tasks.items() if task.done()]
        for name, _ in done:
            del self._tasks[name]
        return [(name, asyncio.CancelledError() if task.cancelled() else task.exception()) for name, task in done]

    def abandon(self, name: EndpointId) -> None:
        """Give one up: cancelled, its end tells nothing."""
        if task := self._tasks.pop(name, None):
            task.cancel()
            task.add_done_callback(_hear_out)
            self._abandoned[name] = task

    async def close(self) -> None:
        """Cancel all of them and wait until they are gone."""
        tasks = [*self._tasks.values(), *self._abandoned.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        self._abandoned.clear()


async def _run(work: Awaitable[None]) -> None:
    await work


def _hear_out(task: "asyncio.Task[None]") -> None:
    """Take the exception of a task nobody waits for, or asyncio complains that nobody did."""
    if not task.cancelled():
        task.exception()
