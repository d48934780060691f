"""The rows of the speed bench, each a ratio of this run: what the router reaches beside what it is compared with."""

import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from channels.messages import Address, Channel
from router.bench.celery_fallback import Workers, workers
from router.bench.contender import ACCOUNT, AUTH_TOKEN, OUR_NUMBER, PUBLIC_URL, paced
from router.bench.foreground import FOREGROUND_P99_MS, accepting
from router.bench.load import BODY_BYTES, HERE, THERE, accept_one, body, percentile, phone, seed
from router.bench.scripts import run_scripts
from router.bench.stage import NotVerified, Row, Spread, Stage, ratios
from router.bench.webhooks import post_webhooks, sign_webhooks
from router.domain.conversation import Binding, Customer
from router.domain.ids import new_id
from router.private_redis import PrivateRedis
from router.store.control import Control

LOAD_SHARE = 0.30
"""Of what the routed row reached: the load at which latency is added up."""
GROWTH_SENT = 1_000
JOURNAL_KEY = "tl:{s0}:jr"
PLANNED_MAX = 1_000
ADDED_MS = 1.5
MEMORY_BYTES = 1_536
SYNCS = 50


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    repetitions: int
    conversations: int
    each: int
    """Messages a conversation."""
    celery: int
    ingest: int
    customers: int
    storm: int
    paced_s: float
    growth: tuple[int, ...]
    processes: tuple[int, ...]
    audited: int
    """Conversations."""


FULL = Sizes(5, 600, 5, 1_000, 2_000, 500, 10_000, 3.0, (1_000, 10_000, 100_000), (1, 2, 4), 10_000)
"""Under eight minutes on two cores."""
QUICK = Sizes(3, 200, 3, 300, 500, 100, 2_000, 1.0, (1_000,), (1, 2), 1_000)

Tell = Callable[[str], None]
T = TypeVar("T")


async def routed_rows(stage: Stage, sizes: Sizes, tell: Tell) -> tuple[list[Row], float]:
    """Rows 1 and 2, interleaved: bare client, dispatcher, Celery. Also the messages a second the dispatcher reached."""
    total = sizes.conversations * sizes.each
    bare, routed, celery = [], [], []
    bare_us, routed_us, redis_us = [], [], []
    async with stage.part(), _celery(stage) as crew:
        for number in range(sizes.repetitions):
            tell(f"routed {number + 1}/{sizes.repetitions}")
            answer = await stage.contender.ask(do="bare", conversations=sizes.conversations, each=sizes.each)
            await stage.check(sizes.conversations, sizes.each, ordered=False)
            bare.append(total / answer["took_s"])
            bare_us.append(answer["cpu_s"] / total * 1e6)
            await seed(stage.store, sizes.conversations, sizes.each)
            before = await stage.redis_cpu_s()
            answer = await stage.contender.ask(do="routed", endpoint=HERE)
            redis_us.append((await stage.redis_cpu_s() - before) / total * 1e6)
            await stage.check(sizes.conversations, sizes.each)
            routed.append(total / answer["took_s"])
            routed_us.append(answer["cpu_s"] / total * 1e6)
            celery.append(await _celery_rate(stage, crew, sizes.celery))
    costs = f"{Spread(tuple(routed_us)).median:.0f} us CPU a message, {Spread(tuple(redis_us)).median:.0f} of Redis"
    rows = [
        _row("routed messages/s : bare aiohttp client", routed, bare, 0.60),
        Row(
            "the same by CPU time of the process (less noisy)",
            costs,
            f"{Spread(tuple(bare_us)).median:.0f} us",
            ratios(bare_us, routed_us).show(),
            "",
        ),
        _row("routed messages/s : a Celery task a message", routed, celery, 8),
    ]
    return rows, Spread(tuple(routed)).median


@asynccontextmanager
async def _celery(stage: Stage) -> AsyncIterator[Workers]:
    """Workers on every core, their broker a Redis that does not sync: both in their favour."""
    broker = PrivateRedis(stage.folder / "broker", durable=False)
    broker.start()
    try:
        url = f"redis+socket://{broker.socket}?virtual_host=0"
        async with workers(stage.folder, url, stage.cores.every) as crew:
            yield crew
    finally:
        broker.stop()


async def _celery_rate(stage: Stage, crew: Workers, count: int) -> float:
    headers = {"Authorization": "Basic " + b64encode(f"{ACCOUNT}:{AUTH_TOKEN}".encode()).decode()}
    path = f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
    tasks = [
        (
            stage.provider_url,
            stage.provider_url,
            path,
            {
                "To": phone(number),
                "Body": body(number, 0),
                "StatusCallback": f"{PUBLIC_URL}/hooks/{HERE}/status?t={number}",
                "From": OUR_NUMBER,
            },
            headers,
        )
        for number in range(count)
    ]
    await crew.publish(tasks)
    begun = time.perf_counter()
    await crew.consume()
    await stage.taken(count)
    took_s = time.perf_counter() - begun
    await crew.pause()
    await stage.check(count, 1)
    return count / took_s


