"""Loops run twice, vendors take and break off, people answer where we did not expect them."""

import asyncio

from channels.messages import Channel
from channels.sandbox.vendor import Fault
from health.report import Status


async def test_everything_runs_twice_and_nobody_hears_anything_twice(world):
    """Two dispatchers and two supervisors through an outage with twenty conversations."""
    async with asyncio.TaskGroup() as group:
        for role in ("dispatch", "supervise"):
            group.create_task(world.start_another(role))
    people = [await world.known_customer(f"p{number}", phone=f"+1202555{5000 + number}") for number in range(20)]
    for person in people:
        await person.writes_mail("Hello")
    talks = [await person.conversation() for person in people]
    for number, talk in enumerate(talks):
        await talk.answer(f"Good morning {number}.")
    for number, person in enumerate(people):
        await person.mailbox.expects(f"Good morning {number}.")
    await world.vendor("email").suffers(Fault.ERROR)
    for number, talk in enumerate(talks):
        for part in ("one", "two", "three"):
            await talk.answer(f"Part {part} of {number}.")
    for number, (person, talk) in enumerate(zip(people, talks, strict=True)):
        await person.phone.expects("Example Shop", await talk.reference(), within_s=30)
        for part in ("one", "two", "three"):
            await person.phone.expects(f"Part {part} of {number}.")
    await world.ends_well()


async def test_a_text_taken_by_a_vendor_that_then_broke_off_is_repeated_with_a_mark(build_world):
    """The outcome is unknown: after its hold it goes out again, flagged, and what was said later waits for it."""
    async with build_world(endpoints_more={"hold_s": 1.0}) as world:
        zoe = await world.known_customer("zoe", Channel.EMAIL)
        await zoe.writes_mail("Hello")
        talk = await zoe.conversation()
        await talk.hears("Hello")
        await world.vendor("email").suffers(Fault.DROP_AFTER_ACCEPT)
        await talk.answer("First.")
        await talk.answer("Second.")
        await zoe.mailbox.expects("First.")
        await world.vendor("email").recovers()
        again = await zoe.mailbox.expects("First.", within_s=30)
        assert again.details["possible_duplicate"]
        second = await zoe.mailbox.expects("Second.", within_s=30)
        assert "possible_duplicate" not in second.details
        await world.ends_well()


async def test_new_conversations_drift_home_and_a_customer_who_writes_somewhere_stays_there(build_world):
    """After the outage: who wrote by SMS is answered by SMS; quiet ones go home, and the next answer shows it."""
    failover = {"idle_s": 3.0, "one_move_per_s": 2.0}
    async with build_world(failover=failover) as world:
        quiet = await world.known_customer("abe")
        lively = await world.known_customer("bea")
        talks = []
        for person in (quiet, lively):
            await person.writes_mail("Hello")
            talks.append(await person.conversation())
        await world.vendor("email").refuses()
        for person, talk, text in zip((quiet, lively), talks, ("Hello Abe.", "Hello Bea."), strict=True):
            await talk.answer(text)
            await person.phone.expects("Example Shop", within_s=30)
            await person.phone.expects(text)
        await lively.texts("Thanks by SMS")
        await talks[1].hears("Thanks by SMS")
        await talks[1].answer("Welcome.")
        await lively.phone.expects("Welcome.")
        await world.vendor("email").recovers()
        await world.expects_status("email/sandbox", Status.UP, within_s=30)
        await talks[0].is_at("email/sandbox", within_s=20)
        await talks[0].answer("Back on mail.")
        await quiet.mailbox.expects("Back on mail.")
        await talks[1].answer("Still by SMS.")
        await lively.phone.expects("Still by SMS.")
        cal = await world.known_customer("cal")
        await cal.writes_mail("New here")
        await (await cal.conversation()).answer("Welcome, Cal.")
        await cal.mailbox.expects("Welcome, Cal.")
        await world.ends_well()


async def test_whoever_answers_an_old_mail_after_the_move_is_heard_and_answered_there(world):
    """The customer's own choice of channel wins, without a notice."""
    dee = await world.known_customer("dee")
    await dee.writes_mail("Hello")
    talk = await dee.conversation()
    await talk.answer("Hello Dee.")
    mail = await dee.mailbox.expects("Hello Dee.")
    await world.vendor("sms").refuses()
    await world.vendor("email").refuses()
    await talk.answer("On its way.")
    await dee.phone.expects("Example Shop", within_s=40)
    text = await dee.phone.expects("On its way.")
    assert text.endpoint == "sms/backup"
    await world.vendor("email").recovers()
    await world.expects_status("email/sandbox", Status.UP, within_s=30)
    await dee.writes_mail("I prefer mail", answering=mail)
    await talk.hears("I prefer mail")
    await talk.answer("So do we.")
    await dee.mailbox.expects("So do we.")
    await world.ends_well()
