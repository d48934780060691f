"""What Redis cannot take now: fsynced at the edge in the order it came, taken once Redis is back, kept a while."""

import asyncio
import os
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import structlog

from router import spool_files
from router.spool_files import SUFFIX, TAKEN_SUFFIX, Entry, SpoolFile, create_file, dump_line, read_line, without_aside
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

log = structlog.get_logger()

Take = Callable[[str, dict[str, Any]], Awaitable[None]]
"""Takes an entry of a kind; twice is as good as once. Raises StoreUnavailable: not now."""


class SpoolFull(Exception):
    """The spool holds all it may; nothing was promised."""


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
    _waiting: dict[str, deque[Entry]] = field(default_factory=dict)
    _keeping: Counter[str] = field(default_factory=Counter)
    _unwritten: list[tuple[bytes, asyncio.Future[SpoolFile]]] = field(default_factory=list)
    _writer: asyncio.Task[None] | None = None
    _files: list[SpoolFile] = field(default_factory=list)
    _own: SpoolFile | None = None
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
        line = dump_line(kind, key, fields)
        if self._count >= COUNT_MAX or self._bytes + len(line) > BYTES_MAX:
            raise SpoolFull(f"{self._count} entries wait")
        self._count += 1
        self._bytes += len(line)
        self._keeping[key] += 1
        written: asyncio.Future[SpoolFile] = asyncio.get_running_loop().create_future()
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
            self._waiting.setdefault(key, deque()).append(Entry(kind, key, fields, line, file))
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

    def _write_now(self, lines: list[bytes]) -> SpoolFile:
        if self._own is None:
            self._own = create_file(self.folder, self.name)
            self._files.append(self._own)
        self._own.write(lines)
        return self._own

    async def _adopt(self) -> None:
        """Take up what processes left that are gone: their lock went with them.

        All that one of them left goes to one of us: its promises have an order, also over several files.
        """
        mine = {file.path for file in self._files}
        elsewhere: set[str] = set()
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            whose = spool_files.owner_of(path)
            if path in mine or whose in elsewhere:
                continue
            found = await asyncio.to_thread(spool_files.lock_and_read, path)
            if found is None:
                elsewhere.add(whose)
                continue
            file, lines = found
            self._files.append(file)
            read = [entry for entry in (read_line(line, file) for line in lines) if entry is not None]
            if len(read) < len(lines):
                log.error("spool.damaged", file=path.name, lines=len(lines) - len(read))
            entries = without_aside(read)
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
                    if not await asyncio.to_thread(spool_files.put_aside, self.folder, entry, error):
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
