"""A real Redis for each test process, empty for each test."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from router.private_redis import PrivateRedis
from router.store.connecting import open_primaries
from tests.topologies import run_cluster, run_watched

TOPOLOGY = os.environ.get("TEST_REDIS_TOPOLOGY", "single")
"""`single`, `cluster` or `sentinel`: what the suite's Redis is made of."""


def chosen_binary() -> Path | None:
    """The suite runs on any server binary: the bundled one, Valkey."""
    chosen = os.environ.get("TEST_REDIS_SERVER")
    return Path(chosen) if chosen else None


@pytest.fixture(scope="session")
def redis_server() -> Iterator[PrivateRedis]:
    """One server a test process, on a socket of its own, without persistence."""
    with tempfile.TemporaryDirectory(prefix="tl-") as folder:
        server = PrivateRedis(Path(folder), durable=False, binary=chosen_binary())
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def store_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the suite's store is, of whatever it is made."""
    if TOPOLOGY == "single":
        yield request.getfixturevalue("redis_server").url
        return
    with tempfile.TemporaryDirectory(prefix="tl-") as folder, ExitStack() as stack:
        run = {"cluster": run_cluster, "sentinel": run_watched}[TOPOLOGY]
        yield stack.enter_context(run(Path(folder), chosen_binary())).url


@pytest.fixture
def redis_url(store_url: str) -> str:
    """The URL of an empty store."""
    with open_primaries(store_url) as servers:
        for server in servers:
            server.flushall()
    return store_url
