"""The end of Redis' append-only file, cut back to before a transaction that was not written whole."""

import os
from enum import Enum
from pathlib import Path

TAIL_BYTES = 64_000_000
"""What is looked at: far more than one script writes."""
LINE_MAX = 24
"""Of a line that says how many or how long."""
MULTI, EXEC = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"


class _Ending(Enum):
    OPEN = "the file ends before the transaction does"
    CLOSED = "it ends in the file"
    NONE = "no transaction begins here: these bytes are part of a value"


def find_append_only(folder: Path) -> Path | None:
    """The file that a server on this folder writes to; None: there is none yet.

    Redis 7 keeps a folder of files (Multi Part AOF), Redis 6 one.
    """
    many = sorted(folder.glob("appendonlydir/*.incr.aof"), key=lambda path: path.stat().st_mtime)
    if many:
        return many[-1]
    single = folder / "appendonly.aof"
    return single if single.exists() else None


def cut_unfinished(file: Path) -> int:
    """Cut off a transaction whose end is missing, as after a power failure; how many bytes that were.

    Nobody was told of it. Redis ignores it, too, but cuts off only its last command (`aof-load-truncated`) and then
    writes on behind an open MULTI: at the next start, whatever came up to the next EXEC would belong to it, and half
    of it be there again. Valkey mended that in its pull request 4342. To be called while no server runs.

    Raises:
        OSError: the file cannot be read or cut.
    """
    with file.open("r+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        start = stream.seek(max(0, size - TAIL_BYTES))
        tail = stream.read()
        at = tail.rfind(MULTI)
        while at >= 0 and (ending := _follow(tail, at)) is _Ending.NONE:
            at = tail.rfind(MULTI, 0, at)
        if at < 0 or ending is _Ending.CLOSED:
            return 0
        stream.truncate(start + at)
        os.fsync(stream.fileno())
    return size - start - at


def _follow(tail: bytes, at: int) -> _Ending:
    """Go from one command to the next (RESP arrays of strings) until the transaction or the file ends."""
    parts = 0
    while at < len(tail):
        if not parts and tail.startswith(EXEC, at):
            return _Ending.CLOSED
        end = tail.find(b"\r\n", at, at + LINE_MAX)
        if end < 0:
            return _Ending.OPEN if len(tail) - at < LINE_MAX else _Ending.NONE
        mark, number = tail[at : at + 1], tail[at + 1 : end]
        if mark != (b"$" if parts else b"*") or not number.isdigit():
            return _Ending.NONE
        if parts:
            parts, at = parts - 1, end + 2 + int(number) + 2
        else:
            parts, at = int(number), end + 2
    return _Ending.OPEN
