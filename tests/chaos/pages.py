"""A thousand chat pages that are open, in a process of their own: they come back by themselves, as link.js does."""

import argparse
import asyncio
import json
import random
import resource
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

TRY_AGAIN_S, TRY_AGAIN_MAX_S = 0.5, 15.0
"""As link.js waits: half of it is chance."""
OPEN_WITHIN_S = 10.0
FRAME_MAX = 64 * 1024
SAY_EVERY_S = 10.0
TOGETHER = 50
"""Pages that are opened at the same time at the beginning; when web comes back, only chance spreads them."""


@dataclass(slots=True)
class Page:
    """One browser tab: what it said and what was taken, what it was shown and how far it is."""

    number: int
    url: str
    talks: bool
    token: str = ""
    cursor: int = 0
    failures: int = 0
    tries: int = 0
    resumed: int = 0
    lost_at: float = 0.0
    back_s: float = 0.0
    """How long it was away the last time."""
    is_open: bool = False
    taken: dict[str, str] = field(default_factory=dict)
    """Messages' ids by what was said."""
    wrong: list[str] = field(default_factory=list)
    _saying: str = ""
    _said: int = 0

    async def run(self, http: aiohttp.ClientSession, turns: asyncio.Semaphore) -> None:
        """Be open until cancelled."""
        async with turns:
            await asyncio.sleep(0)
        while True:
            self.tries += 1
            try:
                async with http.ws_connect(self.url, max_msg_size=FRAME_MAX, timeout=_PATIENCE) as socket:
                    hello = {"type": "hello", "token": self.token, "cursor": self.cursor, "locale": "en"}
                    await socket.send_json(hello)
                    async with asyncio.TaskGroup() as group:
                        talking = group.create_task(self._talk(socket)) if self.talks else None
                        async for frame in socket:
                            await self._hear(socket, json.loads(frame.data))
                        if talking is not None:
                            talking.cancel()
            except* (aiohttp.ClientError, ConnectionError, TimeoutError):
                pass  # lost: below
            if self.is_open:
                self.is_open, self.lost_at = False, time.monotonic()
            most = min(TRY_AGAIN_MAX_S, TRY_AGAIN_S * 2**self.failures)
            self.failures += 1
            await asyncio.sleep(most * (0.5 + random.random() / 2))

    async def _talk(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """The same words under the same id until they are taken."""
        await asyncio.sleep(random.random() * SAY_EVERY_S)
        while not socket.closed:
            if not self._saying:
                self._said += 1
                self._saying = f"page-{self.number}-{self._said}"
            try:
                await socket.send_json({"type": "say", "id": self._saying, "text": f"Say {self._saying}."})
            except (aiohttp.ClientError, ConnectionError):
                return
            await asyncio.sleep(SAY_EVERY_S)

    async def _hear(self, socket: aiohttp.ClientWebSocketResponse, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "welcome":
                if self.token:
                    self.resumed += bool(frame["resumed"])
                    if not frame["resumed"]:
                        self.wrong.append(f"page {self.number} was not known any more")
                if self.lost_at:
                    self.back_s = time.monotonic() - self.lost_at
                self.token, self.is_open, self.failures = frame["token"], True, 0
            case "taken":
                self.taken[frame["id"]] = frame["message"]
                self._saying = "" if frame["id"] == self._saying else self._saying
            case "message":
                await socket.send_json({"type": "seen", "number": frame["number"]})
            case "noted":
                self.cursor = max(self.cursor, frame["number"])


_PATIENCE = aiohttp.ClientWSTimeout(ws_close=OPEN_WITHIN_S)


class Pages:
    """The process, and what it has to tell."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    @asynccontextmanager
    async def opened(self, url: str, count: int, talking: int) -> AsyncIterator[None]:
        """Started; ended on leaving."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.chaos.pages", url, str(count), str(talking),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=10_000_000,
        )  # fmt: skip
        try:
            yield
        finally:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()

    async def report(self) -> dict[str, Any]:
        """What all pages together have seen."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        process.stdin.write(b"report\n")
        found: dict[str, Any] = json.loads(await process.stdout.readline())
        return found

    async def until_open(self, within_s: float) -> None:
        """Until all of them are, or the time is up."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            found = await self.report()
            if found["open"] == found["pages"]:
                return
            await asyncio.sleep(0.2)


def _report(pages: list[Page]) -> dict[str, Any]:
    back = sorted(page.back_s for page in pages) or [0.0]
    return {
        "pages": len(pages),
        "open": sum(page.is_open for page in pages),
        "tries": sum(page.tries for page in pages),
        "resumed": sum(page.resumed for page in pages),
        "back_median_s": back[len(back) // 2],
        "back_p99_s": back[len(back) * 99 // 100],
        "taken": {said: message for page in pages for said, message in page.taken.items()},
        "wrong": [words for page in pages for words in page.wrong],
    }


async def _run(url: str, count: int, talking: int) -> None:
    pages = [Page(number, url, number < talking) for number in range(count)]
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=OPEN_WITHIN_S)
    turns = asyncio.Semaphore(TOGETHER)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http:
        tasks = [asyncio.create_task(page.run(http, turns)) for page in pages]
        while await reader.readline():
            print(json.dumps(_report(pages)), flush=True)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    """Read the command line and run until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("count", type=int)
    parser.add_argument("talking", type=int)
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_run(arguments.url, arguments.count, arguments.talking))


if __name__ == "__main__":
    main()
