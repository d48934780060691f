"""Copies of a whole Redis: taken as a replica takes one, poured into an empty one key by key."""

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import redis
from redis.exceptions import ResponseError

from router.private_redis import PrivateRedis

CHUNK = 1 << 20
PAGE = 500
"""Keys poured in one round trip."""
HEADER_MAX = 200
LOAD_WITHIN_S = 600.0
"""How long the server beside us may take to read a copy: some hundred gigabytes."""
OURS = "tl:"
MOMENTARY = re.compile(
    r"tl:(\{h\}:(lease|beats|freeze)$"  # the one supervisor, and who works: they are others now
    r"|\{s\d+\}:(last:|trial:|ca:|gate$|frozen$)"  # answers asked for again, canaries, gates that lapse in a minute
    r"|\{s\d+\}:aw:"  # receipts that came since will not come again: their absence proves nothing
    r"|canar|job:.*:held$"
    r"|\{keys\}:session:)"  # a key may have been revoked since, and its sessions with it
)
FOREIGN = "DUMP payload version"
BESIDE = b"|again"
"""The end of the name under which a value is put down for a moment, beside the one it is compared with."""
BESIDE_LIFE_MS = 60_000
OUTBOX_NUMBER = re.compile(r"tl:\{e:.*\}:n$")
OUTBOX_LEAP = 1_000_000
"""Added to the numbers of chat outboxes: a page that has seen later ones shows what comes now all the same."""


class NotCopied(Exception):
    """A copy could not be taken or poured; the text says why and what to do."""


def copy_server(server: "redis.Redis", to: BinaryIO) -> int:
    """Write all a server holds, as of one moment, as an RDB file; how many bytes.

    It is what a replica is sent (SYNC): the server forks, writes a file beside its own, and goes on answering.

    Raises:
        NotCopied: the server does not let this user do it, or broke off.
        redis.RedisError: it does not answer.
    """
    pool: Any = server.connection_pool
    connection = pool.get_connection()
    try:
        connection.send_command("REPLCONF", "rdb-only", "1")
        with suppress(ResponseError):  # an older one sends what is written meanwhile, too; we do not read so far
            connection.read_response()
        connection.send_command("SYNC")
        # redis-py has no word for this answer: from here on we read what the server writes ourselves.
        return _receive(connection._sock, to)
    except OSError as error:
        raise NotCopied(f"Redis broke off while it was copied: {error}. Try again.") from error
    finally:
        connection.disconnect()
        pool.release(connection)


def open_copy(folder: Path) -> PrivateRedis:
    """A Redis that holds what `folder/dump.rdb` says, and keeps nothing; its caller stops it.

    Raises:
        NotCopied: it is damaged, or of a Redis newer than the one on this machine.
        NoRedisFound: there is none on this machine.
    """
    server = PrivateRedis(folder, durable=False, start_within_s=LOAD_WITHIN_S)
    try:
        server.start()
    except RuntimeError as error:
        server.stop()
        raise NotCopied(f"The copy cannot be read by {server.binary}: {error}") from error
    return server


def is_empty(servers: list["redis.Redis"]) -> bool:
    """Whether no server holds a key. Raises `redis.RedisError`."""
    return not any(server.dbsize() for server in servers)


def pour(source: "redis.Redis", target: Any) -> int:
    """Put every lasting key of ours in `source` into `target`, which holds none of them; how many.

    Raises:
        NotCopied: somebody else writes there, or it does not take a key.
        redis.RedisError: one of them does not answer.
    """
    count = 0
    for page in _pages(source):
        batch = source.pipeline(transaction=False)
        for key in page:
            batch.dump(key)
            batch.pttl(key)
        found = batch.execute()
        into = target.pipeline(transaction=False)
        sent: list[tuple[bytes, bytes]] = []
        for key, payload, life_ms in zip(page, found[::2], found[1::2], strict=True):
            if payload is not None:
                # -1: it lives on. 0: it ends in this very millisecond, and must not live for ever instead.
                into.execute_command("RESTORE", key, 0 if life_ms < 0 else max(1, life_ms), payload)
                sent.append((key, payload))
        answers = into.execute(raise_on_error=False)
        for (key, payload), answer in zip(sent, answers, strict=True):
            if isinstance(answer, Exception) and FOREIGN in str(answer):
                _write_out(source, target, key)
            elif isinstance(answer, Exception) and not _is_again(target, key, payload, answer):
                raise NotCopied(f"The store did not take {key.decode(errors='replace')}: {answer}.")
        for (key, _), answer in zip(sent, answers, strict=True):
            if OUTBOX_NUMBER.match(key.decode(errors="replace")) and not _is_busy(answer):
                target.incrby(key, OUTBOX_LEAP)
        count += len(sent)
    return count


