"""The faults of a chaos run, by name: processes killed and stopped, wires broken, a disk full, files cut."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import redis.asyncio

from channels.sandbox.app import MAIL, PHONE, SMS, SMS_BACKUP
from router.runtime import open_runtime
from router.store.going_back import read_went_back
from tests.chaos.clockwork import ALIVE_S, Ailment
from tests.chaos.disk import DISK_BYTES, fill
from tests.chaos.pages import Pages
from tests.chaos.proxy import Proxy, Toxin
from tests.chaos.stores import CuttableRedis, OneRedis, Replicated
from tests.chaos.world import Gap, World

ROLES = ("web", "dispatch-email", "dispatch-sms", "dispatch-chat", "dispatch-phone", "supervise", "clockwork", "redis")
ENDPOINTS = (MAIL, SMS, SMS_BACKUP, PHONE)
BROKEN_S = 8.0
BACK_WITHIN_S = 30.0
WORKING_WITHIN_S = 60.0
OLDER_S = 1.0
"""How much of what Redis wrote is lost with the end of its file."""
TAIL_BYTES = 40
TORN = b"*3\r\n$3\r\nSET\r\n$8\r\ntorn-off"
"""A record that was being written when the power went: nobody was told that it is there."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, and is over when `strike` returns."""

    name: str
    strike: Callable[[World], Awaitable[None]]
    store: str = "private"
    """The kind of Redis it is for."""


async def kill(world: World, role: str) -> None:
    """SIGKILL."""
    if pid := world.pid(role):
        os.kill(pid, signal.SIGKILL)


async def freeze(world: World, role: str, seconds: float) -> None:
    """SIGSTOP, and later SIGCONT."""
    pid = world.pid(role)
    if pid is None:
        return
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def poison(proxy: Proxy, toxin: Toxin) -> None:
    """A wire that is broken for a while."""
    proxy.poison(toxin)
    await asyncio.sleep(BROKEN_S)
    proxy.poison(Toxin.NONE)


async def lose_answers(world: World) -> None:
    """Redis does what it is told, and one answer in five is cut off together with its connection."""
    wire = _one(world).wire
    before = wire.cuts
    await poison(wire, Toxin.CUT)
    world.say(f"         {wire.cuts - before} answers of Redis were cut off")


async def fill_disk(world: World, disk: Path) -> None:
    """Redis' folder, the spool's, the files', and every log: nothing can be written for 8 s."""
    before = len(world.acknowledged)
    async with fill(disk):
        await asyncio.sleep(BROKEN_S)
        world.say(f"         {len(world.acknowledged) - before} messages were acknowledged meanwhile")
    await _until_redis_answers(world)


async def tear(world: World) -> None:
    """Redis dies while it writes a record that nobody was promised: half of it is on disk."""
    server = _one(world).server

    def damage() -> None:
        with server.append_only_file.open("ab") as file:
            file.write(TORN)

    await _kill_and_damage(world, damage)


async def cut_tail(world: World) -> None:
    """Redis dies, and the last bytes of its file are gone: at most what one script wrote."""
    server, since = _one(world).server, time.time() - 0.5
    await _kill_and_damage(world, lambda: _cut(server, server.append_only_file.stat().st_size - TAIL_BYTES))
    world.gaps.append(Gap(since, time.time()))


async def cut_older(world: World) -> None:
    """Redis dies, and a second of acknowledged writes is gone. It must be noticed, flagged and told."""
    server = _one(world).server
    since, file = time.time(), server.append_only_file
    size = file.stat().st_size
    await asyncio.sleep(OLDER_S)
    await _kill_and_damage(world, lambda: _cut(server, size))
    world.gaps.append(Gap(since - 0.2, time.time()))
    await _expect_noticed(world, since)


async def promote(world: World, lag_s: float) -> None:
    """A replica is promoted that is behind; what it has not was acknowledged to nobody."""
    took_s = await cast(Replicated, world.store).promote_behind(lag_s)
    world.say(f"         promoted after {took_s:.1f} s")


async def restart_clockwork(world: World) -> None:
    """SIGTERM, as for an upgrade: it finishes its job, and the next one goes on."""
    if pid := world.pid("clockwork"):
        os.kill(pid, signal.SIGTERM)
        await _expect_working(world, pid)


async def spoil_clockwork(world: World, ailment: Ailment, why: str) -> None:
    """It runs and does nothing: its watchdog must notice and end it, and whoever keeps it start another one."""
    if pid := world.pid("clockwork"):
        log = world.settings.data_dir / "log" / "clockwork.log"
        said = log.read_text(errors="replace").count(why)
        (world.folder / ailment).touch()
        await _expect_working(world, pid)
        if log.read_text(errors="replace").count(why) == said:
            world.wrong.append(f"the clockwork did not say that {why}")


async def _expect_working(world: World, old: int) -> None:
    """Another process beats on the board, for longer than one does in which no job goes through."""
    begun, since = time.monotonic(), 0.0
    deadline = begun + WORKING_WITHIN_S
    while time.monotonic() < deadline:
        pid = world.pid("clockwork")
        if pid not in {None, old} and await _beats(world, pid):
            since = since or time.monotonic()
            if time.monotonic() - since > 2 * ALIVE_S:
                world.say(f"         jobs went through again {since - begun:.1f} s later")
                return
        await asyncio.sleep(0.5)
    world.wrong.append(f"the clockwork did no work within {WORKING_WITHIN_S:g} s")


