"""The real Redis as one atomic step at a time, and each process's faulty line to it."""

import asyncio
import contextvars
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Any

import redis

from router.store.redis import StoreUnavailable, script_sources
from tests.simulation.loop import EPOCH_S, PROCESS, Process, VirtualLoop

CALLS_MAX = 60_000
"""An hour takes about half of it: beyond, something asks again and again."""
BELL = "redis.call('PUBLISH', P .. 'bell', set)"


class Spun(Exception):
    """Redis was asked far too often."""


@dataclass(slots=True)
class LineFaults:
    """How lines to Redis misbehave: shares of all calls."""

    killed_before: float = 0.0
    killed_after: float = 0.0
    """The process dies when the script has run, and never hears of it."""
    request_lost: float = 0.0
    answer_lost: float = 0.0
    slow: float = 0.0
    slow_s: float = 3.0
    bell_lost: float = 0.0
    bell_doubled: float = 0.0


@dataclass(slots=True)
class Begun:
    """An attempt as the wire showed it: what `lease` answered."""

    at_ms: int
    at_s: float
    """On the virtual clock; `at_ms` is the server's own."""
    token: str
    message_id: str
    side: str
    number: int
    fence: int
    deadline_ms: int
    endpoint: str
    place: str
    kind: str


@lru_cache(maxsize=500)
def _load(client: redis.Redis, text: str) -> str:
    return str(client.script_load(text))


@dataclass
class Server:
    """One Redis; knows the gates and leases only as far as they crossed the wire."""

    client: redis.Redis
    loop: VirtualLoop
    mutate: Callable[[dict[str, str]], Mapping[str, str]] = dict
    ring: Callable[[str], None] = lambda _: None
    clock_off_ms: int = 0
    away_until: float = 0.0
    gates: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    """By shard and endpoint."""
    begun: dict[str, Begun] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    """What must never be answered."""
    calls: int = 0
    trace: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=12))
    log: list[str] | None = None
    _connection: Any = None
    _latest_ms: int = 0
    _digests: dict[str, str] = field(default_factory=dict)
    _live: dict[str, tuple[str, int]] = field(default_factory=dict)
    _fences: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client.flushall()
        self._connection = self.client.connection_pool.get_connection()
        for name, text in self.mutate(dict(script_sources())).items():
            whole = f"local BELLS = {{}}\nlocal function main()\n{text}\nend\nreturn {{main(), BELLS}}"
            assert BELL in whole, f"{name}.lua rings no bell any more: teach the simulation the new one"
            self._digests[name] = _load(self.client, whole.replace(BELL, "BELLS[#BELLS + 1] = set"))

    def now_ms(self) -> int:
        """The server's own clock."""
        return int((EPOCH_S + self.loop.time()) * 1000) + self.clock_off_ms

    def run(self, who: str, script: str, prefix: str, argument: str) -> Any:
        """One script, atomically, now."""
        now = self.now_ms()
        self._latest_ms = max(self._latest_ms, now)
        answer, bells = self._ask("EVALSHA", self._digests[script], 1, prefix, str(now), argument)
        self._note(f"{who} {script} {argument} -> {answer}")
        if script == "lease":
            self._watch_lease(now, prefix, json.loads(argument), answer)
        elif script == "settle":
            self._watch_settle(json.loads(argument), answer)
        for bell in bells:
            self.ring(bell)
        return answer

    def call(self, who: str, command: tuple[Any, ...]) -> Any:
        """One command, now."""
        answer = self._ask(*command)
        if command[0] == "HGETALL":
            answer = dict(sorted(zip(answer[::2], answer[1::2], strict=True)))
        if command[0] == "HSET" and str(command[1]).endswith(":gate"):
            for endpoint, text in zip(command[2::2], command[3::2], strict=True):
                state, _, until = str(text).partition("|")
                self.gates[str(command[1])[: -len("gate")], str(endpoint)] = (state, int(until))
        # A stream's ids come from the real clock, and a hash's order from the server's own seed.
        shown = answer
        if command[0] == "XADD":
            shown = ""
        elif isinstance(answer, list) and command[0] != "ZSCAN":
            shown = sorted(answer)
        self._note(f"{who} {command} -> {shown}")
        return answer

    def close(self) -> None:
        """Give the connection back."""
        self.client.connection_pool.release(self._connection)

    def _ask(self, *command: Any) -> Any:
        self.calls += 1
        if self.calls > CALLS_MAX:
            raise Spun(f"more than {CALLS_MAX} calls in {self.loop.time():.0f} s")
        self._connection.send_command(*command)
        return self._connection.read_response()

    def _note(self, line: str) -> None:
        text = f"{self.loop.time():.6f} {line}"
        self.trace.update(text.encode())
        if self.log is not None:
            self.log.append(text)

    def _watch_lease(self, now: int, prefix: str, argument: Mapping[str, Any], answer: list[str]) -> None:
        state, until = self.gates.get((prefix, argument["ep"]), ("open", 0))
        for text in answer:
            row = json.loads(text)
            attempt = row["a"]
            token, side = attempt["t"], f"{row['c']}:{row['s']}"
            key = f"{token}/{attempt['f']}"
            if key in self.begun:
                continue  # asked for again
            self.begun[key] = Begun(
                now, self.loop.time(), token, row["m"], side, attempt["n"], attempt["f"], attempt["d"], attempt["ep"],
                attempt["ad"], row["k"],
            )  # fmt: skip
            if state == "closed" and until > now:
                self.wrong.append(f"{token} begun at {argument['ep']} although its gate is closed")
            live, deadline = self._live.get(side, ("", 0))
            if live and deadline > self._latest_ms:  # a clock that steps back opens nothing again
                self.wrong.append(f"{token} begun while {live} is open on the same side")
            if attempt["f"] <= self._fences.get(side, 0):
                self.wrong.append(f"{token} has fence {attempt['f']}, not above the side's {self._fences[side]}")
            self._fences[side] = attempt["f"]
            self._live[side] = (key, attempt["d"])

    def _watch_settle(self, argument: list[Mapping[str, Any]], answer: list[str]) -> None:
        for one, said in zip(argument, answer, strict=True):
            side = f"{one['c']}:{one['s']}"
            if said != "late" and self._live.get(side, ("", 0))[0].endswith(f"/{one['f']}"):
                self._live.pop(side)


