"""The spool's files: lines that are whole or not there, locked while their process lives, and what is put aside."""

import errno
import fcntl
import json
import os
import secrets
import threading
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

ASIDE_BYTES_MAX = 64_000_000
"""Of what waits for a person; beyond it an entry that nobody can take stays where it is, and holds up its like."""
SUFFIX, TAKEN_SUFFIX, ASIDE = ".spool", ".taken", "aside"
"""`aside` is also the kind of the line that says of an entry, in its own file, that it was put aside."""

log = structlog.get_logger()


@dataclass(slots=True)
class SpoolFile:
    """A file that this process has locked."""

    path: Path
    descriptor: int
    size: int = 0
    _turn: threading.Lock = field(default_factory=threading.Lock)
    """One writer cuts off what it could not write whole: nobody else's line may stand behind it."""

    def write(self, lines: list[bytes]) -> None:
        """Add lines; on disk when it returns. Raises OSError: none of them is there."""
        with self._turn:
            try:
                write_all(self.descriptor, b"".join(lines))
                os.fsync(self.descriptor)
            except OSError:
                os.ftruncate(self.descriptor, self.size)
                raise
            self.size = os.fstat(self.descriptor).st_size


@dataclass(frozen=True, slots=True)
class Entry:
    """What was promised, and the line that says so."""

    kind: str
    key: str
    fields: dict[str, Any]
    line: bytes
    file: SpoolFile
    """Where it stands."""


def create_file(folder: Path, name: str) -> SpoolFile:
    """A new file, locked before it has a name that others look for. Raises OSError: there is none."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        sync(folder.parent)  # a folder that a power failure takes away takes its files along
    stem = f"{time.time_ns() // 1_000_000:013d}-{name}-{os.getpid()}-{secrets.token_hex(4)}"
    draft, path = folder / f"{stem}.draft", folder / f"{stem}{SUFFIX}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        draft.rename(path)
        sync(folder)
    except OSError:
        os.close(descriptor)
        for half in (draft, path):
            half.unlink(missing_ok=True)  # empty as yet
        raise
    return SpoolFile(path, descriptor)


def owner_of(path: Path) -> str:
    """The process that made a file, by the name it gave it: between its time and its random part."""
    return path.stem.partition("-")[2].rpartition("-")[0]


def lock_and_read(path: Path) -> tuple[SpoolFile, list[bytes]] | None:
    """The file and its lines, if nobody alive holds it. Raises OSError: it cannot be read now."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):  # a torn last line was acknowledged to nobody, and must not run into the next one
            os.ftruncate(descriptor, end)
    except (BlockingIOError, FileNotFoundError):  # alive, or emptied by another process before we locked it
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)  # the lock would keep it from everybody, ourselves too
        raise
    return SpoolFile(path, descriptor, end), content[:end].split(b"\n")[:-1]


def dump_line(kind: str, key: str, fields: dict[str, Any]) -> bytes:
    """One line: a checksum, and what it is of."""
    text = json.dumps({"kind": kind, "key": key, "fields": fields}, ensure_ascii=False, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def without_aside(entries: list[Entry]) -> list[Entry]:
    """What a person was given stays theirs: taken later after all, it would come out of its order, or twice."""
    left: list[Entry] = []
    for entry in entries:
        if entry.kind != ASIDE:
            left.append(entry)
            continue
        given = next((one for one in left if (one.key, one.fields) == (entry.key, entry.fields)), None)
        if given is not None:
            left.remove(given)
    return left


def read_line(line: bytes, file: SpoolFile) -> Entry | None:
    """What `dump_line` wrote; None: the line is damaged."""
    check, _, text = line.partition(b" ")
    if check != b"%08x" % zlib.crc32(text):
        return None
    row = json.loads(text)
    return Entry(row["kind"], row["key"], row["fields"], line, file)


def write_all(descriptor: int, content: bytes) -> None:
    """A disk with little room takes a part and says so only by how much. Raises OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def put_aside(folder: Path, entry: Entry, error: Exception) -> bool:
    """Keep for a person what was promised and cannot be taken; False: the disk is full, and it stays where it is."""
    content = json.dumps({"error": repr(error), "at": time.time()}).encode() + b" " + entry.line.rstrip() + b"\n"
    try:
        descriptor = os.open(folder / ASIDE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # what is cut off or erased there must be nobody else's
            size = os.fstat(descriptor).st_size
            if size + len(content) > ASIDE_BYTES_MAX:
                raise OSError(errno.EFBIG, "nobody has looked at what was put aside")
            if not size:
                sync(folder)
            try:
                write_all(descriptor, content)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
    except OSError:
        log.exception("spool.not_put_aside")
        return False
    try:
        entry.file.write([dump_line(ASIDE, entry.key, entry.fields)])
    except OSError:
        log.exception("spool.not_noted", file=entry.file.path.name)  # whoever takes the file up tries it again
    return True


def sync(folder: Path) -> None:
    """The names in it are on disk when it returns."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
