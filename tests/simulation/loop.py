"""A virtual clock and processes on it: asyncio's callbacks in one seeded order, stopped or killed at will."""

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

EPOCH_S = 1_800_000_000.0
"""Unix time when every run begins."""

STEPS_MAX = 1_000_000
"""Of one run; an hour takes about half of it."""

PROCESS: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("PROCESS", default=None)
"""Whose code runs; nobody's: the network's and the vendors'."""


class Process:
    """One operating system process of ours: stopped it does nothing, dead it never will again."""

    def __init__(self, loop: "VirtualLoop", name: str) -> None:
        self.loop = loop
        self.name = name
        self.dead = False
        self.stopped_until = 0.0
        self.clock_off_s = 0.0
        """How far its wall clock is off."""
        self.tasks: set[asyncio.Task[Any]] = set()
        self.stood_still: list[tuple[float, float]] = []
        """From when until when."""
        self.died: Callable[[], None] = lambda: None
        self._context = contextvars.Context()
        self._context.run(PROCESS.set, self)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` as this process."""
        self.loop.create_task(work, context=self._context.copy()).add_done_callback(self._ended)

    def later(self, delay: float, callback: Callable[..., object], *args: Any) -> None:
        """Something reaches this process after a while."""
        self.loop.call_later(delay, callback, *args, context=self._context.copy())

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.loop.broken.append(f"{self.name} ended by itself: {error!r}")

    def stop(self, until: float) -> None:
        """SIGSTOP until then; its timers go on ripening meanwhile, as in life."""
        self.stood_still.append((max(self.loop.time(), self.stopped_until), until))
        self.stopped_until = max(self.stopped_until, until)

    def kill(self) -> None:
        """SIGKILL: what it had sent stays sent, nothing follows."""
        if self.dead:
            return
        self.dead = True
        self._end_tasks(3)
        self.died()

    def _end_tasks(self, times: int) -> None:
        """Whoever ends in order when cancelled is cancelled again: the dead end nothing in order."""
        for task in sorted(self.tasks, key=lambda one: int(one.get_name())):
            task.cancel()
        if times > 1 and self.tasks:
            self.later(0.0, self._end_tasks, times - 1)

    # The router's clock, as this process sees it.

    def now(self) -> float:
        """Unix time in seconds."""
        return EPOCH_S + self.loop.time() + self.clock_off_s

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self.loop.time()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class _Step(asyncio.TimerHandle):
    """A callback with the process it belongs to. A seed makes ten thousand: it holds what the loop needs, no more."""

    __slots__ = ("act", "args", "process", "within")

    def __init__(self, act: Callable[..., object], args: tuple[Any, ...], within: contextvars.Context) -> None:
        self.act: Callable[..., object] | None = act
        """None: cancelled."""
        self.args, self.within = args, within
        self.process: Process | None = within.get(PROCESS, None)

    def cancel(self) -> None:
        self.act, self.args = None, ()

    def cancelled(self) -> bool:
        return self.act is None

    def __repr__(self) -> str:
        return f"{self.act} {self.args}"


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs what is ready, then leaps to the next timer. Nothing here reads a real clock."""

    def __init__(self) -> None:
        self._now = 0.0
        self._ready: deque[_Step] = deque()
        self._timers: list[tuple[float, int, _Step]] = []
        self._count = 0
        self.steps = 0
        self.thread_s: Callable[[], float] = lambda: 0.001
        """How long a thread takes to begin, and to be heard of."""
        self.given_up = False
        """It goes round in circles."""
        self.broken: list[str] = []
        """What nobody caught."""

    def time(self) -> float:
        return self._now

    def run_until(self, moment: float, ended: Callable[[], bool] = lambda: False) -> None:
        """Run everything up to `moment`, or until `ended`."""
        asyncio._set_running_loop(self)
        try:
            while not ended() and not self.given_up:
                while self._ready and not self.given_up:
                    self._run(self._ready.popleft())
                if not self._timers or self._timers[0][0] > moment:
                    self._now = max(self._now, moment)
                    return
                self._now = max(self._now, self._timers[0][0])
                while self._timers and self._timers[0][0] <= self._now:
                    self._ready.append(heapq.heappop(self._timers)[2])
        finally:
            asyncio._set_running_loop(None)

    def _run(self, step: _Step) -> None:
        self.steps += 1
        if self.steps > STEPS_MAX:
            self.given_up = True
            self.broken.append(f"more than {STEPS_MAX} steps by {self._now:.0f} s: {step!r}"[:500])
            return
        act, process = step.act, step.process
        if act is None:
            return
        if process is not None and process.stopped_until > self._now and not process.dead:
            self._push(process.stopped_until, step)
            return
        try:
            step.within.run(act, *step.args)
        except Exception as error:  # noqa: BLE001 - the loop's rim: whatever nobody caught is a fault found
            self.broken.append(f"{step!r} broke: {error!r}")

    def _push(self, when: float, step: _Step) -> None:
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, step))

    def run_in_executor(self, executor: object, work: Callable[[], Any]) -> asyncio.Future[Any]:
        """A thread of the process that asks: it does its work after a while, and is heard of after another."""
        del executor
        future, process = self.create_future(), PROCESS.get()

        def give(error: OSError | None, result: Any) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        def run() -> None:
            if process is not None and process.dead:
                return
            try:
                result, error = work(), None
            except OSError as raised:
                result, error = None, raised
            self.call_later(self.thread_s(), give, error, result)

        self.call_later(self.thread_s(), run)
        return future

    # What asyncio's own parts ask of a loop.

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        step = _Step(callback, args, contextvars.copy_context() if context is None else context)
        self._ready.append(step)
        return step

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        step = _Step(callback, args, contextvars.copy_context() if context is None else context)
        self._push(when, step)
        return step

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: object = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        self._count += 1
        task = asyncio.Task(coro, loop=self, name=str(self._count), context=context)
        process = context.get(PROCESS, None) if context is not None else PROCESS.get()
        if process is not None:
            process.tasks.add(task)
            task.add_done_callback(process.tasks.discard)
            if process.dead:
                task.cancel()
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.broken.append(f"{context.get('message')}: {context.get('exception')!r}")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False
