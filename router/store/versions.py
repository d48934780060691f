"""A newer version of the records begins once no process is left that knows only the one before."""

from collections.abc import Iterable

from router.store import codec, keys
from router.store.redis import Pipelined


async def begin_version(redis: Pipelined, shards: int, known: Iterable[int]) -> int | None:
    """Let records of this process's version be written from now on, if every process in `known` knows it too.

    Until then both versions work side by side on records of the older one. A process of the older one that comes up
    later stands by: the scripts refuse it before they write anything. Answers the version that began now, else None.

    Raises:
        StoreUnavailable: some shards may have begun; ask again.
    """
    ours = codec.RECORDS_VERSION
    if ours == 1 or min(known, default=0) < ours:
        return None
    begun = False
    for number in range(shards):
        stands = int(await redis.call("GET", keys.version(number)) or 1)
        if stands == ours - 1:
            await redis.call("SET", keys.version(number), ours)
            begun = True
    return ours if begun else None
