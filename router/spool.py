"""What Redis cannot take now: fsynced at the edge in the order it came, taken once Redis is back, kept a while."""

import asyncio
import errno
import fcntl
import json
import os
import secrets
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import structlog

from router.store.redis import StoreUnavailable
from router.telemetry import SPOOLED

T = TypeVar("T")
TRY_S = 1.5
"""How long Redis may take before we believe our own disk instead: Slack wants its answer within 3 s, Twilio in 15 s."""
LOOK_S = 0.5
"""Between two looks at whether Redis is back, and at files that a dead process left."""
COUNT_MAX = 20_000
BYTES_MAX = 64_000_000
"""What one process holds; beyond it we refuse, and the vendor delivers again."""
TOGETHER = 16
"""Keys whose entries are taken at the same time, each key's in its order."""
TRIES_MAX = 3
"""Of an entry that breaks on something else than Redis; then it is put aside for a person."""
KEPT_S = 600.0
"""After it was taken: a Redis that comes back older than it was is told again."""
ASIDE_BYTES_MAX = BYTES_MAX
"""Of what waits for a person; beyond it an entry that nobody can take stays where it is, and holds up its like."""
SUFFIX, TAKEN_SUFFIX, ASIDE = ".spool", ".taken", "aside"
"""`aside` is also the kind of the line that says of an entry, in its own file, that it was put aside."""

log = structlog.get_logger()

Take = Callable[[str, dict[str, Any]], Awaitable[None]]
"""Takes an entry of a kind; twice is as good as once. Raises StoreUnavailable: not now."""


class SpoolFull(Exception):
    """The spool holds all it may; nothing was promised."""


@dataclass(slots=True)
class _File:
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
                _write_all(self.descriptor, b"".join(lines))
                os.fsync(self.descriptor)
            except OSError:
                os.ftruncate(self.descriptor, self.size)
                raise
            self.size = os.fstat(self.descriptor).st_size


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: str
    key: str
    fields: dict[str, Any]
    line: bytes
    file: _File
    """Where it stands."""


