"""One connection to the test process's own Redis, for the simulation alone."""

from collections.abc import Iterator

import pytest
import redis

from router.private_redis import PrivateRedis


@pytest.fixture(scope="session")
def simulated(redis_server: PrivateRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url, decode_responses=True, protocol=2) as client:
        yield client
