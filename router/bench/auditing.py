"""What `throughline audit` costs a living store: how long it takes, and what everybody else waits meanwhile."""

import asyncio
from collections.abc import Callable

from router.bench.foreground import FOREGROUND_P99_MS, accepting
from router.bench.load import percentile, seed
from router.bench.stage import NotVerified, Row, Spread, Stage

QUIET_S = 2.0


async def audit_rows(stage: Stage, repetitions: int, tell: Callable[[str], None], conversations: int) -> list[Row]:
    """The auditor over so many conversations with a message that waits, again and again, while new ones are accepted.

    Raises:
        NotVerified: it found something in a store that is sound.
    """
    took, waits, quiet, busy = [], [], [], []
    async with stage.part():
        await seed(stage.store, conversations, 1)
        for number in range(repetitions):
            tell(f"audit {number + 1}/{repetitions}")
            quiet += (await accepting(stage, asyncio.sleep(QUIET_S)))[1]
            before = await stage.redis_cpu_s()
            answer, meanwhile = await accepting(stage, stage.contender.ask(do="audit"))
            busy.append((await stage.redis_cpu_s() - before) / answer["took_s"])
            if answer["findings"]:
                raise NotVerified(f"the auditor found something in a sound store: {answer['findings'][0]}")
            took.append(answer["took_s"])
            waits += meanwhile
    slow_ms = percentile(waits, 0.99)
    return [
        Row(
            f"`throughline audit` of {conversations:,} conversations",
            f"{Spread(tuple(took)).show(1)} s",
            f"Redis {Spread(tuple(busy)).median:.0%} busy, those accepts included",
            "",
            "",
        ),
        Row(
            "an accept meanwhile, p99",
            f"{slow_ms:.1f} ms (median {percentile(waits, 0.5):.1f})",
            f"{percentile(quiet, 0.99):.1f} ms without an audit",
            "",
            f"{FOREGROUND_P99_MS:.0f} ms",
            slow_ms <= FOREGROUND_P99_MS,
        ),
    ]