@dataclass(slots=True)
class Spool:
    """One process's spool, and whatever dead processes left in the same folder.

    Entries with the same key are taken in the order they came; while one waits, what comes later under its key must
    wait behind it (`holds`). Another process's entries are not seen: what has no place in the order yet has none there.
    """

    folder: Path
    name: str
    away: bool = False
    """Redis did not take something lately: whatever comes is kept at once, so that nobody waits for it in vain."""
    _waiting: dict[str, deque[_Entry]] = field(default_factory=dict)
    _keeping: Counter[str] = field(default_factory=Counter)
    _unwritten: list[tuple[bytes, asyncio.Future[_File]]] = field(default_factory=list)
    _writer: asyncio.Task[None] | None = None
    _files: list[_File] = field(default_factory=list)
    _own: _File | None = None
    _count: int = 0
    _bytes: int = 0
    _late: set[asyncio.Task[Any]] = field(default_factory=set)

    def holds(self, key: str) -> bool:
        """Whether what comes under `key` now must be kept, behind what waits already."""
        return self.away or key in self._waiting or self._keeping[key] > 0

    def find(self, kind: str, name: str, value: str) -> list[dict[str, Any]]:
        """The fields of what waits here with this value; all that wait are looked through."""
        entries = (entry for queue in self._waiting.values() for entry in queue if entry.kind == kind)
        return [entry.fields for entry in entries if entry.fields.get(name) == value]

    @property
    def waiting(self) -> int:
        """Entries that wait to be taken."""
        return self._count

    async def within(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` answers, if Redis lets it in time. What is begun is not broken off.

        Raises:
            StoreUnavailable: Redis did not answer, or not soon enough: the work may still be done.
        """
        task = asyncio.ensure_future(work)
        self._late.add(task)
        task.add_done_callback(self._let_go)
        done, _ = await asyncio.wait({task}, timeout=TRY_S)
        if not done:
            self.away = True
            raise StoreUnavailable(f"Redis took longer than {TRY_S} s")
        try:
            return task.result()
        except StoreUnavailable:
            self.away = True
            raise

    async def keep(self, kind: str, key: str, fields: dict[str, Any]) -> None:
        """Put an entry behind the others of its key; on disk when it returns.

        Raises:
            SpoolFull, OSError: it was not kept.
        """
        # What is on disk must be known here, also where its caller is gone by then.
        await asyncio.shield(asyncio.ensure_future(self._keep(kind, key, fields)))

    async def _keep(self, kind: str, key: str, fields: dict[str, Any]) -> None:
        line = _dump_line(kind, key, fields)
        if self._count >= COUNT_MAX or self._bytes + len(line) > BYTES_MAX:
            raise SpoolFull(f"{self._count} entries wait")
        self._count += 1
        self._bytes += len(line)
        self._keeping[key] += 1
        written: asyncio.Future[_File] = asyncio.get_running_loop().create_future()
        self._unwritten.append((line, written))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        try:
            file = await written
        except OSError:
            self._count -= 1
            self._bytes -= len(line)
            raise
        else:
            self._waiting.setdefault(key, deque()).append(_Entry(kind, key, fields, line, file))
            SPOOLED.labels(kind).inc()
        finally:
            self._keeping -= Counter([key])

    async def run(self, take: Take) -> None:
        """Have taken whatever waits, as soon as Redis takes it, until cancelled."""
        try:
            while True:
                try:
                    await self._adopt()
                    if self._waiting:
                        await self._have_taken(take)
                    elif self.away and not self._keeping:
                        self.away = False  # nothing could be kept: only Redis itself can say whether it is back
                    if not self._waiting and not self._keeping:
                        self._put_away()
                except OSError:  # no file may be opened, or the disk fails: what is promised waits for the next look
                    log.exception("spool.not_looked_at")
                await asyncio.sleep(LOOK_S)
        finally:
            if self._writer is not None:
                await self._writer
            for file in self._files:
                os.close(file.descriptor)  # whoever starts next takes it up
            self._files.clear()
            self._own = None

    def take_again(self) -> int:
        """What was taken in the last ten minutes is to be taken again; how many files that are."""
        again = 0
        for path in sorted(self.folder.glob(f"*{TAKEN_SUFFIX}")):
            try:
                if time.time() - path.stat().st_mtime <= KEPT_S:
                    path.rename(path.with_suffix(SUFFIX))
                    again += 1
            except FileNotFoundError:
                continue  # another process was first
        return again

    # On disk

    async def _write(self) -> None:
        while self._unwritten:
            batch, self._unwritten = self._unwritten, []
            try:
                file = await asyncio.to_thread(self._write_now, [line for line, _ in batch])
            except OSError as error:
                log.exception("spool.not_written")
                self._own = None  # what stands in the file is good; what comes next begins another one
                for _, written in batch:
                    written.set_exception(OSError(error.errno, error.strerror))
                    written.exception()  # retrieved: its caller may be gone
                continue
            for _, written in batch:
                written.set_result(file)
        self._writer = None

    def _write_now(self, lines: list[bytes]) -> _File:
        if self._own is None:
            self._own = self._create()
            self._files.append(self._own)
        self._own.write(lines)
        return self._own

    def _create(self) -> _File:
        """A new file, locked before it has a name that others look for."""
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _sync(self.folder.parent)  # a folder that a power failure takes away takes its files along
        stem = f"{time.time_ns() // 1_000_000:013d}-{self.name}-{os.getpid()}-{secrets.token_hex(4)}"
        draft, path = self.folder / f"{stem}.draft", self.folder / f"{stem}{SUFFIX}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.rename(path)
            _sync(self.folder)
        except OSError:
            os.close(descriptor)
            for name in (draft, path):
                name.unlink(missing_ok=True)  # empty as yet
            raise
        return _File(path, descriptor)

    async def _adopt(self) -> None:
        """Take up what processes left that are gone: their lock went with them."""
        mine = {file.path for file in self._files}
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if path in mine:
                continue
            found = await asyncio.to_thread(_lock_and_read, path)
            if found is None:
                continue
            file, lines = found
            self._files.append(file)
            read = [entry for entry in (_read_line(line, file) for line in lines) if entry is not None]
            if len(read) < len(lines):
                log.error("spool.damaged", file=path.name, lines=len(lines) - len(read))
            entries = _without_aside(read)
            for entry in entries:
                self._waiting.setdefault(entry.key, deque()).append(entry)
                self._count += 1
                self._bytes += len(entry.line)
            log.info("spool.taken_up", file=path.name, entries=len(entries))

    def _put_away(self) -> None:
        """Everything was taken: keep the files for a while, beside those of before, and drop what is too old."""
        self._own = None
        while self._files:
            file = self._files[-1]
            with suppress(FileNotFoundError):  # somebody took it away
                os.utime(file.path)
                file.path.rename(file.path.with_suffix(TAKEN_SUFFIX))
            self._files.pop()  # before the next one may fail: what is closed must not be written to
            os.close(file.descriptor)
            log.info("spool.emptied", file=file.path.name)
        for path in self.folder.glob(f"*{TAKEN_SUFFIX}"):
            try:
                if time.time() - path.stat().st_mtime > KEPT_S:
                    path.unlink()
            except FileNotFoundError:
                continue  # another process was first

    # Into Redis

    async def _have_taken(self, take: Take) -> None:
        """One entry alone, to see whether Redis is back; then all of them."""
        try:
            for key in list(self._waiting)[:TOGETHER]:  # the first may be one that nobody can take or put aside
                if await self._take_first(take, key):
                    break
        except StoreUnavailable:
            return
        self.away = False
        turns = asyncio.Semaphore(TOGETHER)

        async def empty(key: str) -> None:
            async with turns:
                with suppress(StoreUnavailable):
                    while not self.away and key in self._waiting:
                        if not await self._take_first(take, key):
                            return

        await asyncio.gather(*(empty(key) for key in list(self._waiting)))

    async def _take_first(self, take: Take, key: str) -> bool:
        """Whether the first entry of `key` is done with; False: nobody can take it, and it could not be put aside.

        Raises:
            StoreUnavailable: not now.
        """
        queue = self._waiting.get(key)
        if not queue:
            return True
        entry = queue[0]
        for attempt in range(1, TRIES_MAX + 1):
            try:
                await take(entry.kind, entry.fields)
                break
            except (StoreUnavailable, TimeoutError) as error:
                self.away = True
                log.info("spool.waits", waiting=self._count, error=type(error).__name__)
                raise StoreUnavailable(str(error)) from error
            except Exception as error:  # the loop's rim: an entry that nobody can take must not hold up the others
                if attempt == TRIES_MAX:
                    log.exception("spool.put_aside", kind=entry.kind)
                    if not await asyncio.to_thread(_put_aside, self.folder, entry, error):
                        return False
        queue.popleft()
        if not queue:
            del self._waiting[key]
        self._count -= 1
        self._bytes -= len(entry.line)
        return True

    def _let_go(self, task: asyncio.Task[Any]) -> None:
        self._late.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved: after its time was up nobody waits for it


def _lock_and_read(path: Path) -> tuple[_File, list[bytes]] | None:
    """The file, if nobody alive holds it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        content = path.read_bytes()
    except (BlockingIOError, FileNotFoundError):  # alive, or emptied by another process before we locked it
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)  # the lock would keep it from everybody, ourselves too
        raise
    whole, _, _ = content.rpartition(b"\n")  # a torn last line was acknowledged to nobody
    return _File(path, descriptor, len(content)), whole.split(b"\n") if whole else []


def _dump_line(kind: str, key: str, fields: dict[str, Any]) -> bytes:
    text = json.dumps({"kind": kind, "key": key, "fields": fields}, ensure_ascii=False, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _without_aside(entries: list[_Entry]) -> list[_Entry]:
    """What a person was given stays theirs: taken later after all, it would come out of its order, or twice."""
    left: list[_Entry] = []
    for entry in entries:
        if entry.kind != ASIDE:
            left.append(entry)
            continue
        given = next((one for one in left if (one.key, one.fields) == (entry.key, entry.fields)), None)
        if given is not None:
            left.remove(given)
    return left


def _read_line(line: bytes, file: _File) -> _Entry | None:
    check, _, text = line.partition(b" ")
    if check != b"%08x" % zlib.crc32(text):
        return None
    row = json.loads(text)
    return _Entry(row["kind"], row["key"], row["fields"], line, file)


def _write_all(descriptor: int, content: bytes) -> None:
    """A disk with little room takes a part and says so only by how much. Raises OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _put_aside(folder: Path, entry: _Entry, error: Exception) -> bool:
    """Keep for a person what was promised and cannot be taken; False: the disk is full, and it stays where it is."""
    content = json.dumps({"error": repr(error), "at": time.time()}).encode() + b" " + entry.line.rstrip() + b"\n"
    try:
        descriptor = os.open(folder / ASIDE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size + len(content) > ASIDE_BYTES_MAX:
                raise OSError(errno.EFBIG, "nobody has looked at what was put aside")
            if not size:
                _sync(folder)
            try:
                _write_all(descriptor, content)
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
        entry.file.write([_dump_line(ASIDE, entry.key, entry.fields)])
    except OSError:
        log.exception("spool.not_noted", file=entry.file.path.name)  # whoever takes the file up tries it again
    return True


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