async def ingest_row(stage: Stage, sizes: Sizes, tell: Tell) -> list[Row]:
    """Row 3: signed webhooks from known customers with an open conversation, durable before they are answered."""
    durable: list[float] = []
    forgetful: list[float] = []
    async with stage.part():
        await _make_customers(stage, sizes.customers)
        ids = await seed(stage.store, sizes.customers, 1)
        for number in range(sizes.repetitions):
            tell(f"ingest {number + 1}/{sizes.repetitions}")
            for is_durable, rates in ((True, durable), (False, forgetful)):
                webhooks = sign_webhooks(sizes.customers, sizes.ingest)
                port = (await stage.contender.ask(do="serve", durable=is_durable))["port"]
                begun = time.perf_counter()
                await post_webhooks(port, webhooks)
                rates.append(sizes.ingest / (time.perf_counter() - begun))
                await stage.contender.ask(do="stop")
        lengths = await asyncio.gather(*(stage.redis.call("LLEN", f"tl:{{s0}}:g:{one}") for one in ids))
        taken, wanted = sum(lengths) - sizes.customers, sizes.ingest * sizes.repetitions
        if taken != wanted:
            raise NotVerified(f"{taken} messages are in the store, not {wanted}")
    return [_row("webhooks/s, durable : the same server without Redis", durable, forgetful, 0.80)]


async def _make_customers(stage: Stage, count: int) -> None:
    await asyncio.gather(
        *(
            stage.people.create(
                Customer(
                    f"c0-{number:022d}", "", "en", (Binding(Address(Channel.SMS, phone(number)), None, True),), 1.0
                )
            )
            for number in range(count)
        )
    )


async def storm_rows(stage: Stage, sizes: Sizes, tell: Tell) -> list[Row]:
    """Row 4: conversations rebound, to and fro, beside plain six-write scripts; accepts go on meanwhile."""
    async with stage.part():
        return await _storm_rows(stage, sizes, tell)


async def _storm_rows(stage: Stage, sizes: Sizes, tell: Tell) -> list[Row]:
    await _make_customers(stage, min(sizes.storm, PLANNED_MAX))
    ids = await seed(stage.store, sizes.storm, 1)
    tell("planning")
    await Control(stage.redis).set_gates({HERE: False})
    planned = await stage.contender.ask(do="plan", ids=ids[:PLANNED_MAX])
    plain, storm, waits, quiet = [], [], [], []
    for number in range(sizes.repetitions):
        tell(f"storm {number + 1}/{sizes.repetitions}")
        took_s = await run_scripts(str(stage.server.socket), sizes.storm, f"r{number}", "x" * BODY_BYTES)
        plain.append(sizes.storm / took_s)
        quiet += (await accepting(stage, asyncio.sleep(0.5)))[1]
        rate, meanwhile = await _storm(stage, ids, number + 1)
        storm.append(rate)
        waits += meanwhile
    slow_ms = percentile(waits, 0.99)
    return [
        _row("storm, rebinds/s : 6-write scripts/s", storm, plain, 1.0),
        Row(
            "an accept meanwhile, p99",
            f"{slow_ms:.1f} ms (median {percentile(waits, 0.5):.1f})",
            f"{percentile(quiet, 0.99):.1f} ms without a storm",
            "",
            "5 ms",
            slow_ms <= FOREGROUND_P99_MS,
        ),
        Row("routes planned/s (facts and bindings read)", f"{planned['moves'] / planned['took_s']:,.0f}", "", "", ""),
    ]


async def _storm(stage: Stage, ids: list[str], epoch: int) -> tuple[float, list[float]]:
    """Rebind every conversation once, to or fro by epoch: how many a second, and what accepts took meanwhile, in ms."""
    target = THERE if epoch % 2 else HERE
    answer, waits = await accepting(stage, stage.contender.ask(do="storm", ids=ids, epoch=epoch, to=target))
    arrived = int(await stage.redis.call("ZCARD", f"tl:{{s0}}:at:{target}"))
    if answer["moved"] != len(ids) or arrived != len(ids):
        raise NotVerified(f"{answer['moved']} of {len(ids)} conversations moved, {arrived} arrived")
    return len(ids) / answer["took_s"], waits


async def latency_row(stage: Stage, sizes: Sizes, capacity: float, tell: Tell) -> list[Row]:
    """Row 5: from asking for the accept until the provider has the message, less what a bare POST takes; open loops."""
    async with stage.part():
        return await _latency_row(stage, sizes, LOAD_SHARE * capacity, tell)


