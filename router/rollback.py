"""Notices a Redis that comes back older than it was, and has everything marked that may have been said already."""

import asyncio
import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog
from pydantic import TypeAdapter, ValidationError
from redis.exceptions import RedisError

from channels.tools import Clock
from router.spool import Spool
from router.store import keys
from router.store.going_back import write_went_back
from router.store.store import Store

LOOK_S = 1.0
AGAIN_S = 3.0
"""After which whoever noticed has taken its spool again: it may hold what was said in the time that is lost."""
PAGE = 500
INDEXES = ("open", "closed", "hidden")
POSITION_FILE: Final = "journal.position"
"""In `data_dir`: where the supervisor of a machine remembers for all its processes how far the journals were."""
_POSITIONS: TypeAdapter[dict[str, str]] = TypeAdapter(dict[str, str])

log = structlog.get_logger()


async def flag_shard(store: Store, shard: int) -> int:
    """Mark whatever waits in a shard as a possible repeat; how many messages."""
    flagged = 0
    for index in INDEXES:
        cursor = "0"
        while True:
            cursor, conversations = await store.walk(shard, index, cursor, PAGE)
            flagged += await store.doubt(shard, conversations)
            if cursor == "0":
                break
    return flagged


@dataclass(slots=True)
class RollbackWatch:
    """One process's look at whether the journal still holds the last entry that this process has seen.

    Redis answers nobody before a write is on disk, so that entry is gone only if Redis itself went back: an older
    append-only file, a replica promoted before it had everything. Until what waits is marked, this process leases
    nothing (see `Pipelined.run`). What others wrote and this process never heard of can be lost unnoticed by it.
    """

    store: Store
    clock: Clock
    spool: Spool | None = None
    remembered: Path | None = None
    """Where the positions are kept for the next processes of this machine; None: nowhere."""
    remembers: bool = False
    """Whether this process writes them there."""
    _saved: dict[str, str] = field(default_factory=dict)

    async def run(self) -> None:
        """Look once a second until cancelled."""
        self._recall()
        while True:
            try:
                for shard in range(self.store.shards):
                    await self.look(shard)
            except RedisError as error:
                log.info("rollback.not_looked", error=type(error).__name__)
            if self.remembers:
                await asyncio.to_thread(self._remember)
            await self.clock.sleep(LOOK_S)

    async def look(self, shard: int) -> bool:
        """Whether this shard went back; if it did, what may have been said is marked when this returns."""
        prefix = keys.shard(shard)
        doubts = self.store.redis.doubts
        if not await self.store.redis.went_back(prefix):
            self.store.redis.trust(prefix, doubts)
            return False
        lost = self.store.redis.positions[prefix]
        log.error("store.went_back", shard=shard, last_seen=lost)
        flagged = await flag_shard(self.store, shard)
        again = self.spool.take_again() if self.spool is not None else 0
        await self.clock.sleep(AGAIN_S)
        flagged += await flag_shard(self.store, shard)
        facts = {"last_seen": lost, "flagged": flagged, "spools_again": again}
        await self.store.note(shard, "store.went_back", facts)
        await write_went_back(self.store.redis, self.clock.now(), flagged)
        self.store.redis.positions.pop(prefix, None)
        self.store.redis.trust(prefix, self.store.redis.doubts)
        log.error("store.marked", shard=shard, flagged=flagged, spools_again=again)
        return True

    def _recall(self) -> None:
        """A whole machine that comes back on older files is noticed, too."""
        if self.remembered is None:
            return
        try:
            known = _POSITIONS.validate_json(self.remembered.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValidationError):
            log.exception("rollback.memory_damaged")
            return
        for prefix, position in known.items():
            self.store.redis.positions.setdefault(prefix, position)
        self.store.redis.doubt_all()

    def _remember(self) -> None:
        """On disk when it returns, whole in any case: it is for whoever starts after a power failure."""
        positions = dict(self.store.redis.positions)
        if self.remembered is None or positions == self._saved:
            return
        draft = self.remembered.with_suffix(f".{os.getpid()}.draft")
        try:
            with draft.open("w") as file:
                file.write(json.dumps(positions))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.remembered)
            self._saved = positions
        except OSError:
            log.exception("rollback.not_remembered")
            with suppress(OSError):
                draft.unlink(missing_ok=True)  # half a file must not fill a disk that is full
