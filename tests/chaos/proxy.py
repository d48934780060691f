"""A wire between the router and a vendor, or Redis, that can be cut, stopped, slowed or filled with garbage."""

import asyncio
import os
import random
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum

CHUNK = 65_536
SLOW_S = 1.5
CUT_SHARE = 0.2
"""Of the answers, how many are cut off."""


class Toxin(StrEnum):
    """What is wrong with the wire."""

    NONE = "none"
    BLACK_HOLE = "black hole"  # connections are taken, bytes vanish both ways
    MUTE = "mute"  # the vendor hears us and takes what we say, and its answers vanish
    RESET = "reset"  # every connection is reset, at once and again
    SLOW = "slow"  # every answer comes 1.5 s late
    GARBAGE = "garbage"  # answers are replaced by noise of the same length
    CUT = "cut"  # one answer in five is lost after the other end has done what it was told, and the connection with it


@dataclass(slots=True)
class Proxy:
    """One vendor's wire."""

    host: str
    port: int
    """The vendor's."""
    path: str = ""
    """Of a Unix socket, where the other end listens on one."""
    toxin: Toxin = Toxin.NONE
    cuts: int = 0
    """Answers that were cut off."""
    _server: asyncio.Server | None = None
    _lines: set[asyncio.Task[None]] = field(default_factory=set)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self, path: str = "") -> int:
        """Listen, on a Unix socket if it is named; else the port to connect to."""
        if path:
            self._server = await asyncio.start_unix_server(self._serve, path)
            return 0
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Let go of everything."""
        if self._server is not None:
            self._server.close()
        self._reset()
        for line in self._lines:
            line.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)

    def poison(self, toxin: Toxin) -> None:
        """From now on; what hung in a black hole is cut when it closes, as a firewall's state that is gone."""
        before, self.toxin = self.toxin, toxin
        if toxin is Toxin.RESET or before in {Toxin.BLACK_HOLE, Toxin.MUTE}:
            self._reset()

    def _reset(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._lines.add(task)
        self._writers.add(writer)
        try:
            if self.toxin is Toxin.RESET:
                writer.transport.abort()
                return
            with suppress(OSError):
                there, back = await self._connect()
                self._writers.add(back)
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._carry(reader, back, answers=False))
                        group.create_task(self._carry(there, writer, answers=True))
                finally:
                    self._writers.discard(back)
                    back.transport.abort()
        except* OSError:
            pass  # one end is gone: so is the line
        finally:
            self._lines.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.path:
            return await asyncio.open_unix_connection(self.path)
        return await asyncio.open_connection(self.host, self.port)

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await source.read(CHUNK):
            match self.toxin:
                case Toxin.BLACK_HOLE:
                    continue
                case Toxin.MUTE if answers:
                    continue
                case Toxin.SLOW if answers:
                    await asyncio.sleep(SLOW_S)
                case Toxin.GARBAGE if answers:
                    data = os.urandom(len(data))
                case Toxin.CUT if answers and random.random() < CUT_SHARE:
                    self.cuts += 1
                    raise ConnectionResetError("the answer was cut off")
            target.write(data)
            await target.drain()
        raise ConnectionResetError("the other end closed")