async def _latency_row(stage: Stage, sizes: Sizes, rate: float, tell: Tell) -> list[Row]:
    count = max(20, int(rate * sizes.paced_s))
    added, routed, bare, syncs = [], [], [], []
    for number in range(sizes.repetitions):
        tell(f"latency {number + 1}/{sizes.repetitions}")
        syncs.append(await _sync_ms(stage))
        answer = await stage.contender.ask(do="bare-paced", rate=rate, count=count)
        bare.append(_median_ms(await stage.arrivals(), answer["due"]))
        await stage.contender.ask(do="dispatch")
        due: list[int] = []
        async with asyncio.TaskGroup() as group:
            async for one in paced(rate, count, due):
                identity = new_id("v", 0, int(time.time() * 1000))
                group.create_task(accept_one(stage.store, identity, one, 0))
        await stage.taken(count)
        routed.append(_median_ms(await stage.arrivals(), due))
        await stage.contender.ask(do="stop")
        added.append(routed[-1] - bare[-1])
    spread = Spread(tuple(added))
    return [
        Row(
            f"added latency at {LOAD_SHARE:.0%} load ({rate:,.0f}/s), median",
            f"{Spread(tuple(routed)).show()} ms",
            f"{Spread(tuple(bare)).show()} ms",
            f"+{spread.show()} ms",
            "1.5 ms",
            spread.median <= ADDED_MS,
        ),
        Row("one synced write, alone (two are on a message's way)", f"{Spread(tuple(syncs)).show()} ms", "", "", ""),
    ]


async def _sync_ms(stage: Stage) -> float:
    """What this disk takes for one small write, client included."""
    waits = []
    for _ in range(SYNCS):
        begun = time.perf_counter()
        await stage.redis.call("SET", "tl:bench", "1")
        waits.append((time.perf_counter() - begun) * 1000)
    return percentile(waits, 0.5)


def _median_ms(arrivals: dict[int, int], due: list[int]) -> float:
    if len(arrivals) != len(due):
        raise NotVerified(f"{len(arrivals)} of {len(due)} messages arrived")
    return percentile([(arrivals[number] - at) / 1e6 for number, at in enumerate(due)], 0.5)


async def growth_rows(stage: Stage, sizes: Sizes, tell: Tell) -> list[Row]:
    """Row 6 and what grows: memory a conversation, rebinds and sends, with ever more open conversations."""
    rows = []
    for level in sizes.growth:
        tell(f"{level:,} open conversations")
        async with stage.part():
            empty = int((await stage.info("memory"))["used_memory"])
            ids = await seed(stage.store, level, 1)
            each = await _bytes_each(stage, empty, level)
            rate, waits = await _storm(stage, ids, 1)
            begun = time.perf_counter()
            await stage.contender.ask(do="dispatch")
            await stage.taken(min(level, GROWTH_SENT))
            sends_per_s = min(level, GROWTH_SENT) / (time.perf_counter() - begun)
            await stage.contender.ask(do="stop")
        rows.append(
            Row(
                f"{level:,} open: Redis bytes each",
                f"{each:,.0f}",
                f"rebound in {level / rate:.1f} s ({rate:,.0f}/s, accepts p99 {percentile(waits, 0.99):.1f} ms); "
                f"{sends_per_s:,.0f} sends/s",
                "",
                "1,536 bytes",
                each <= MEMORY_BYTES,
            )
        )
    return rows


async def _bytes_each(stage: Stage, empty: int, count: int) -> float:
    """Of one open conversation with one pending message; the journal, which is bounded, is not counted."""
    used = int((await stage.info("memory"))["used_memory"])
    journal = int(await stage.redis.call("MEMORY", "USAGE", JOURNAL_KEY, "SAMPLES", 0) or 0)
    return (used - empty - journal) / count


async def process_rows(stage: Stage, sizes: Sizes, tell: Tell) -> list[Row]:
    """The same messages by one, two and four dispatcher processes on every core there is."""
    total = sizes.conversations * sizes.each
    rates: dict[int, list[float]] = {count: [] for count in sizes.processes}
    async with stage.part(), AsyncExitStack() as stack:
        every = range(1, max(sizes.processes) + 1)
        crew = [await stack.enter_async_context(stage.another(number, stage.cores.every)) for number in every]
        for number in range(sizes.repetitions):
            for count in sizes.processes:
                tell(f"{count} processes {number + 1}/{sizes.repetitions}")
                await seed(stage.store, sizes.conversations, sizes.each)
                begun = time.perf_counter()
                await asyncio.gather(*(one.ask(do="routed", endpoint=HERE) for one in crew[:count]))
                rates[count].append(total / (time.perf_counter() - begun))
                await stage.check(sizes.conversations, sizes.each)
    first = rates[sizes.processes[0]]
    return [
        Row(
            f"{count} dispatcher process{'es' if count > 1 else ''}, any core",
            f"{Spread(tuple(found)).show(0)} /s",
            "",
            ratios(found, first).show(),
            "",
        )
        for count, found in rates.items()
    ]


def _row(what: str, ours: Sequence[float], beside: Sequence[float], reach: float) -> Row:
    ratio = ratios(ours, beside)
    return Row(
        what,
        f"{Spread(tuple(ours)).show(0)} /s",
        f"{Spread(tuple(beside)).show(0)} /s",
        ratio.show(),
        f"{reach:.2f}",
        ratio.median >= reach,
    )
