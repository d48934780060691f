"""The anchor of the storm: how many plain six-write scripts a second the same Redis runs, pipelined."""

import asyncio
import time
from typing import Any

import hiredis

SIX_WRITES = """
if not redis.call('SET', KEYS[1] .. 'i:' .. ARGV[1], ARGV[1], 'NX', 'EX', 3600) then return 0 end
redis.call('HSET', KEYS[1] .. 'm:' .. ARGV[1], 'b', ARGV[2], 'st', 'queued', 'at', ARGV[3])
redis.call('EXPIRE', KEYS[1] .. 'm:' .. ARGV[1], 86400)
redis.call('RPUSH', KEYS[1] .. 'q', ARGV[1])
redis.call('LTRIM', KEYS[1] .. 'q', -1000, -1)
redis.call('XADD', KEYS[1] .. 'x', 'MAXLEN', '~', 10000, '*', 'm', ARGV[1])
return 1
"""
CONNECTIONS = 16
DEPTH = 16
"""Commands in one pipeline; more gained nothing when this was measured."""


async def run_scripts(socket: str, count: int, run: str, text: str) -> float:
    """Run the script `count` times over 16 connections, 16 at a time; how many seconds that took.

    What is sent is put together beforehand, so that the server alone is timed.
    """
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(_pack("SCRIPT", "LOAD", SIX_WRITES))
    digest = (await _answers(reader, 1))[0]
    writer.close()
    commands = [_pack("EVALSHA", digest, 1, "tl:{s0}:bench:", f"{run}:{number}", text, 1) for number in range(count)]
    pipelines = [commands[start : start + DEPTH] for start in range(0, count, DEPTH)]
    pending = iter([(b"".join(pipeline), len(pipeline)) for pipeline in pipelines])

    async def work() -> None:
        reader, writer = await asyncio.open_unix_connection(socket)
        for data, length in pending:
            writer.write(data)
            await _answers(reader, length)
        writer.close()

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(work())
    return time.perf_counter() - begun


def _pack(*parts: object) -> bytes:
    command: Any = parts  # its stub knows tuples of one part only
    return bytes(hiredis.pack_command(command))


async def _answers(stream: asyncio.StreamReader, count: int) -> list[object]:
    parser = hiredis.Reader()
    found: list[object] = []
    while len(found) < count:
        data = await stream.read(65536)
        if not data:
            raise ConnectionResetError("Redis hung up")
        parser.feed(data)
        while (answer := parser.gets()) is not False:
            if isinstance(answer, hiredis.ReplyError):
                raise answer
            found.append(answer)
    return found
