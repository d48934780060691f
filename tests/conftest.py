"""A real Redis for each test process, empty for each test."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from router.private_redis import PrivateRedis


@pytest.fixture(scope="session")
def redis_server() -> Iterator[PrivateRedis]:
    """One server a test process, on a socket of its own, without persistence."""
    with tempfile.TemporaryDirectory(prefix="tl-") as folder:
        chosen = os.environ.get("TEST_REDIS_SERVER")  # the suite runs on any server binary: the bundled one, Valkey
        server = PrivateRedis(Path(folder), durable=False, binary=Path(chosen) if chosen else None)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def redis_url(redis_server: PrivateRedis) -> str:
    """The URL of an empty Redis."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url
