"""Damage to the indexes, as a fault of ours would leave it: what the reconciler is there for."""

from random import Random

from router.store import keys
from tests.simulation.server import Server

KINDS = ("lost", "misplaced", "renamed", "leased")
LEASED_MS = 3_600_000
"""How long a lease without an attempt would keep its side from being looked at."""


def damage(server: Server, rng: Random, shards: int, endpoints: list[str]) -> bool:
    """Put one side where its work is not; False: no side has work now."""
    sides = [
        (prefix, member, due)
        for prefix in map(keys.shard, range(shards))
        for due in [*endpoints, keys.PLAN]
        for member in server.client.zrange(f"{prefix}d:{due}", 0, -1)
    ]
    if not sides:
        return False
    prefix, member, due = rng.choice(sorted(sides))
    key, elsewhere = f"{prefix}s:{member}", rng.choice([one for one in endpoints if one != due])
    match rng.choice(KINDS):
        case "lost":
            server.client.zrem(f"{prefix}d:{due}", member)
        case "misplaced":
            server.client.zrem(f"{prefix}d:{due}", member)
            server.client.zadd(f"{prefix}d:{elsewhere}", {member: server.now_ms()})
        case "renamed":
            server.client.zrem(f"{prefix}d:{due}", member)
            server.client.hset(key, "dp", elsewhere)
            server.client.zadd(f"{prefix}d:{elsewhere}", {member: server.now_ms() + LEASED_MS})
        case _:
            if server.client.hget(key, "t"):
                return False  # it has an attempt: then its lease is no damage
            server.client.hset(key, "l", server.now_ms() + LEASED_MS)
    return True
