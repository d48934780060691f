"""Child processes of a bench: started on a core of their own, asked in JSON lines, gone when the parent is gone."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger()

ANSWER_WITHIN_S = 300.0
LINE_MAX = 64 * 1024 * 1024

Answer = dict[str, Any]


class ChildFailed(Exception):
    """A child ended or answered with an error; the text holds it."""


def new_loop() -> asyncio.AbstractEventLoop:
    """The event loop that the roles run on, so that every contender of a bench has the same."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where; empty sets where there is no choice."""

    every: frozenset[int]
    shared: frozenset[int]
    """What all contenders share: Redis, the provider, the load."""
    own: frozenset[int]
    """The contender's."""


def choose_cores() -> Cores:
    """The first core this process may use for what is shared, the second for the contender."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(allowed) < 2:
        return Cores(frozenset(), frozenset(), frozenset())
    return Cores(frozenset(allowed), frozenset(allowed[:1]), frozenset(allowed[1:2]))


def pin(cores: frozenset[int]) -> None:
    """Run on these cores only, as will what is started from here; on any, if none is named."""
    if cores:
        os.sched_setaffinity(0, cores)


def say(answer: Mapping[str, Any]) -> None:
    """Answer the parent with one line."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def hear() -> AsyncIterator[Answer]:
    """What the parent asks, line by line, until it is gone."""
    reader = asyncio.StreamReader(limit=LINE_MAX)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


async def until_parent_ends() -> None:
    """Return when standard input closes."""
    async for _ in hear():
        pass


async def serve_questions(answer: Callable[[Answer], Awaitable[Answer]]) -> None:
    """Answer each question with `answer`; what it raises is told to the parent, who stops the bench."""
    async for question in hear():
        try:
            say(await answer(question))
        except Exception as error:  # the rim of a child: the parent raises what we tell it
            log.exception("question.broke", question=question.get("do"))
            say({"error": f"{type(error).__name__}: {error}"})


class Child:
    """One child process, seen from its parent."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process = process
        self._name = name

    async def ask(self, **question: Any) -> Answer:
        """Put a question and wait for its answer, at most five minutes.

        Raises:
            ChildFailed: it ended, answered too late, or answered with an error.
        """
        stdin = self._process.stdin
        if stdin is not None:
            stdin.write(json.dumps(question).encode() + b"\n")
        return await self.heard()

    async def heard(self) -> Answer:
        """The next line it says."""
        stdout = self._process.stdout
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                line = await stdout.readline() if stdout is not None else b""
        except TimeoutError as error:
            raise ChildFailed(f"{self._name} did not answer within {ANSWER_WITHIN_S:.0f} s") from error
        if not line:
            raise ChildFailed(f"{self._name} ended; its log says why")
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise ChildFailed(f"{self._name}: {answer['error']}")
        return answer

    async def end(self) -> None:
        """Close its standard input; kill it if that does not end it within five seconds."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(5.0):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def child(
    folder: Path, module: str, *arguments: str, name: str = "", cores: frozenset[int] = frozenset()
) -> AsyncIterator[Child]:
    """Run `python -m module arguments` on `cores`, standard error in `folder/name.log`, without anybody's settings."""
    name = name or module.rpartition(".")[2]
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("THROUGHLINE_", "PROMETHEUS_"))}
    with (folder / f"{name}.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log, env=plain, limit=LINE_MAX,
            preexec_fn=lambda: pin(cores),
        )  # fmt: skip
    one = Child(process, name)
    try:
        yield one
    finally:
        await one.end()
