"""Two versions of the router work side by side on one store, each with its own scripts, while it is used."""

import asyncio
import os
import signal

import pytest

PREVIOUS = os.environ.get("TEST_UPGRADE_FROM")
"""A folder with the code of the version before."""
TALKS = 8
PAUSE_S = 0.15


@pytest.mark.skipif(not PREVIOUS, reason="`make test-upgrade` brings the version before")
@pytest.mark.timeout(240)
async def test_every_role_is_replaced_under_load_and_one_put_back_and_nothing_is_lost_or_doubled_unseen(build_world):
    """Roles go over one by one; in between mail dies and comes back, one dispatcher is killed and one goes back."""
    async with build_world(start=("web",), endpoints_more={"hold_s": 1.0}) as world:
        old_dispatch = await world.spawn("dispatch", code=PREVIOUS)
        old_supervise = await world.spawn("supervise", code=PREVIOUS)
        await world.has_workers("dispatch", 1)
        await world.has_workers("supervise", 1)
        people = [await world.known_customer(f"u{n}", phone=f"+1202555{7300 + n}") for n in range(TALKS)]
        for person in people:
            await person.writes_mail("Hello")
        talks = [await person.conversation() for person in people]
        over, count = asyncio.Event(), 0

        async def load() -> None:
            nonlocal count
            while not over.is_set():
                for number, talk in enumerate(talks):
                    await talk.answer(f"This is part {count} for {number}.")
                    await asyncio.sleep(PAUSE_S / TALKS)
                count += 1

        async def after(rounds: int) -> None:
            wanted = count + rounds
            await world.soon(lambda: count >= wanted or loading.done(), "the load goes on", within_s=60)
            assert not loading.done(), loading.result()

        loading = asyncio.create_task(load())
        await after(3)  # the version before alone
        new_dispatch = await world.spawn("dispatch")
        await world.has_workers("dispatch", 2)
        await after(5)  # both dispatch
        await world.vendor("email").refuses()
        await after(10)  # the old supervisor moves what the new dispatcher says
        new_supervise = await world.spawn("supervise")
        at_work = await world.core.board.supervisor()
        old_supervise.send_signal(signal.SIGKILL)
        old_dispatch.send_signal(signal.SIGKILL)

        async def another() -> bool:
            now = await world.core.board.supervisor()
            return now is not None and now[0] != at_work[0]

        await world.eventually(another, "the new supervisor takes over")
        await after(10)
        await world.vendor("email").recovers()
        await world.spawn("dispatch", code=PREVIOUS)  # and back again, beside the new supervisor
        await world.has_workers("dispatch", 2, within_s=30)
        new_dispatch.send_signal(signal.SIGTERM)
        await after(10)
        over.set()
        await loading
        assert new_supervise.returncode is None and count > 30
        await world.settles(within_s=90)
        workers = {attempt.worker for talk in talks for one in await talk.messages() for attempt in one.attempts}
        assert len(workers) == 3, workers
        for person in people:
            for pocket in (person.mailbox, person.phone):
                pocket.read = len(world.arrived(pocket.address))  # the judge looks at each of them
        await world.ends_well()