def _pages(source: "redis.Redis") -> Iterator[list[bytes]]:
    cursor: Any = 0
    while True:
        answer: Any = source.scan(cursor, match=f"{OURS}*", count=PAGE)
        cursor, found = answer
        page = [key for key in dict.fromkeys(found) if not MOMENTARY.match(key.decode(errors="replace"))]
        if page:
            yield page
        if int(cursor) == 0:
            return


def _is_again(target: Any, key: bytes, payload: bytes, error: Exception) -> bool:
    """A walk may meet a key twice: then it is there already, as it should be, or has leapt."""
    if not _is_busy(error):
        return False
    if OUTBOX_NUMBER.match(key.decode(errors="replace")) is not None:
        return True
    # Another server writes the same value in another order, or in the format of its own version: let one write both.
    beside = key + BESIDE
    target.restore(beside, BESIDE_LIFE_MS, payload, replace=True)
    try:
        return bool(target.dump(key) == target.dump(beside))
    finally:
        target.delete(beside)


def _is_busy(answer: object) -> bool:
    return isinstance(answer, Exception) and "BUSYKEY" in str(answer)


def _write_out(source: Any, target: Any, key: bytes) -> None:
    """The same, command by command: an older server does not take a newer one's own form."""
    match source.type(key).decode():
        case "string":
            target.set(key, source.get(key))
        case "hash":
            for part in _parts(list(source.hgetall(key).items())):
                target.hset(key, mapping=dict(part))
        case "list":
            for start in range(0, source.llen(key), PAGE):
                target.rpush(key, *source.lrange(key, start, start + PAGE - 1))
        case "set":
            for part in _parts(list(source.smembers(key))):
                target.sadd(key, *part)
        case "zset":
            for part in _parts(source.zrange(key, 0, -1, withscores=True)):
                target.zadd(key, dict(part))
        case "stream":
            _write_stream(source, target, key)
        case kind:
            raise NotCopied(f"{key.decode(errors='replace')} is a {kind}, which we never write.")
    life_ms = source.pttl(key)
    if life_ms >= 0:
        target.pexpire(key, max(1, life_ms))


def _write_stream(source: Any, target: Any, key: bytes) -> None:
    after = b"-"
    while page := source.xrange(key, after, "+", count=PAGE):
        for identity, fields in page:
            target.xadd(key, fields, id=identity)
        after = b"(" + page[-1][0]


def _parts(rows: list[Any]) -> Iterator[list[Any]]:
    return (rows[start : start + PAGE] for start in range(0, len(rows), PAGE))


def _receive(wire: socket.socket, to: BinaryIO) -> int:
    head = b""
    while not head.endswith(b"\n") or head == b"\n":
        if head == b"\n":  # the server says that it still works on it
            head = b""
        byte = wire.recv(1)
        if not byte or len(head) > HEADER_MAX:
            raise NotCopied("Redis broke off before it was copied. Look into its log.")
        head += byte
    words = head.decode(errors="replace").strip()
    if not words.startswith("$") or not words[1:].isdecimal():
        raise NotCopied(
            f"Redis does not let itself be copied: {words.lstrip('-')}. Its user needs the command SYNC; a Redis that "
            "somebody else runs for you has backups of its own."
        )
    size = left = int(words[1:])
    while left:
        chunk = wire.recv(min(CHUNK, left))
        if not chunk:
            raise NotCopied(f"Redis broke off {left} bytes before the end of the copy. Try again.")
        to.write(chunk)
        left -= len(chunk)
    return size
