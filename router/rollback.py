"""Notices a Redis that comes back older than it was, and has everything marked that may have been said already."""

import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import structlog
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
    """Where the positions are kept for the next process; None: nowhere."""
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
            self._remember()
            await self.clock.sleep(LOOK_S)

    async def look(self, shard: int) -> bool:
        """Whether this shard went back; if it did, what may have been said is marked when this returns."""
        prefix = keys.shard(shard)
        if not await self.store.redis.went_back(prefix):
            self.store.redis.trust(prefix)
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
        self.store.redis.trust(prefix)
        log.error("store.marked", shard=shard, flagged=flagged, spools_again=again)
        return True

    def _recall(self) -> None:
        """A whole machine that comes back on older files is noticed, too."""
        if self.remembered is None or not self.remembered.exists():
            return
        try:
            known = json.loads(self.remembered.read_text())
        except ValueError:
            log.warning("rollback.memory_damaged")
            return
        for prefix, position in known.items():
            self.store.redis.positions.setdefault(prefix, position)
        self.store.redis.doubt_all()

    def _remember(self) -> None:
        positions = self.store.redis.positions
        if self.remembered is None or positions == self._saved:
            return
        draft = self.remembered.with_suffix(f".{os.getpid()}.{secrets.token_hex(4)}")
        try:
            draft.write_text(json.dumps(positions))
            draft.replace(self.remembered)
            self._saved = dict(positions)
        except OSError:
            log.exception("rollback.not_remembered")
