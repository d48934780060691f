"""What stands in a store that came back older than it was, for whoever looks at it: when, and what was flagged."""

from dataclasses import dataclass

from router.store import keys
from router.store.redis import Pipelined

SHOWN_S = 24 * 3600
"""Long enough that whoever comes on duty next sees it."""


@dataclass(frozen=True, slots=True)
class WentBack:
    """A store that lost what it had taken."""

    at: float
    """When it was last noticed, unix seconds."""
    flagged: int
    """Messages marked as possible repeats since it was first noticed."""


async def write_went_back(redis: Pipelined, at: float, flagged: int) -> None:
    """Say it for a day. Each process that notices adds what it flagged. Raises StoreUnavailable."""
    await redis.call("HSET", keys.WENT_BACK, "at", f"{at:.3f}")
    await redis.call("HINCRBY", keys.WENT_BACK, "flagged", flagged)
    await redis.call("EXPIRE", keys.WENT_BACK, SHOWN_S)


async def read_went_back(redis: Pipelined) -> WentBack | None:
    """Whether this store came back older than it was within a day; None: no. Raises StoreUnavailable."""
    found = await redis.call("HGETALL", keys.WENT_BACK)
    return WentBack(float(found["at"]), int(found.get("flagged", 0))) if "at" in found else None
