"""The Redis client: each loop tick's calls in one pipeline, no retries, no cancelled commands."""

import asyncio
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import hiredis
import redis.asyncio
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    ClusterDownError,
    DataError,
    MovedError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from router.store.cluster import SCRIPTED, ClusterMap, Pool
from router.store.connecting import SOCKET_TIMEOUT_S, TLS_CHECK_NAME, TLS_FILES, disconnect

BATCH_MAX = 500
WORDS_MAX = 300
"""Of what redis-py says of a fault: of sentinels it lists every parameter of every connection."""
DOUBTS_MAX = 5
"""How often one lease looks whether its shard is whole, where connections are made anew meanwhile."""
REDIRECTS_MAX = 5
"""How often one command follows a Cluster whose slots are on the move."""
REPLICATED_WITHIN_MS = 1000
"""How long a write may take to reach the replicas that `redis_replicas` asks for."""
CONNECTING = frozenset(
    {"username", "password", "decode_responses", "protocol", "socket_timeout", "socket_connect_timeout", "retry",
     "health_check_interval", TLS_CHECK_NAME, *TLS_FILES}
)  # fmt: skip
PASSING = (OutOfMemoryError, ReadOnlyError, TryAgainError, ClusterDownError)
"""redis-py takes the words of these off the text."""
CANNOT_TAKE = re.compile(r"\b(OOM|MISCONF|READONLY|NOREPLICAS|MASTERDOWN|CLUSTERDOWN|LOADING|BUSY|TRYAGAIN|VERSION)\b")
"""Refusals that pass: out of memory, disk full, a replica, no replica, loading, newer records. Nothing was written."""
SCRIPTS = (
    "accept",
    "affected",
    "canary",
    "cancel",
    "close",
    "doubt",
    "files",
    "forget",
    "inspect",
    "known",
    "lease",
    "plan",
    "rebind",
    "recall",
    "receipt",
    "reconcile",
    "settle",
    "wake",
)


WRITING = frozenset({"accept", "lease", "settle", "rebind", "receipt", "cancel", "close", "recall"})
"""Scripts whose answers promise something: Redis must not forget it."""
JOURNAL_LEAST = 50_000
"""A journal shorter than this was never trimmed (it is at 100,000): what is not in it is lost."""


_Command = tuple[Any, ...]


class _Promise(_Command):
    """A command that only reads, and is answered once the replicas have what it may have read."""


_Call = tuple[_Command, asyncio.Future[Any]]


class _Doubted(RedisError):
    """A lease was not asked for: the connection it would have gone over is new, and who answers there may be older."""


class StoreUnavailable(RedisConnectionError):
    """Redis did not take or answer a call; whether a script ran is not known. What was asked may be asked again."""

    reason = "store_unavailable"
    words = "The store cannot take it now. Nothing was promised; try again in a few seconds."


def script_sources() -> Mapping[str, str]:
    """Every script by name, prelude included."""
    folder = files("router.store") / "lua"
    prelude = (folder / "prelude.lua").read_text()
    return {name: prelude + (folder / f"{name}.lua").read_text() for name in SCRIPTS}