async def _beats(world: World, pid: int | None) -> bool:
    async with open_runtime(world.settings, "cli") as runtime:
        try:
            return any(
                beat.role == "clockwork" and f"-{pid}-" in f"-{beat.worker}-" for beat in await runtime.board.beats()
            )
        except redis.RedisError:
            return False


async def kill_web_under_pages(world: World, pages: Pages) -> None:
    """SIGKILL with every chat page open; each comes back and goes on where it was."""
    await pages.until_open(BACK_WITHIN_S)
    before = await pages.report()
    begun = time.monotonic()
    await kill(world, "web")
    await asyncio.sleep(1.0)
    while (await pages.report())["open"] == 0 and time.monotonic() - begun < BACK_WITHIN_S:
        await asyncio.sleep(0.1)
    first_s = time.monotonic() - begun
    await pages.until_open(BACK_WITHIN_S)
    took_s = time.monotonic() - begun
    after = await pages.report()
    world.say(
        f"         {after['open']} of {after['pages']} pages are back after {took_s:.1f} s (the first in "
        f"{first_s:.1f} s, half of them in {after['back_median_s']:.1f} s, 99 % in {after['back_p99_s']:.1f} s, "
        f"{after['tries'] - before['tries']} connections tried); "
        f"{after['resumed'] - before['resumed']} resumed where they were"
    )
    if after["open"] < after["pages"]:
        world.wrong.append(f"{after['pages'] - after['open']} pages did not come back in {BACK_WITHIN_S:g} s")


def plan(*, short: bool, long: bool, disk: Path | None, pages: Pages) -> list[Fault]:
    """Every fault in turn."""
    stops = (5,) if short else (5, 12, 60) if long else (5, 12)
    endpoints: Sequence[str] = (SMS_BACKUP,) if short else ENDPOINTS
    toxins = [one for one in Toxin if one is not Toxin.NONE]
    found = [Fault("aof-torn", tear), Fault("aof-tail", cut_tail), Fault("aof-older", cut_older)]
    if disk is not None:
        found.append(Fault("disk-full", partial(fill_disk, disk=disk)))
    found += [Fault(f"kill-{role}", partial(kill, role=role)) for role in ROLES]
    found += [
        Fault(f"stop-{stop}-{role}", partial(freeze, role=role, seconds=stop)) for stop in stops for role in ROLES
    ]
    found += [
        Fault(
            f"{endpoint.replace('/', '-')}-{toxin.replace(' ', '-')}",
            partial(_poison_endpoint, at=endpoint, toxin=toxin),
        )
        for endpoint in endpoints
        for toxin in toxins
    ]
    found.append(Fault("redis-cut", lose_answers))
    found.append(Fault("pages-kill-web", partial(kill_web_under_pages, pages=pages)))
    found += [
        Fault("clockwork-restart", restart_clockwork),
        Fault("clockwork-beat-dies", partial(spoil_clockwork, ailment=Ailment.BEAT_DIES, why="beat died")),
        Fault("clockwork-hangs", partial(spoil_clockwork, ailment=Ailment.WORKER_HANGS, why="no job went through")),
    ]
    found += [Fault(f"promote-{lag}", partial(promote, lag_s=lag), "sentinel") for lag in (1, 4)]
    return found + [Fault(f"promote-cluster-{lag}", partial(promote, lag_s=lag), "cluster") for lag in (1, 4)]


async def _poison_endpoint(world: World, at: str, toxin: Toxin) -> None:
    await poison(world.proxies[at], toxin)


def _one(world: World) -> OneRedis:
    assert isinstance(world.store, OneRedis)
    return world.store


async def _kill_and_damage(world: World, damage: Callable[[], None]) -> None:
    """Between its death and its next start; returns once it answers again."""
    _one(world).server.damage = damage
    await kill(world, "redis")
    await _until_redis_answers(world)


def _cut(server: CuttableRedis, size: int) -> None:
    os.truncate(server.append_only_file, size)


async def _until_redis_answers(world: World) -> None:
    server = _one(world).server
    deadline = time.monotonic() + BACK_WITHIN_S
    while True:
        client = redis.asyncio.Redis.from_url(server.url, socket_timeout=1.0)
        try:
            if server.damage is None and server.pid is not None and await client.ping():
                return
        except (redis.RedisError, OSError):
            pass  # not yet
        finally:
            await client.aclose()
        if time.monotonic() > deadline:
            world.wrong.append(f"Redis did not come back in {BACK_WITHIN_S:g} s")
            return
        await asyncio.sleep(0.1)


async def _expect_noticed(world: World, since: float) -> None:
    """The journal says it, and so does whatever `throughline status` is made of."""
    deadline = time.monotonic() + BACK_WITHIN_S
    while time.monotonic() < deadline:
        async with open_runtime(world.settings, "cli") as runtime:
            with suppress(redis.RedisError):
                rows = [row for _, row in await runtime.core.store.journal_last(0, 5_000)]
                told = [row for row in rows if row["k"] == "store.went_back" and int(row["at"]) / 1000 >= since]
                shown = await read_went_back(runtime.core.store.redis)
                if told and shown is not None and shown.at >= since:
                    world.say(f"         noticed by {len(told)} processes; {shown.flagged} messages flagged")
                    return
        await asyncio.sleep(0.5)
    world.wrong.append("Redis came back older, and nobody noticed")


__all__ = ["DISK_BYTES", "Fault", "plan"]
