"""What people may stop, and what strangers must prove."""

import re

import pytest


@pytest.mark.parametrize(("stop", "start"), [("STOP", "START"), ("stopp", "start")])
async def test_stop_ends_messages_there_at_once_and_start_brings_them_back(world, stop, start):
    """One confirmation; the conversation goes on by mail; START restores."""
    kim = await world.known_customer("kim")
    await kim.texts("Hello")
    talk = await kim.conversation()
    await talk.answer("Hello Kim.")
    await kim.phone.expects("Hello Kim.")
    await kim.texts(stop)
    await kim.phone.expects("no more messages")
    await kim.texts(stop)
    await talk.answer("We continue by mail.")
    await kim.mailbox.expects("we continue here by email", await talk.reference())
    await kim.mailbox.expects("We continue by mail.")
    await kim.texts(start)
    await kim.phone.expects("messages here again")
    await kim.texts("I am back")
    await talk.hears("I am back")
    await talk.answer("Welcome back.")
    await kim.phone.expects("Welcome back.")
    await world.ends_well()


async def test_a_strangers_number_joins_only_with_the_code(world):
    """A reference alone is not enough: held; the code goes to the known address; a wrong one opens nothing."""
    lea = await world.known_customer("lea")
    await lea.writes_mail("My order is broken", subject="Order")
    talk = await lea.conversation()
    await talk.hears("My order is broken")
    stranger = world.pocket("+12025554999")
    sms = world.vendor("sms")

    await sms.write(stranger.address, f"ref {await talk.reference()} it is the left one")
    await stranger.expects("do not know this address")
    code = re.search(r"\b([0-9]{6})\b", (await lea.mailbox.expects("is your code")).text).group(1)
    wrong = f"{(int(code) + 1) % 10**6:06d}"
    await sms.write(stranger.address, wrong)
    await stranger.expects("that code is not right")
    assert not any("left one" in one.content.text for one in await talk.messages())

    await sms.write(stranger.address, code)
    await talk.hears(f"ref {await talk.reference()} it is the left one")
    await talk.answer("We send a new one.")
    await stranger.expects("We send a new one.")
    await world.ends_well()