class Pipelined:
    """Gathers the calls of one loop tick into one round trip.

    A cancelled caller does not cancel its command: the batch is sent by a task of its own.
    """

    def __init__(self, client: "redis.asyncio.Redis", *, replicas: int = 0) -> None:
        self.client = client
        self.replicas = replicas
        """How many replicas must have what a script wrote before anybody is answered."""
        self._sources = script_sources()
        self._digests = {name: hashlib.sha1(text.encode()).hexdigest() for name, text in self._sources.items()}  # noqa: S324 - Redis names scripts so
        self._writing = {text for name in WRITING for text in (self._digests[name], self._sources[name])}
        self._leasing = (self._digests["lease"], self._sources["lease"])
        self._waiting: list[_Call] = []
        self._batches: set[asyncio.Task[None]] = set()
        self.positions: dict[str, str] = {}
        """The last journal entry that each shard is known to hold, by its prefix: behind every answer of a script."""
        self._doubted: set[str] = set()
        self.doubts = 0
        """How often there was reason to doubt whether what answers is as new as it was."""
        self._cluster: ClusterMap | None = None
        # A connection that broke while it was idle is made anew without a word; only here it is seen.
        either: Any = client
        if isinstance(either, RedisCluster):
            given = either.connection_kwargs
            facts = {name: given[name] for name in CONNECTING if name in given}
            tls = {"ssl": True} if "ssl_cert_reqs" in given else {}
            places = [(str(node.host), int(node.port)) for node in either.startup_nodes]
            self._cluster = ClusterMap(places, facts | tls, self._on_connect)
        else:
            client.connection_pool.connection_kwargs["redis_connect_func"] = self._on_connect

    async def call(self, *command: Any) -> Any:
        """One command's answer.

        Raises:
            StoreUnavailable: Redis could not be reached or did not answer in 5 s.
            redis.RedisError: Redis refused the command.
        """
        return await self._call(command)

    async def promise(self, *command: Any) -> Any:
        """A read's answer that somebody is promised something by: the replicas asked for have all that it shows.

        Raises:
            StoreUnavailable: they have not, or Redis did not answer.
            redis.RedisError: Redis refused the command.
        """
        return await self._call(_Promise(command))

    async def _call(self, command: _Command) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.append((command, future))
        return await future  # cancelled with its caller; the batch does not mind

    async def run(self, script: str, prefix: str, now_ms: int | None, argument: str) -> Any:
        """A script's answer. The scripts are loaded again where the server has forgotten them.

        Nothing is leased from a shard that was away until it is known to have come back whole.
        """
        now = "" if now_ms is None else str(now_ms)
        if script != "lease":
            return await self._evaluate(script, prefix, now, argument)
        for _ in range(DOUBTS_MAX):
            doubts = self.doubts
            if prefix in self._doubted:
                if await self.went_back(prefix):
                    raise StoreUnavailable("Redis came back older than it was; what waits must be marked first")
                self.trust(prefix, doubts)
            try:
                return await self._evaluate(script, prefix, now, argument)
            except _Doubted:
                continue
        raise StoreUnavailable("Redis' connections break as soon as they are made")

    async def _evaluate(self, script: str, prefix: str, now: str, argument: str) -> Any:
        try:
            return await self.call("EVALSHA", self._digests[script], 1, prefix, now, argument)
        except NoScriptError:  # it did not run: asking again is safe, and the server knows it from then on
            return await self.call("EVAL", self._sources[script], 1, prefix, now, argument)

    async def subscribe(self, *channels: str) -> PubSub:
        """What is published on these channels from now on; its caller closes it. A Cluster tells every node of it.

        Raises:
            redis.RedisError: Redis does not answer.
        """
        anywhere = self.client if self._cluster is None else await self._cluster.client()
        listening = anywhere.pubsub()
        try:
            await listening.subscribe(*channels)
        except BaseException:  # a cancellation too: leave no connection behind
            await listening.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
            raise
        return listening

    async def went_back(self, prefix: str) -> bool:
        """Whether a shard has lost the last entry of its journal that we saw there. Raises StoreUnavailable."""
        position = self.positions.get(prefix)
        if position is None:
            return False
        found = await self.call("XRANGE", f"{prefix}jr", position, position, "COUNT", 1)
        return not found and int(await self.call("XLEN", f"{prefix}jr")) < JOURNAL_LEAST

    def doubt_all(self) -> None:
        """A connection broke or is new: who answers there may be older."""
        self.doubts += 1
        self._doubted |= self.positions.keys()

    def trust(self, prefix: str, doubts: int) -> None:
        """This shard is whole, or what waits there is marked; unless more doubts have come since there were so many."""
        if doubts == self.doubts:
            self._doubted.discard(prefix)

    async def close(self) -> None:
        """Wait for what is under way, then disconnect."""
        while self._batches or self._waiting:
            await asyncio.gather(*self._batches, return_exceptions=True)
            await asyncio.sleep(0)
        if self._cluster is not None:
            await self._cluster.close()
        await disconnect(self.client)

    async def _on_connect(self, connection: AbstractConnection) -> None:
        await connection.on_connect()
        self.doubt_all()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), BATCH_MAX):
            batch = waiting[start : start + BATCH_MAX]
            task = asyncio.get_running_loop().create_task(self._send(batch))
            self._batches.add(task)
            task.add_done_callback(self._batches.discard)

    async def _send(self, batch: list[_Call]) -> None:
        if self._cluster is None:
            await self._send_to(self.client.connection_pool, batch)
            return
        parts: dict[Pool, list[_Call]] = {}
        for command, future in batch:
            try:
                parts.setdefault(await self._cluster.pool_of(command), []).append((command, future))
            except RedisConnectionError as error:
                _fail([(command, future)], StoreUnavailable(f"Redis did not answer: {str(error)[:WORDS_MAX]}"))
        await asyncio.gather(*(self._send_to(pool, part) for pool, part in parts.items()))

    async def _send_to(self, pool: Any, batch: list[_Call]) -> None:
        try:
            answers = await self._ask(pool, [command for command, _ in batch])
        except (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError) as error:
            self.doubt_all()
            if self._cluster is not None:
                self._cluster.forget(pool)
            _fail(batch, StoreUnavailable(f"Redis did not answer: {str(error)[:WORDS_MAX]}"))
            return
        except (DataError, UnicodeEncodeError) as error:
            # Nothing was sent: the others go without what cannot be written.
            sound = [one for one in batch if _is_sound(*one)]
            if len(sound) == len(batch):
                _fail(batch, error)
            elif sound:
                await self._send_to(pool, sound)
            return
        except (RedisError, ValueError) as error:  # ValueError: an answer that is no text; nobody may wait for ever
            _fail(batch, error)
            return
        for (command, future), answer in zip(batch, answers, strict=True):
            if isinstance(answer, AskError):
                answer = await self._follow(command, answer)  # noqa: PLW2901 - what the right node says, instead
            if isinstance(answer, (RedisConnectionError, RedisTimeoutError)) or _passes(answer):
                _fail([(command, future)], StoreUnavailable(f"Redis did not answer: {str(answer)[:WORDS_MAX]}"))
            elif isinstance(answer, Exception):
                _fail([(command, future)], answer)
            elif not future.done():
                future.set_result(answer)

    async def _follow(self, command: _Command, answer: Any) -> Any:
        """What a Cluster's node answers that has the slot now. The one that sent us on did nothing.

        While a slot moves, its keys are in two places: a script, which derives the names of most of them, would find
        a part and take the rest for gone. It runs again once all of them have arrived.
        """
        for _ in range(REDIRECTS_MAX):
            if self._cluster is None or not isinstance(answer, AskError):
                break
            if command[0] in SCRIPTED and not isinstance(answer, MovedError):
                break
            try:
                if isinstance(answer, MovedError):
                    await self._cluster.read()
                    (answer,) = await self._ask(await self._cluster.pool_of(command), [command])
                else:
                    pool = self._cluster.pool_at((str(answer.host), int(answer.port)))
                    _, answer = await self._ask(pool, [("ASKING",), command])
            except (RedisError, OSError, TimeoutError) as error:
                self.doubt_all()
                return StoreUnavailable(str(error))
        return StoreUnavailable("its slot is on the move") if isinstance(answer, AskError) else answer

    async def _ask(self, pool: Any, commands: list[_Command]) -> list[Any]:
        """All answers in one round trip, and behind them how far the journal is where something was written."""
        written = {one[3] for one in commands if one[0] in SCRIPTED and one[1] in self._writing}
        looks: list[_Command] = [("XREVRANGE", f"{prefix}jr", "+", "-", "COUNT", 1) for prefix in written]
        # Redis counts from the last command on this connection, also where that wrote nothing (WAIT, `c->woff`).
        waits = self.replicas > 0 and (bool(written) or any(isinstance(one, _Promise) for one in commands))
        if waits:
            looks.append(("WAIT", self.replicas, REPLICATED_WITHIN_MS))
        answers = await self._round_trip(pool, [*commands, *looks])
        if waits:
            have = answers.pop()  # an error where the primary has just become a replica
            if not isinstance(have, int) or have < self.replicas:
                raise RedisConnectionError(f"fewer than {self.replicas} replicas have it")
        for prefix, last in zip(written, answers[len(commands) :], strict=True):
            if isinstance(last, list) and last and prefix not in self._doubted:
                self.positions[prefix] = str(last[0][0])
        return answers[: len(commands)]

    async def _round_trip(self, pool: Any, commands: Sequence[_Command]) -> list[Any]:
        """What a pipeline of redis-py does, at a third of its cost: packed in C, and one timeout for all answers."""
        packed = [_pack(one) for one in commands]
        async with asyncio.timeout(SOCKET_TIMEOUT_S):  # several sentinels are asked in turn
            connection: AbstractConnection = await pool.get_connection()
        # Made anew just now, it may lead to a Redis that is older, and nothing is leased there before that is known.
        held = {number for number, one in enumerate(commands) if self._is_doubted(one)} if self._doubted else ()
        try:
            async with asyncio.timeout(SOCKET_TIMEOUT_S):
                sent = b"".join(part for number, part in enumerate(packed) if number not in held)
                await connection.send_packed_command([sent])
                return [
                    _Doubted() if number in held else await self._answer(connection, command[0])
                    for number, command in enumerate(commands)
                ]
        except BaseException:  # cancelled, too: nobody may take these answers for those to the next commands
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)

    def _is_doubted(self, command: _Command) -> bool:
        return command[0] in SCRIPTED and command[1] in self._leasing and command[3] in self._doubted

    async def _answer(self, connection: AbstractConnection, name: str) -> Any:
        try:
            answer = await connection.read_response(timeout=math.inf)
        except ResponseError as error:
            return error
        read = self.client.response_callbacks.get(name)
        return read(answer) if read is not None else answer


def _pack(command: _Command) -> bytes:
    parts: Any = command  # its stub knows tuples of one part only
    try:
        return bytes(hiredis.pack_command(parts))
    except TypeError as error:
        raise DataError(f"a part of {command[0]} is no text and no number") from error


def _is_sound(command: _Command, future: "asyncio.Future[Any]") -> bool:
    """Whether it can be written; who asked what cannot be is told so."""
    try:
        _pack(command)
    except (DataError, UnicodeEncodeError) as error:
        _fail([(command, future)], error)
        return False
    return True


def _fail(batch: list[_Call], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
            future.exception()  # retrieved: a caller that is gone must not make a warning of it


def _passes(answer: object) -> bool:
    if isinstance(answer, PASSING):
        return True
    return isinstance(answer, ResponseError) and CANNOT_TAKE.search(str(answer)[:200]) is not None
