"""What a chaos run must end with: nothing lost, nothing doubled unflagged, nothing out of order, all of it soon."""

import asyncio
import time
from collections import Counter

import aiohttp

from router.audit.auditor import audit
from router.demo.judge import Marker, judge
from router.demo.people import PeopleStopped
from router.runtime import load_wording, open_runtime
from tests.chaos.load import heard
from tests.chaos.world import World

DRAIN_S = 30.0
"""Within which everything that was acknowledged must have arrived once the last fault is over."""
LEASE_S = 80.0
"""A mail's attempt is given that long (73 s) where nobody recorded what came of it, because a disk lost the record."""


def missing(world: World) -> set[Marker]:
    """Answers that were acknowledged, are not here, and were acknowledged in no time that a disk lost."""
    gone = world.acknowledged.keys() - world.ledger.answered()
    return {marker for marker in gone if not world.in_a_gap(world.acknowledged[marker][0])}


def unheard(world: World, taken: set[Marker]) -> set[Marker]:
    """Questions that stand in no transcript, and were taken in no time that a disk lost."""
    return {marker for marker in world.asked.keys() - taken if not world.in_a_gap(world.asked[marker])}


def allowed_s(world: World) -> float:
    """What the drain may take from now on."""
    return max(DRAIN_S, *(gap.until + LEASE_S - time.time() for gap in world.gaps), 0.0)


async def drained(world: World, allowed: float) -> float:
    """Seconds until every acknowledged word has arrived, both ways; at most half a minute more than is allowed."""
    begun = time.monotonic()
    while time.monotonic() - begun < allowed + DRAIN_S:
        if not missing(world):
            try:
                if not unheard(world, {marker for _, marker in await heard(world)}):
                    break
            except (PeopleStopped, aiohttp.ClientError, TimeoutError):
                pass  # not back yet
        await asyncio.sleep(0.5)
    return time.monotonic() - begun


async def verdict(world: World, took_s: float, allowed: float) -> list[str]:
    """What must not be, in words."""
    world.ledger.asked = world.acknowledged  # it counts questions, too; those are judged by the transcripts
    found = judge(world.ledger, (), load_wording(world.settings))
    times = Counter(marker for _, marker in await heard(world))
    lost, unread = sorted(missing(world)), sorted(unheard(world, set(times)))
    world.say(
        f"{found.asked} messages acknowledged ({len(world.spooled)} by the spool), {found.answered} arrived, "
        f"{found.doubled_flagged} doubled and flagged; {len(world.asked)} questions, {len(times)} taken; "
        f"drained in {took_s:.1f} s; not acknowledged at once: {dict(world.refused)}"
    )
    if world.gaps:
        gone = len(world.acknowledged.keys() - world.ledger.answered()) - len(lost)
        asked = len(world.asked.keys() - times.keys()) - len(unread)
        length = sum(gap.until - gap.since for gap in world.gaps)
        world.say(f"Of {length:.1f} s that a disk lost: {gone} answers and {asked} questions are gone with it")
    faults = {
        "acknowledged and lost": lost,
        "doubled without a flag": found.doubled,
        "out of order": found.reordered,
        "at somebody else's address": [one for one in found.strange if " came to customer " in one],
        "questions lost": unread,
        "questions taken twice": sorted(marker for marker, count in times.items() if count > 1),
        "found by throughline audit": await _audit(world),
    }
    wrong = [f"{words}: {len(rows)}: {list(rows)[:8]}" for words, rows in faults.items() if rows]
    late = [f"drained in {took_s:.1f} s, allowed are {allowed:.0f}"] if took_s > allowed else []
    return world.wrong + wrong + late


async def _audit(world: World) -> list[str]:
    """What the product's own auditor finds, while everything still runs."""
    async with open_runtime(world.settings, "cli") as runtime:
        core = runtime.core
        found = await audit(core.store, core.control, core.board, core.files, now=core.clock.now())
        return [str(one) for one in found]
