"""Two versions of the router work side by side on one store, each with its own scripts, while it is used."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import router
from router.domain.ids import shard_of
from router.store import codec, keys
from router.store import redis as scripts

PREVIOUS = os.environ.get("TEST_UPGRADE_FROM")
"""A folder with the code of the version before."""
PACKAGES = ("router", "channels", "health")
TALKS = 8
PAUSE_S = 0.15


class Load:
    """Agents who answer in every conversation, round and round."""

    def __init__(self, world: Any, talks: list[Any]) -> None:
        self.world, self.talks, self.rounds = world, talks, 0
        self.over = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self.over.is_set():
            for number, talk in enumerate(self.talks):
                await talk.answer(f"This is part {self.rounds} for {number}.")
                await asyncio.sleep(PAUSE_S / len(self.talks))
            self.rounds += 1

    async def after(self, rounds: int) -> None:
        """Wait for so many more."""
        wanted = self.rounds + rounds
        await self.world.soon(lambda: self.rounds >= wanted or self.task.done(), "the load goes on", within_s=60)
        assert not self.task.done(), self.task.result()

    async def end(self) -> None:
        """No more of it."""
        self.over.set()
        await self.task


@contextlib.asynccontextmanager
async def under_load(world: Any) -> AsyncIterator[Load]:
    """People who wrote a mail each, and agents who answer them until the story says so; then all of it is judged."""
    people = [await world.known_customer(f"u{n}", phone=f"+1202555{7300 + n}") for n in range(TALKS)]
    for person in people:
        await person.writes_mail("Hello")
    load = Load(world, [await person.conversation() for person in people])
    try:
        yield load
    finally:
        load.over.set()
    await load.task
    await world.settles(within_s=90)
    for person in people:
        for pocket in (person.mailbox, person.phone):
            pocket.read = len(world.arrived(pocket.address))  # the judge looks at each of them
    await world.ends_well()


async def workers_of(load: Load) -> set[str]:
    """Who made an attempt at any message."""
    return {attempt.worker for talk in load.talks for one in await talk.messages() for attempt in one.attempts}


async def another_supervises(world: Any, than: str) -> None:
    """Wait until somebody else has the lease."""

    async def look() -> bool:
        now = await world.core.board.supervisor()
        return now is not None and now[0] != than

    await world.eventually(look, "the new supervisor takes over")


@pytest.mark.skipif(not PREVIOUS, reason="`make test-upgrade` brings the version before")
@pytest.mark.timeout(240)
async def test_every_role_is_replaced_under_load_and_one_put_back_and_nothing_is_lost_or_doubled_unseen(build_world):
    """Roles go over one by one; in between mail dies and comes back, one dispatcher is killed and one goes back."""
    async with build_world(start=("web",), endpoints_more={"hold_s": 1.0}) as world:
        old_dispatch = await world.spawn("dispatch", code=PREVIOUS)
        old_supervise = await world.spawn("supervise", code=PREVIOUS)
        await world.has_workers("dispatch", 1)
        await world.has_workers("supervise", 1)
        async with under_load(world) as load:
            await load.after(3)  # the version before alone
            new_dispatch = await world.spawn("dispatch")
            await world.has_workers("dispatch", 2)
            await load.after(5)  # both dispatch
            await world.vendor("email").refuses()
            await load.after(10)  # the old supervisor moves what the new dispatcher says
            new_supervise = await world.spawn("supervise")
            at_work = await world.core.board.supervisor()
            old_supervise.send_signal(signal.SIGKILL)
            old_dispatch.send_signal(signal.SIGKILL)
            await another_supervises(world, than=at_work[0])
            await load.after(10)
            await world.vendor("email").recovers()
            await world.spawn("dispatch", code=PREVIOUS)  # and back again, beside the new supervisor
            await world.has_workers("dispatch", 2, within_s=30)
            new_dispatch.send_signal(signal.SIGTERM)
            await load.after(10)
        assert new_supervise.returncode is None and load.rounds > 30
        assert len(await workers_of(load)) == 3


@pytest.fixture
def next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with the code of a version that brings the next records; this process, which serves the web, runs it."""
    root = Path(router.__file__).parent.parent
    folder = tmp_path / "next"
    for name in PACKAGES:
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    ours, theirs = codec.RECORDS_VERSION, codec.RECORDS_VERSION + 1
    for path, line in (
        (folder / "router/store/codec.py", "\nRECORDS_VERSION = {}\n"),
        (folder / "router/store/lua/prelude.lua", "\nlocal VERSION = {}\n"),
    ):
        text = path.read_text()
        assert line.format(ours) in text
        path.write_text(text.replace(line.format(ours), line.format(theirs)))
    named = scripts.script_sources()
    line = "\nlocal VERSION = {}\n"
    newer = {name: text.replace(line.format(ours), line.format(theirs)) for name, text in named.items()}
    monkeypatch.setattr(codec, "RECORDS_VERSION", theirs)
    monkeypatch.setattr(scripts, "script_sources", lambda: newer)
    return str(folder)


async def standing(world: Any) -> set[str | None]:
    """The version of every shard's records; None is the first."""
    redis = world.core.store.redis
    return {await redis.call("GET", keys.version(shard)) for shard in range(world.core.store.shards)}


@pytest.mark.timeout(180)
async def test_newer_records_begin_under_load_once_the_last_old_process_is_gone_and_one_that_comes_back_stands_by(
    build_world, next_version
):
    """Until then both versions write the older records, side by side; afterwards the older one sends nothing."""
    async with build_world(start=("web",), endpoints_more={"hold_s": 1.0}) as world:
        old_dispatch = await world.spawn("dispatch")
        old_supervise = await world.spawn("supervise")
        await world.has_workers("dispatch", 1)
        await world.has_workers("supervise", 1)
        async with under_load(world) as load:
            await world.spawn("dispatch", code=next_version)
            await world.has_workers("dispatch", 2)
            await load.after(5)
            await world.spawn("supervise", code=next_version)
            at_work = await world.core.board.supervisor()
            old_supervise.send_signal(signal.SIGTERM)
            await another_supervises(world, than=at_work[0])
            await world.vendor("email").refuses()
            await load.after(10)  # the newer one supervises, both dispatch
            assert await standing(world) == {None}
            side_by_side = await workers_of(load)
            old_dispatch.send_signal(signal.SIGTERM)

            async def begun() -> bool:
                return await standing(world) == {str(codec.RECORDS_VERSION)}

            await world.eventually(begun, "the newer records begin")
            late = await world.spawn("dispatch")
            log = world.settings.data_dir / f"process{len(world.processes) - 1}.log"
            words = f"this process knows {codec.RECORDS_VERSION - 1}"
            await world.soon(lambda: words in log.read_text(), "it says that it stands by")
            await load.after(5)
            await world.vendor("email").recovers()
            await load.after(5)
        assert late.returncode is None
        assert len(side_by_side) == 2
        assert await workers_of(load) == side_by_side
        versions = [(await world.core.store.redis.call("HGET", *mark)) for mark in await marks(load)]
        assert versions[0] == "1" and versions[-1] == str(codec.RECORDS_VERSION)


async def marks(load: Load) -> list[tuple[str, str]]:
    """Where the version of each message of the first conversation stands, oldest first."""
    messages = await load.talks[0].messages()
    return [(f"{keys.shard(shard_of(one.id))}m:{one.id}", "v") for one in messages]
