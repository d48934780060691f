"""The agent's half of a conversation moves just as the customer's does."""

import pytest

from channels.messages import Address, Channel
from router.domain.conversation import Binding, SideName


@pytest.mark.parametrize("has_phone", [True, False])
async def test_an_agent_who_answers_by_mail_goes_on_elsewhere_when_mail_dies(world, has_phone):
    """Words reach the mailbox, its answer goes out as ours; then the agent's phone, or the console, takes over."""
    mailbox = world.pocket("sam@agents.test")
    phone = world.pocket("+12025558001")
    places = [Address(Channel.EMAIL, mailbox.address)] + [Address(Channel.SMS, phone.address)] * has_phone
    bindings = [Binding(place, verified=True, order=order) for order, place in enumerate(places)]
    agent = await world.runtime.switchboard.create_agent(name="Sam", team="care", bindings=bindings)
    xia = await world.known_customer("xia", Channel.SMS)
    await xia.texts("Hello")
    talk = await xia.conversation()
    await talk.hears("Hello")
    await world.patch(f"/v1/conversations/{talk.id}", {"assignee": agent.id})
    place = {"endpoint": "email/sandbox", "address": {"channel": "email", "value": mailbox.address}}
    await world.put(f"/v1/conversations/{talk.id}/agent-side", place)
    await xia.texts("Where is my parcel?")
    mail = await mailbox.expects("Where is my parcel?")
    await world.vendor("email").write(mailbox.address, "In Lyon.", in_reply_to=mail)
    said = await xia.phone.expects("In Lyon.")
    assert mailbox.address not in said.text

    await world.vendor("email").refuses()
    await xia.texts("And now?")
    if has_phone:
        await phone.expects("Conversation", await talk.reference(), within_s=30)
        await phone.expects("And now?")
        await world.vendor("sms").write(phone.address, "In Madrid.")
        await xia.phone.expects("In Madrid.")
    else:
        await talk.is_at("chat/console", SideName.AGENT, within_s=30)
    await talk.hears("And now?")
    await world.ends_well()
