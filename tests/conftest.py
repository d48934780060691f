"""A real Redis for each test process, empty for each test."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from router.private_redis import PrivateRedis
from router.store.connecting import open_primaries
from tests.topologies import Server, make_security, run_cluster, run_single, run_watched

TOPOLOGY = os.environ.get("TEST_REDIS_TOPOLOGY", "single")
"""`single`, `cluster` or `sentinel`: what the suite's Redis is made of."""
SECURED = os.environ.get("TEST_REDIS_SECURED", "")
"""Over TLS, as this user of deploy/redis; empty: without."""


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
def made_store(request: pytest.FixtureRequest) -> Iterator[tuple[str, list[Server]]]:
    """Where the suite's store is, of whatever it is made, and the servers that refuse what a user may not."""
    if TOPOLOGY == "single" and not SECURED:
        yield request.getfixturevalue("redis_server").url, []
        return
    with tempfile.TemporaryDirectory(prefix="tl-") as folder, ExitStack() as stack:
        run: Any = {"single": run_single, "cluster": run_cluster, "sentinel": run_watched}[TOPOLOGY]
        security = make_security(Path(folder), SECURED) if SECURED else None
        made = stack.enter_context(run(Path(folder), chosen_binary(), security=security))
        yield made.url, made.holders


@pytest.fixture(scope="session")
def store_url(made_store: tuple[str, list[Server]]) -> str:
    """Where the suite's store is."""
    return made_store[0]


@pytest.fixture
def redis_url(made_store: tuple[str, list[Server]]) -> Iterator[str]:
    """The URL of an empty store. Whatever its user was refused fails the test."""
    url, holders = made_store
    if not SECURED:
        with open_primaries(url) as servers:
            for server in servers:
                server.flushall()
        yield url
        return
    for one in holders:
        with one.client as client:
            client.flushall()
            client.acl_log_reset()
    yield url
    for one in holders:
        with one.client as client:
            refused = [(row["reason"], row["object"], row["client-info"]["cmd"]) for row in client.acl_log()]
        # `doctor` asks for it, and says what it could not look at.
        assert not [one for one in refused if one[1] != "config|get"], refused
