"""Walks every conversation, 1 % a second, and puts back what stands where nobody would look; each repair is a bug."""

from dataclasses import dataclass, field

import structlog
from redis.exceptions import RedisError

from channels.tools import Clock
from router.store.redis import StoreUnavailable
from router.store.store import Store

STEP_S = 0.25
ROUND_S = 100.0
"""How long one walk over everything takes: 1 % a second."""
STEP_MIN = 10
STEP_MAX = 500
"""Conversations looked at in one step: 2,000 a second, whatever there is. Beyond 200,000 a round takes longer."""
AFTER_FAULT_S = 5.0
INDEXES = ("open", "closed", "hidden")

log = structlog.get_logger()


@dataclass(slots=True)
class Reconciler:
    """The walk over one deployment's conversations."""

    store: Store
    clock: Clock
    _at: dict[int, tuple[int, str]] = field(default_factory=dict)
    """Of each shard: the index it is in, and where."""

    async def run(self) -> None:
        """Walk until cancelled; what Redis refuses is logged and tried again."""
        while True:
            pause = STEP_S
            try:
                await self.step()
            except StoreUnavailable as error:
                log.info("reconciler.waited", error=str(error))
                pause = AFTER_FAULT_S
            except RedisError:
                # A record that a script stumbles over: the walk goes on behind it, and says so.
                log.exception("reconciler.stumbled")
                pause = AFTER_FAULT_S
            await self.clock.sleep(pause)

    async def step(self) -> int:
        """Look at the next conversations of every shard; how many sides were mended."""
        return sum([await self._step(shard) for shard in range(self.store.shards)])

    async def _step(self, shard: int) -> int:
        total = sum([await self.store.count(shard, index) for index in INDEXES])
        left = max(STEP_MIN, min(STEP_MAX, round(total * STEP_S / ROUND_S)))
        mended = 0
        while left > 0:
            number, cursor = self._at.get(shard, (0, "0"))
            cursor, conversations = await self.store.walk(shard, INDEXES[number], cursor, left)
            # Before the look: a page that a script stumbles over must not hold up the others for ever.
            self._at[shard] = (number, cursor) if cursor != "0" else ((number + 1) % len(INDEXES), "0")
            left -= max(1, len(conversations))
            mended += await self._mend(shard, conversations)
            if cursor == "0" and number == len(INDEXES) - 1:
                break  # a round is over; the next begins with the next step
        return mended

    async def _mend(self, shard: int, conversations: list[str]) -> int:
        repairs = await self.store.reconcile(shard, conversations) if conversations else []
        for conversation, side, words in repairs:
            log.error("repair.made", conversation=conversation, side=side, words=words)
        return len(repairs)
