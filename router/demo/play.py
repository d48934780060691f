"""What demo and drill have in common: a play put on among vendors, people and screen, ended and cleaned up whatever."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path

import aiohttp

from router.demo.people import PeopleStopped
from router.demo.screen import Screen
from router.demo.stage import Interrupted, Stage, StageFault, clear, forget_environment, make_folder
from router.private_redis import NoRedisFound
from router.process_tree import TreeStopped

LOOK_S = 0.25
INTERRUPTED_STATUS = 130


class Stuck(Exception):
    """Something did not happen in time; the text says what."""


async def until(holds: Callable[[], bool], words: str, within_s: float) -> None:
    """Return as soon as it holds. Raises Stuck when it does not within `within_s`; `words` say what was waited for."""
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            raise Stuck(f"Waited {within_s:.0f} s in vain until {words}.")
        await asyncio.sleep(LOOK_S / 5)


def put_on(name: str, screen: Screen, play: Callable[[Path], Coroutine[None, None, int]]) -> int:
    """Run `play` in a folder of its own, named after `name`, and leave nothing behind. The exit status: what it
    returned, 130 where somebody pressed Ctrl-C, 1 where it could not be played. Logs are kept unless all went well.
    """
    forget_environment()
    folder = make_folder(name)
    status = 1
    try:
        status = asyncio.run(_listen_and(play(folder)))
    except (KeyboardInterrupt, asyncio.CancelledError, Interrupted):
        status = INTERRUPTED_STATUS
    except (StageFault, TreeStopped, NoRedisFound, OSError) as error:
        screen.say(str(error), "red")
    except ExceptionGroup as group:
        status = _say_why(group, screen)
    if status == INTERRUPTED_STATUS:
        screen.say("Interrupted. Everything was stopped and removed.")
    if status in {0, INTERRUPTED_STATUS}:
        clear(folder)
    else:
        screen.say(f"Logs are in {folder}/log, the vendors' journal in {folder}/sandbox; remove {folder} afterwards.")
    return status


async def perform(
    stage: Stage, extras: Sequence[Callable[[], Awaitable[None]]], tell: Callable[[], Awaitable[None]]
) -> str:
    """Tell the story while everybody else does their part; why it did not come to its end, or ''."""
    stuck = ""
    async with asyncio.TaskGroup() as group:
        parts = [group.create_task(_play(extra)) for extra in (*extras, lambda: _watch(stage))]
        try:
            await tell()
        except Stuck as error:
            stuck = str(error)
        finally:
            for part in parts:
                part.cancel()
    return stuck


def connector() -> aiohttp.TCPConnector:
    """Every browser keeps a connection of its own."""
    return aiohttp.TCPConnector(limit=0)


async def _listen_and(playing: Coroutine[None, None, int]) -> int:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    for number in (signal.SIGTERM, signal.SIGHUP):  # until the tree looks after them
        loop.add_signal_handler(number, lambda: task.cancel() if task else None)
    return await playing


async def _play(part: Callable[[], Awaitable[None]]) -> None:
    await part()


async def _watch(stage: Stage) -> None:
    """The play is over when somebody says so, or the tree fell. Raises Interrupted, TreeStopped."""
    told = asyncio.create_task(stage.interrupted.wait())
    try:
        await asyncio.wait({stage.playing, told}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        told.cancel()
    if stage.playing.done():
        stage.playing.result()
    raise Interrupted


def _say_why(group: "ExceptionGroup[Exception]", screen: Screen) -> int:
    for error in _leaves(group):
        if isinstance(error, Interrupted):
            return INTERRUPTED_STATUS
        if not isinstance(error, PeopleStopped | TreeStopped | aiohttp.ClientError | OSError):
            raise group
        screen.say(str(error) or repr(error), "red")
    return 1


def _leaves(group: "ExceptionGroup[Exception]") -> list[Exception]:
    return [leaf for one in group.exceptions for leaf in (_leaves(one) if isinstance(one, ExceptionGroup) else [one])]
