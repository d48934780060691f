"""The one clock that everything stored goes by: Redis' own."""

from router.store.redis import Pipelined


async def server_ms(redis: Pipelined) -> int:
    """The server's clock in unix milliseconds."""
    answer = await redis.call("TIME")
    if isinstance(answer, (list, tuple)):
        return int(answer[0]) * 1000 + int(answer[1]) // 1000
    raise TypeError(f"TIME answered {answer!r}")
