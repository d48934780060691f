"""The real Redis as one atomic step at a time, and each process's faulty line to it."""

import asyncio
import contextvars
import hashlib
import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Any

import hiredis
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


@dataclass(slots=True)
class Script:
    """A script to be run."""

    name: str
    prefix: str
    argument: str


Asked = tuple[Any, ...] | Script


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
    _wire: socket.socket = field(init=False)
    """Read and written with nothing in between: most of a run's time is spent here."""
    _reader: hiredis.Reader = field(init=False)
    _latest_ms: int = 0
    _digests: dict[str, str] = field(default_factory=dict)
    _live: dict[str, tuple[str, int]] = field(default_factory=dict)
    _fences: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client.flushall()
        facts = self.client.connection_pool.connection_kwargs
        self._wire = socket.socket(socket.AF_UNIX if "path" in facts else socket.AF_INET, socket.SOCK_STREAM)
        self._wire.connect(facts["path"] if "path" in facts else (facts["host"], facts["port"]))
        self._reader = hiredis.Reader(encoding="utf-8")
        for name, text in self.mutate(dict(script_sources())).items():
            whole = f"local BELLS = {{}}\nlocal function main()\n{text}\nend\nreturn {{main(), BELLS}}"
            assert BELL in whole, f"{name}.lua rings no bell any more: teach the simulation the new one"
            self._digests[name] = _load(self.client, whole.replace(BELL, "BELLS[#BELLS + 1] = set"))

    def now_ms(self) -> int:
        """The server's own clock."""
        return int((EPOCH_S + self.loop.time()) * 1000) + self.clock_off_ms

    def take(self, asked: "list[tuple[str, Asked]]") -> list[Any]:
        """What arrived together, one atomic step after the other, now; an answer may be an error."""
        now = self.now_ms()
        self._latest_ms = max(self._latest_ms, now)
        self.calls += len(asked)
        if self.calls > CALLS_MAX:
            raise Spun(f"more than {CALLS_MAX} calls in {self.loop.time():.0f} s")
        if not asked:
            return []
        self._wire.sendall(b"".join([self._pack(one, now) for _, one in asked]))
        return [self._heard(who, one, now, self._answer()) for who, one in asked]

    def _pack(self, asked: "Asked", now: int) -> bytes:
        if isinstance(asked, tuple):
            return bytes(hiredis.pack_command(asked))
        return bytes(
            hiredis.pack_command(("EVALSHA", self._digests[asked.name], 1, asked.prefix, str(now), asked.argument))
        )

    def _answer(self) -> Any:
        answer = self._reader.gets()
        while answer is False:
            self._reader.feed(self._wire.recv(65_536))
            answer = self._reader.gets()
        return answer

    def _heard(self, who: str, asked: "Asked", now: int, answer: Any) -> Any:
        if isinstance(answer, hiredis.ReplyError):
            self.wrong.append(f"Redis refused: {answer}")
            return redis.ResponseError(str(answer))
        if isinstance(asked, tuple):
            return self._called(who, asked, answer)
        answer, bells = answer
        self._note(who, asked.name, asked.argument, answer)
        if asked.name == "lease" and answer:
            self._watch_lease(now, asked.prefix, json.loads(asked.argument)["ep"], answer)
        elif asked.name == "settle":
            self._watch_settle(json.loads(asked.argument), answer)
        for bell in bells:
            self.ring(bell)
        return answer

    def _called(self, who: str, command: tuple[Any, ...], answer: Any) -> Any:
        name = command[0]
        if name == "HGETALL":
            answer = dict(sorted(zip(answer[::2], answer[1::2], strict=True)))
        elif name == "HSET" and str(command[1]).endswith(":gate"):
            for endpoint, text in zip(command[2::2], command[3::2], strict=True):
                state, _, until = str(text).partition("|")
                self.gates[str(command[1])[: -len("gate")], str(endpoint)] = (state, int(until))
        # A stream's ids come from the real clock, and a hash's order from the server's own seed.
        shown = answer
        if name == "XADD":
            shown = ""
        elif isinstance(answer, list) and name != "ZSCAN":
            shown = sorted(answer)
        self._note(who, name, command, shown)
        return answer

    def close(self) -> None:
        """Hang up."""
        self._wire.close()

    def _note(self, who: str, name: str, asked: object, shown: object) -> None:
        text = f"{self.loop.time():.6f} {who} {name} {asked} -> {shown}"
        self.trace.update(text.encode())
        if self.log is not None:
            self.log.append(text)

    def _watch_lease(self, now: int, prefix: str, endpoint: str, answer: list[str]) -> None:
        state, until = self.gates.get((prefix, endpoint), ("open", 0))
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
                self.wrong.append(f"{token} begun at {endpoint} although its gate is closed")
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
        self._batch: list[tuple[Asked, asyncio.Future[Any]]] = []
        self._asked_at = -1.0

    async def call(self, *command: Any) -> Any:
        """One command's answer."""
        return await self._exchange(command)

    promise = call
    """Nothing here has replicas."""

    async def run(self, script: str, prefix: str, now_ms: int | None, argument: str) -> Any:
        """A script's answer; it goes by the server's clock of the moment it runs."""
        return await self._exchange(Script(script, prefix, argument))

    async def _exchange(self, asked: Asked) -> Any:
        process = PROCESS.get()
        faults, rng, loop = self.faults, self.rng, self.server.loop
        self._must_live(process)
        if process is not None and rng.random() < faults.killed_before:
            process.kill()
            raise asyncio.CancelledError
        answered = loop.create_future()
        # What is asked in one tick goes in one pipeline, in its order.
        if loop.time() != self._asked_at or not self._batch:
            self._asked_at, self._batch = loop.time(), []
            # On its way: nothing that happens to its sender calls it back.
            PROCESS_OF_NOBODY.run(loop.call_later, self._travel(), self._arrive, self._batch, process)
        self._batch.append((asked, answered))
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

    def _arrive(self, batch: list[tuple[Asked, "asyncio.Future[Any]"]], process: Process | None) -> None:
        server, loop = self.server, self.server.loop
        if batch is self._batch:
            self._batch = []  # whatever is asked from now on goes with the next one
        who = process.name if process else "client"
        lost = self.faults.request_lost
        if loop.time() < server.away_until:
            arrived = []
        elif lost:
            arrived = [one for one in batch if self.rng.random() >= lost]
        else:
            arrived = batch
        try:
            answers = server.take([(who, asked) for asked, _ in arrived])
        except Spun as error:
            server.wrong.append(f"it spins: {error}")
            loop.given_up = True
            return
        given = [(future, answer) for (_, future), answer in zip(arrived, answers, strict=True)]
        if len(arrived) < len(batch):
            heard = {id(future) for _, future in arrived}
            given += [(one, StoreUnavailable("Redis did not answer")) for _, one in batch if id(one) not in heard]
        loop.call_later(self._travel(), _give, given)

    def _travel(self) -> float:
        if self.rng.random() < self.faults.slow:
            return self.rng.uniform(0.0, self.faults.slow_s)
        return self.rng.uniform(0.0001, 0.002)

    @staticmethod
    def _must_live(process: Process | None) -> None:
        if process is not None and process.dead:
            raise asyncio.CancelledError


def _give(given: list[tuple["asyncio.Future[Any]", Any]]) -> None:
    for future, answer in given:
        if not future.done():
            future.set_result(answer)


PROCESS_OF_NOBODY = contextvars.Context()
"""Whatever is called in it belongs to no process."""
