"""A power failure in the middle of a script's writes: all of them are there afterwards, or none, for ever."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from router.append_only import EXEC, MULTI, cut_unfinished, find_append_only
from router.private_redis import PrivateRedis

SET = b"*3\r\n$3\r\nSET\r\n$1\r\n%b\r\n$%d\r\n%b\r\n"
TWO = "redis.call('SET', KEYS[1], ARGV[1]) redis.call('SET', KEYS[2], ARGV[1])"


def put(key: bytes, value: bytes) -> bytes:
    return SET % (key, len(value), value)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PrivateRedis]:
    one = PrivateRedis(tmp_path / "redis")
    yield one
    one.stop()


def crash(server: PrivateRedis) -> Path:
    """Without a word; the file it wrote to."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    file = find_append_only(server.folder)
    assert file is not None
    return file


@pytest.mark.parametrize("missing", [1, 5, len(EXEC) + 10])
def test_half_a_script_never_comes_back(server: PrivateRedis, missing: int) -> None:
    """Nor does what was acknowledged after it become a part of it."""
    server.start()
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        client.set("before", "1")
        client.eval(TWO, 2, "one", "two", "x" * 50)
    file = crash(server)
    os.truncate(file, file.stat().st_size - missing)
    for number in range(3):
        server.start()
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            assert client.mget("before", "one", "two") == ["1", None, None]
            assert client.mget(*(f"after{n}" for n in range(number + 1))) == ["1"] * number + [None]
            client.set(f"after{number}", "1")
        crash(server)


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (put(b"a", b"1"), None),
        (put(b"a", b"1") + MULTI + put(b"b", b"1") + EXEC, None),
        (put(b"a", b"1") + MULTI + put(b"b", b"1") + EXEC + put(b"c", b"1")[:-4], None),
        (put(b"a", b"1") + MULTI + put(b"b", b"1"), put(b"a", b"1")),
        (put(b"a", b"1") + MULTI, put(b"a", b"1")),
        (put(b"a", b"1") + MULTI + put(b"b", b"1") + EXEC[:-1], put(b"a", b"1")),
        (put(b"a", b"1") + MULTI + put(b"b", b"1")[:7], put(b"a", b"1")),
        (put(b"a", MULTI + b"is what somebody wrote") + put(b"b", b"1"), None),
        (put(b"a", b"1") + MULTI + put(b"b", EXEC) + put(b"c", MULTI + b"!"), put(b"a", b"1")),
        (b"", None),
    ],
)
def test_only_a_transaction_without_its_end_is_cut_off(tmp_path: Path, content: bytes, kept: bytes | None) -> None:
    """A torn command alone is Redis' own affair; what stands in a value is none."""
    file = tmp_path / "appendonly.aof"
    file.write_bytes(content)
    expected = content if kept is None else kept
    assert cut_unfinished(file) == len(content) - len(expected)
    assert file.read_bytes() == expected
