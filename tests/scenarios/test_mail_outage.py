"""The mail vendor fails while people talk: the conversation goes on by SMS, and comes back."""

from health.report import Status


async def test_an_answer_overtaken_by_a_hanging_mail_vendor_arrives_on_the_phone(world):
    """One notice with who, what and the reference; the SMS reply joins; mail recovers; new conversations use it."""
    ann = await world.known_customer("ann")
    await ann.writes_mail("Where is my parcel?", subject="Parcel")
    talk = await ann.conversation()
    await talk.hears("Where is my parcel?")
    await talk.answer("It left yesterday.")
    await ann.mailbox.expects("It left yesterday.")

    await world.vendor("email").hangs()
    await talk.answer("It is in Lyon now.")
    notice = await ann.phone.expects("Example Shop", "email", await talk.reference(), within_s=30)
    assert "reply here" in notice.text
    await ann.phone.expects("It is in Lyon now.", within_s=30)
    await ann.texts("Thanks, got it")
    await talk.hears("Thanks, got it")
    await talk.answer("You are welcome.")
    await ann.phone.expects("You are welcome.")

    await world.vendor("email").recovers()
    await world.expects_status("email/sandbox", Status.UP, within_s=30)
    bob = await world.known_customer("bob")
    await bob.writes_mail("Do you ship to Spain?")
    other = await bob.conversation()
    await other.answer("We do.")
    await bob.mailbox.expects("We do.")
    await world.ends_well()
