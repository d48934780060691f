"""Processes die without a word: a dispatcher, a Redis."""

import os
import signal
import time

from channels.sandbox.vendor import Fault
from router.private_redis import PrivateRedis
from router.supervisor import LEASE_S, RENEW_S


async def test_a_dispatcher_killed_in_the_middle_of_a_send_is_replaced_and_its_attempt_flagged(build_world):
    """Noticed within 5 s; what it had begun may have been taken, so it goes out again with a mark, by another one."""
    async with build_world(start=("web", "supervise"), endpoints_more={"hold_s": 1.0}) as world:
        first = await world.spawn("dispatch")
        await world.has_workers("dispatch", 1)
        noa = await world.known_customer("noa")
        await noa.texts("Hello", over="backup")
        talk = await noa.conversation()
        await talk.answer("Good morning.")
        await noa.phone.expects("Good morning.")

        await world.vendor("backup").hangs()
        message = await talk.answer("Your order left.")
        await talk.has_begun(message)
        first.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        await first.wait()
        await world.spawn("dispatch")
        await world.journals("worker.silent", within_s=7)
        noticed_s = time.monotonic() - killed
        await world.vendor("backup").recovers()
        await noa.phone.expects("Perhaps a repeat", "Your order left.", within_s=30)
        shown = await world.get(f"/v1/messages/{message}")
        assert next(one["outcome"] for one in shown["attempts"]) == "unknown"
        assert shown["possible_duplicate"]
        assert noticed_s < 5, f"noticed after {noticed_s:.1f} s"
        await world.ends_well()


async def test_redis_killed_and_started_again_loses_nothing_that_was_accepted(build_world, tmp_path):
    """What was acknowledged is there; what was refused meanwhile is delivered again by its vendor; all goes on."""
    server = PrivateRedis(tmp_path / "redis", durable=True)
    server.start()
    try:
        async with build_world(redis_url=server.url) as world:
            await _tell_of_a_dead_redis(world, server)
    finally:
        server.stop()


async def _tell_of_a_dead_redis(world, server):
    uma = await world.known_customer("uma")
    await uma.writes_mail("Hello")
    talk = await uma.conversation()
    await world.vendor("email").suffers(Fault.ERROR)
    await talk.answer("One.")
    await talk.answer("Two.")
    os.kill(server.pid, signal.SIGKILL)
    server.stop()  # only what the dead one left behind
    await uma.writes_mail("Are you there?")
    server.start()
    await world.vendor("email").recovers()
    await talk.hears("Are you there?", within_s=30)
    await talk.answer("Three.")
    mailbox = uma.mailbox
    if not world.arrived(mailbox.address):
        await world.settles(within_s=40)
    where = mailbox if world.arrived(mailbox.address) else uma.phone
    if where is uma.phone:
        await where.expects("Example Shop")
    for text in ("One.", "Two.", "Three."):
        await where.expects(text, within_s=30)
    await world.ends_well()


async def test_another_supervisor_takes_over_from_one_that_was_killed(build_world):
    """The outage that nobody watched is noticed by the next one, and the conversation moves."""
    async with build_world(start=("web", "dispatch")) as world:
        first = await world.spawn("supervise")
        await world.has_workers("supervise", 1)
        pia = await world.known_customer("pia")
        await pia.writes_mail("Hello")
        talk = await pia.conversation()
        first.send_signal(signal.SIGKILL)
        await first.wait()
        await world.vendor("email").refuses()
        await talk.answer("Here I am.")
        await world.start("supervise")
        await pia.phone.expects("Example Shop", await talk.reference(), within_s=30)
        await pia.phone.expects("Here I am.")
        await world.ends_well()


async def test_redis_dies_while_conversations_are_on_the_move(build_world, tmp_path):
    """Twenty on their way from mail to SMS: one notice each, every word once, in order, whatever was open then."""
    server = PrivateRedis(tmp_path / "redis", durable=True)
    server.start()
    try:
        async with build_world(redis_url=server.url) as world:
            people = [
                await world.known_customer(f"m{number}", phone=f"+1202555{6500 + number}") for number in range(20)
            ]
            for person in people:
                await person.writes_mail("Hello")
            talks = [await person.conversation() for person in people]
            await world.vendor("email").suffers(Fault.ERROR)
            for number, talk in enumerate(talks):
                await talk.answer(f"This is part one of {number}.")
                await talk.answer(f"This is part two of {number}.")
            await world.soon(lambda: any(person.phone.unread() for person in people), "the first is told")
            os.kill(server.pid, signal.SIGKILL)
            server.stop()
            server.start()
            for number, (person, talk) in enumerate(zip(people, talks, strict=True)):
                await person.phone.expects("Example Shop", await talk.reference(), within_s=30)
                await person.phone.expects(f"This is part one of {number}.")
                await person.phone.expects(f"This is part two of {number}.")
            await world.ends_well()
    finally:
        server.stop()


async def test_two_of_each_share_the_work_and_survive_each_others_death(build_world):
    """Both dispatchers say something; one dies in the middle, and so does the supervisor at work: all is still said."""
    settings = {"endpoints_more": {"hold_s": 1.0}, "dispatch": {"in_flight": 3}}
    async with build_world(start=("web",), **settings) as world:
        working = await world.spawn("supervise")
        await world.has_workers("supervise", 1)
        held = await world.core.board.supervisor()
        await world.start("supervise")  # stands by
        one, _ = await world.spawn("dispatch"), await world.spawn("dispatch")
        await world.has_workers("dispatch", 2)
        people = [await world.known_customer(f"d{n}", phone=f"+1202555{7100 + n}") for n in range(12)]
        for person in people:
            await person.texts("Hello", over="backup")
        talks = [await person.conversation() for person in people]
        for round_number in range(3):
            for number, talk in enumerate(talks):
                await talk.answer(f"This is part {round_number} for {number}.")
            if round_number == 1:
                one.send_signal(signal.SIGKILL)
                working.send_signal(signal.SIGKILL)
                killed = time.monotonic()
        await world.eventually(lambda: _another_supervisor(world, held), "the other supervisor takes over")
        took_s = time.monotonic() - killed
        assert took_s < LEASE_S + RENEW_S + 1.0, f"the supervisor's lease passed on after {took_s:.1f} s"
        for number, talk in enumerate(talks):
            for round_number in range(3):
                await talk.reaches("delivered", f"This is part {round_number} for {number}.", within_s=40)
        workers = {attempt.worker for talk in talks for one in await talk.messages() for attempt in one.attempts}
        assert len({worker for worker in workers if worker.startswith("dispatch")}) == 2, workers
        for person in people:
            person.phone.read = len(world.arrived(person.phone.address))  # the judge looks at each of them
        await world.ends_well()


async def _another_supervisor(world, held):
    now = await world.core.board.supervisor()
    return now if now is not None and now[0] != held[0] else None
