"""The Redis client: each loop tick's calls in one pipeline, no retries, no cancelled commands."""

import asyncio
import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, cast

import hiredis
import redis.asyncio
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

BATCH_MAX = 500
SOCKET_TIMEOUT_S = 5.0
CANNOT_TAKE = re.compile(r"\b(OOM|MISCONF|READONLY|NOREPLICAS|MASTERDOWN|CLUSTERDOWN|LOADING|BUSY|TRYAGAIN)\b")
"""Refusals that pass: out of memory, disk full, a replica, no replica, loading. Nothing was written."""
SCRIPTS = (
    "accept",
    "affected",
    "cancel",
    "close",
    "doubt",
    "forget",
    "inspect",
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


class StoreUnavailable(RedisConnectionError):
    """Redis did not take or answer a call; whether a script ran is not known. What was asked may be asked again."""

    reason = "store_unavailable"
    words = "The store cannot take it now. Nothing was promised; try again in a few seconds."


def connect(url: str) -> "redis.asyncio.Redis":
    """A client that never retries by itself: a script whose answer is lost may have run."""
    return redis.asyncio.Redis.from_url(
        url,
        decode_responses=True,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        health_check_interval=0,
    )


def script_sources() -> Mapping[str, str]:
    """Every script by name, prelude included."""
    folder = files("router.store") / "lua"
    prelude = (folder / "prelude.lua").read_text()
    return {name: prelude + (folder / f"{name}.lua").read_text() for name in SCRIPTS}


class Pipelined:
    """Gathers the calls of one loop tick into one round trip.

    A cancelled caller does not cancel its command: the batch is sent by a task of its own.
    """

    def __init__(self, client: "redis.asyncio.Redis") -> None:
        self.client = client
        self._sources = script_sources()
        self._digests: dict[str, str] = {}
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self._batches: set[asyncio.Task[None]] = set()
        self.positions: dict[str, str] = {}
        """The last journal entry that each shard is known to hold, by its prefix: behind every answer of a script."""
        self._doubted: set[str] = set()
        self._writing: set[str] = set()
        # A connection that broke while it was idle is made anew without a word; only here it is seen.
        client.connection_pool.connection_kwargs["redis_connect_func"] = self._on_connect

    async def call(self, *command: Any) -> Any:
        """One command's answer.

        Raises:
            StoreUnavailable: Redis could not be reached or did not answer in 5 s.
            redis.RedisError: Redis refused the command.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.append((command, future))
        return await asyncio.shield(future)

    async def run(self, script: str, prefix: str, now_ms: int | None, argument: str) -> Any:
        """A script's answer. The scripts are loaded again where the server has forgotten them.

        Nothing is leased from a shard that was away until it is known to have come back whole.
        """
        if script == "lease" and prefix in self._doubted:
            if await self.went_back(prefix):
                raise StoreUnavailable("Redis came back older than it was; what waits must be marked first")
            self._doubted.discard(prefix)
        digest = self._digests.get(script) or await self._load(script)
        now = "" if now_ms is None else str(now_ms)
        try:
            return await self.call("EVALSHA", digest, 1, prefix, now, argument)
        except NoScriptError:  # it did not run: asking again is safe
            digest = await self._load(script)
            return await self.call("EVALSHA", digest, 1, prefix, now, argument)

    async def went_back(self, prefix: str) -> bool:
        """Whether a shard has lost the last entry of its journal that we saw there. Raises StoreUnavailable."""
        position = self.positions.get(prefix)
        if position is None:
            return False
        found = await self.call("XRANGE", f"{prefix}jr", position, position, "COUNT", 1)
        return not found and int(await self.call("XLEN", f"{prefix}jr")) < JOURNAL_LEAST

    def doubt_all(self) -> None:
        """A connection broke or is new: who answers there may be older."""
        self._doubted |= self.positions.keys()

    def trust(self, prefix: str) -> None:
        """This shard is whole, or what waits in it has been marked."""
        self._doubted.discard(prefix)

    async def close(self) -> None:
        """Wait for what is under way, then disconnect."""
        while self._batches or self._waiting:
            await asyncio.gather(*self._batches, return_exceptions=True)
            await asyncio.sleep(0)
        await self.client.aclose()

    async def _on_connect(self, connection: AbstractConnection) -> None:
        await connection.on_connect()
        self.doubt_all()

    async def _load(self, script: str) -> str:
        digest = cast(str, await self.call("SCRIPT", "LOAD", self._sources[script]))
        self._digests[script] = digest
        if script in WRITING:
            self._writing.add(digest)
        return digest

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), BATCH_MAX):
            task = asyncio.get_running_loop().create_task(self._send(waiting[start : start + BATCH_MAX]))
            self._batches.add(task)
            task.add_done_callback(self._batches.discard)

    async def _send(self, batch: list[tuple[tuple[Any, ...], asyncio.Future[Any]]]) -> None:
        try:
            answers = await self._ask([command for command, _ in batch])
        except (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError) as error:
            self.doubt_all()
            _fail(batch, StoreUnavailable(f"Redis did not answer: {error}"))
            return
        except (RedisError, ValueError) as error:  # ValueError: an answer that is no text; nobody may wait for ever
            _fail(batch, error)
            return
        for (command, future), answer in zip(batch, answers, strict=True):
            if isinstance(answer, (RedisConnectionError, RedisTimeoutError)) or _passes(answer):
                _fail([(command, future)], StoreUnavailable(f"Redis did not answer: {answer}"))
            elif isinstance(answer, Exception):
                _fail([(command, future)], answer)
            elif not future.done():
                future.set_result(answer)

    async def _ask(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """All answers in one round trip, and behind them how far the journal is where something was written."""
        written = {one[3] for one in commands if one[0] == "EVALSHA" and one[1] in self._writing}
        looks = [("XREVRANGE", f"{prefix}jr", "+", "-", "COUNT", 1) for prefix in written]
        answers = await self._round_trip([*commands, *looks])
        for prefix, last in zip(written, answers[len(commands) :], strict=True):
            if isinstance(last, list) and last and prefix not in self._doubted:
                self.positions[prefix] = str(last[0][0])
        return answers[: len(commands)]

    async def _round_trip(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """What a pipeline of redis-py does, at a third of its cost: packed in C, and one timeout for all answers."""
        packed = b"".join(map(_pack, commands))
        pool: Any = self.client.connection_pool  # untyped in redis-py
        connection: AbstractConnection = await pool.get_connection()
        try:
            async with asyncio.timeout(SOCKET_TIMEOUT_S):
                await connection.send_packed_command([packed])
                return [await self._answer(connection, command[0]) for command in commands]
        except BaseException:
            # Answers that nobody has read must never be taken for those to the next commands.
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)

    async def _answer(self, connection: AbstractConnection, name: str) -> Any:
        try:
            answer = await connection.read_response(timeout=math.inf)
        except ResponseError as error:
            return error
        read = self.client.response_callbacks.get(name)
        return read(answer) if read is not None else answer


def _pack(command: tuple[Any, ...]) -> bytes:
    parts: Any = command  # its stub knows tuples of one part only
    try:
        return bytes(hiredis.pack_command(parts))
    except TypeError as error:
        raise DataError(f"a part of {command[0]} is no text and no number") from error


def _fail(batch: list[tuple[tuple[Any, ...], asyncio.Future[Any]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
            future.exception()  # retrieved: a caller that is gone must not make a warning of it


def _passes(answer: object) -> bool:
    if isinstance(answer, (OutOfMemoryError, ReadOnlyError)):  # redis-py takes these words off the text
        return True
    return isinstance(answer, ResponseError) and CANNOT_TAKE.search(str(answer)[:200]) is not None
