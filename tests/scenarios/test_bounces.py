"""What comes back after it was sent."""

from channels.messages import Channel


async def test_a_mail_that_bounces_goes_out_by_sms_marked_late(world):
    """A permanent bounce: the mailbox is not tried again, the text arrives on the phone, marked."""
    ben = await world.known_customer("bounce-ben", phone="+12025556001")
    await ben.texts("Please mail me the bill")
    talk = await ben.conversation()
    body = {"customer_id": ben.id, "subject": "Bill", "text": "Here is your bill.", "channel": "email"}
    sent = await world.post("/v1/conversations", body, key="bill")
    await ben.phone.expects("Example Shop")
    late = await ben.phone.expects("Here is your bill.")
    assert "(Sent late)" in late.text or "Perhaps a repeat" in late.text
    customer = await world.core.customer_of(ben.id)
    mailbox = next(one for one in customer.bindings if one.address.channel is Channel.EMAIL)
    assert mailbox.unreachable_until > world.core.clock.now()
    shown = await world.get(f"/v1/messages/{sent['message_id']}")
    assert next(one["outcome"] for one in shown["attempts"]) == "undelivered", shown
    assert talk.id != sent["conversation_id"]
    await world.ends_well()
