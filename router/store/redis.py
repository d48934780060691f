"""The Redis client: each loop tick's calls in one pipeline, no retries, no cancelled commands."""

import asyncio
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, cast

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
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
        """A script's answer. The scripts are loaded again where the server has forgotten them."""
        digest = self._digests.get(script) or await self._load(script)
        now = "" if now_ms is None else str(now_ms)
        try:
            return await self.call("EVALSHA", digest, 1, prefix, now, argument)
        except NoScriptError:  # it did not run: asking again is safe
            digest = await self._load(script)
            return await self.call("EVALSHA", digest, 1, prefix, now, argument)

    async def close(self) -> None:
        """Wait for what is under way, then disconnect."""
        while self._batches or self._waiting:
            await asyncio.gather(*self._batches, return_exceptions=True)
            await asyncio.sleep(0)
        await self.client.aclose()

    async def _load(self, script: str) -> str:
        digest = cast(str, await self.call("SCRIPT", "LOAD", self._sources[script]))
        self._digests[script] = digest
        return digest

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), BATCH_MAX):
            task = asyncio.get_running_loop().create_task(self._send(waiting[start : start + BATCH_MAX]))
            self._batches.add(task)
            task.add_done_callback(self._batches.discard)

    async def _send(self, batch: list[tuple[tuple[Any, ...], asyncio.Future[Any]]]) -> None:
        try:
            pipeline = self.client.pipeline(transaction=False)
            for command, _ in batch:
                pipeline.execute_command(*command)
            answers = await pipeline.execute(raise_on_error=False)
        except (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError) as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(StoreUnavailable(f"Redis did not answer: {error}"))
                    future.exception()  # retrieved: a caller that is gone must not make a warning of it
            return
        except (RedisError, ValueError) as error:  # ValueError: an answer that is no text; nobody may wait for ever
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
                    future.exception()
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, (RedisConnectionError, RedisTimeoutError)) or _passes(answer):
                future.set_exception(StoreUnavailable(f"Redis did not answer: {answer}"))
                future.exception()
            elif isinstance(answer, Exception):
                future.set_exception(answer)
                future.exception()
            else:
                future.set_result(answer)


def _passes(answer: object) -> bool:
    if isinstance(answer, (OutOfMemoryError, ReadOnlyError)):  # redis-py takes these words off the text
        return True
    return isinstance(answer, ResponseError) and CANNOT_TAKE.search(str(answer)[:200]) is not None
