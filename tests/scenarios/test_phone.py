"""Mail and SMS are down, so the customer is called."""

from channels.messages import Channel


async def _call(world, customer):
    """The phone in their hand rings."""
    vendor = world.vendor("phone").vendor
    return await world.soon(lambda: [call for call in vendor.calls if call.customer == customer.phone.address], "rings")


async def test_a_call_says_who_we_are_then_after_a_key_the_message_and_takes_the_answer(build_world):
    """Nothing but the organisation and the reference before a key; the spoken answer is filed."""
    async with build_world(health={"broken_within_s": 1.0}) as world:
        una = await world.known_customer("una", Channel.EMAIL, Channel.PHONE)
        await una.writes_mail("Is it dangerous?", subject="Recall")
        talk = await una.conversation()
        await talk.hears("Is it dangerous?")
        await world.vendor("email").refuses()
        await world.vendor("sms").refuses()
        await talk.answer("Unplug the heater now.")
        (call,) = await _call(world, una)
        vendor = world.vendor("phone").vendor
        await vendor.answer(call.sid)
        await world.soon(lambda: call.waiting_for == "keys", "it waits for a key")
        heard = " ".join(call.said)
        spelled = " ".join(await talk.reference())
        assert "Example Shop" in heard and spelled in heard
        assert "heater" not in heard and "dangerous" not in heard and "una" not in heard.lower()
        await vendor.press(call.sid, "1")
        await world.soon(lambda: call.waiting_for == "words", "it waits for words")
        assert any("Unplug the heater now." in one for one in call.said)
        assert any("email" in one for one in call.said), "what happened is said"
        await vendor.say(call.sid, "Thank you, I did")
        await talk.hears("Thank you, I did")
        await vendor.hang_up(call.sid)
        await talk.reaches("delivered", "Unplug the heater now.")
        await world.ends_well(spoken=("Unplug the heater now.",))


async def test_an_answering_machine_hears_a_number_to_call_and_nothing_else(build_world):
    """It ends `unconfirmed`, never `delivered`: nobody is known to have heard it."""
    async with build_world() as world:
        vic = await world.known_customer("vic", Channel.EMAIL, Channel.PHONE)
        await vic.writes_mail("When do you come?")
        talk = await vic.conversation()
        await world.vendor("email").refuses()
        await talk.answer("On Monday.")
        (call,) = await _call(world, vic)
        await world.vendor("phone").vendor.to_voicemail(call.sid)
        await talk.reaches("unconfirmed", "On Monday.")
        heard = " ".join(call.said)
        assert "call us back" in heard and "Monday" not in heard
        await world.ends_well(spoken=("On Monday.",))