class Line:
    """What a process speaks to Redis over; stands where the pipelined client stands in production."""

    def __init__(self, server: Server, rng: Random, faults: LineFaults) -> None:
        self.server = server
        self.rng = rng
        self.faults = faults
        self._asked_at = self._way_s = -1.0

    async def call(self, *command: Any) -> Any:
        """One command's answer."""
        return await self._exchange(lambda who: self.server.call(who, command))

    async def run(self, script: str, prefix: str, now_ms: int | None, argument: str) -> Any:
        """A script's answer; it goes by the server's clock of the moment it runs."""
        return await self._exchange(lambda who: self.server.run(who, script, prefix, argument))

    async def _exchange(self, step: Callable[[str], Any]) -> Any:
        process = PROCESS.get()
        faults, rng, loop = self.faults, self.rng, self.server.loop
        self._must_live(process)
        if process is not None and rng.random() < faults.killed_before:
            process.kill()
            raise asyncio.CancelledError
        answered = loop.create_future()
        # The request is on its way: nothing that happens to its sender calls it back.
        PROCESS_OF_NOBODY.run(loop.call_later, self._way_there(), self._arrive, step, process, answered)
        answer = await answered
        self._must_live(process)
        if process is not None and rng.random() < faults.killed_after:
            process.kill()
            raise asyncio.CancelledError
        if isinstance(answer, redis.RedisError):
            raise answer
        if rng.random() < faults.answer_lost:
            await asyncio.sleep(rng.choice((0.0, 0.3, 5.0)))
            self._must_live(process)
            raise StoreUnavailable("the answer was lost")
        return answer

    def _arrive(self, step: Callable[[str], Any], process: Process | None, answered: "asyncio.Future[Any]") -> None:
        loop = self.server.loop
        answer: Any
        if loop.time() < self.server.away_until or self.rng.random() < self.faults.request_lost:
            answer = StoreUnavailable("Redis did not answer")
        else:
            try:
                answer = step(process.name if process else "client")
            except redis.ResponseError as error:
                self.server.wrong.append(f"Redis refused: {error}")
                answer = error
            except Spun as error:
                self.server.wrong.append(f"it spins: {error}")
                loop.given_up = True
                return
        loop.call_later(self._travel(), _give, answered, answer)

    def _way_there(self) -> float:
        """What is asked in one tick goes in one pipeline, in its order."""
        if self.server.loop.time() != self._asked_at:
            self._asked_at, self._way_s = self.server.loop.time(), self._travel()
        return self._way_s

    def _travel(self) -> float:
        if self.rng.random() < self.faults.slow:
            return self.rng.uniform(0.0, self.faults.slow_s)
        return self.rng.uniform(0.0001, 0.002)

    @staticmethod
    def _must_live(process: Process | None) -> None:
        if process is not None and process.dead:
            raise asyncio.CancelledError


def _give(future: "asyncio.Future[Any]", answer: Any) -> None:
    if not future.done():
        future.set_result(answer)


PROCESS_OF_NOBODY = contextvars.Context()
"""Whatever is called in it belongs to no process."""
