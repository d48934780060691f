"""One store poured into another, where a walk meets a key twice."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from router.private_redis import PrivateRedis
from router.store.snapshot import NotCopied, pour

MANY = 700
"""More than a server keeps in one row: from then on each writes them in an order of its own."""


@pytest.fixture
def stores() -> Iterator[tuple[Any, Any]]:
    """Two servers."""
    with tempfile.TemporaryDirectory(prefix="tl-") as room:
        servers = [PrivateRedis(Path(room) / name, durable=False) for name in ("source", "target")]
        try:
            for server in servers:
                server.start()
            with redis.Redis.from_url(servers[0].url) as source, redis.Redis.from_url(servers[1].url) as target:
                source.hset("tl:agents", mapping={f"a0-{number}": "{}" for number in range(MANY)})
                source.sadd("tl:{s0}:op:c0-1", *(f"v0-{number}" for number in range(MANY)))
                yield source, target
        finally:
            for server in servers:
                server.stop()


def test_what_is_there_already_is_known_again_in_whatever_order_it_is_written(stores: tuple[Any, Any]) -> None:
    """And nothing is left beside it."""
    source, target = stores
    assert pour(source, target) == pour(source, target) == 2
    assert target.hgetall("tl:agents") == source.hgetall("tl:agents")
    assert target.dbsize() == 2


def test_what_somebody_else_wrote_there_is_not_taken_for_ours(stores: tuple[Any, Any]) -> None:
    """It is said, and left as it is."""
    source, target = stores
    source.delete("tl:{s0}:op:c0-1")
    target.hset("tl:agents", "a0-9", "{}")
    with pytest.raises(NotCopied, match="tl:agents"):
        pour(source, target)
    assert target.hgetall("tl:agents") == {b"a0-9": b"{}"}
    assert target.dbsize() == 1
