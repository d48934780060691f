"""Whoever answers an archived conversation begins a new one that names it."""

from typing import Any

from channels.messages import Accepted, Address, Channel, InboundMessage
from health.report import EndpointId
from router.archive.moving import archive_conversation
from router.domain.conversation import Binding, SideName
from router.runtime import Runtime
from router.store.asked import LeaseTerms, Settlement

MAIL, SMS, CONSOLE = EndpointId("email/sandbox"), EndpointId("sms/sandbox"), EndpointId("chat/console")
NUMBER = Address(Channel.SMS, "+12025550177")
DANA = Address(Channel.EMAIL, "dana@customer.test")
STRANGER = Address(Channel.EMAIL, "somebody@elsewhere.test")
TERMS = LeaseTerms(lease_s=8.0, hold_s={"normal": 60.0}, idempotent=False, attempts_max=3)


async def hear(runtime: Runtime, text: str, sender: Address = NUMBER, **more: Any) -> Accepted:
    endpoint = {Channel.EMAIL: MAIL, Channel.SMS: SMS}[sender.channel]
    more.setdefault("vendor_id", f"<{abs(hash(text))}@customer.test>")
    event = InboundMessage(endpoint=endpoint, sender=sender, text=text, sent_at=runtime.clock.now(), **more)
    return await runtime.switchboard.accept(event)


async def archived(runtime: Runtime, text: str, sender: Address = NUMBER, **more: Any) -> Any:
    """Somebody wrote, was heard, and it was archived."""
    identity = (await hear(runtime, text, sender, **more)).conversation_id
    view = await runtime.switchboard.conversation(identity)
    for one in await runtime.store.lease(CONSOLE, "w1", 10, TERMS):
        row = Settlement(one.conversation_id, one.side, one.message_id, one.number, one.fence, "sent")
        await runtime.store.settle(0, [row])
    await runtime.store.close(identity)
    assert await archive_conversation(runtime.store, runtime.core.archive, identity) == "ok"
    return view


async def test_the_signed_token_leads_to_a_new_conversation_that_names_the_old_one(runtime: Runtime) -> None:
    """For the same customer, also from an address that is new: the token proves it, and is learned from."""
    old = await archived(runtime, "Where is my parcel?")
    token = runtime.core.reply_token(old.conversation.id)
    accepted = await hear(runtime, "It never came.", STRANGER, reply_token=token)
    new = await runtime.switchboard.conversation(accepted.conversation_id)
    assert new.conversation.id != old.conversation.id
    assert new.conversation.customer_id == old.customer.id
    assert dict(new.conversation.fields) == {"continues": old.conversation.reference}
    assert STRANGER in {one.address for one in new.customer.bindings}
    again = await hear(runtime, "It never came.", STRANGER, reply_token=token)
    assert again.duplicate and again.conversation_id == accepted.conversation_id


async def test_a_mail_in_the_old_thread_goes_on_with_it(runtime: Runtime) -> None:
    """From the customer's own mailbox; a stranger who was copied begins their own matter."""
    old = await archived(runtime, "Order 77", DANA, vendor_id="<first@customer.test>")
    accepted = await hear(runtime, "Any news?", DANA, in_reply_to=("<first@customer.test>",))
    new = await runtime.switchboard.conversation(accepted.conversation_id)
    assert new.conversation.customer_id == old.customer.id
    assert dict(new.conversation.fields) == {"continues": old.conversation.reference}
    copied = await hear(runtime, "Me too", STRANGER, in_reply_to=("<first@customer.test>",))
    other = await runtime.switchboard.conversation(copied.conversation_id)
    assert other.conversation.customer_id != old.customer.id
    assert dict(other.conversation.fields) == {}


async def test_a_reference_of_theirs_is_named_and_a_strangers_is_not(runtime: Runtime) -> None:
    """Whoever writes somebody else's reference learns nothing by it."""
    old = await archived(runtime, "Where is my parcel?")
    words = f"About #{old.conversation.reference}: still nothing"
    new = await runtime.switchboard.conversation((await hear(runtime, words)).conversation_id)
    assert dict(new.conversation.fields) == {"continues": old.conversation.reference}
    other = await runtime.switchboard.conversation((await hear(runtime, words, STRANGER)).conversation_id)
    assert dict(other.conversation.fields) == {}


async def test_without_the_archive_it_is_taken_all_the_same(runtime: Runtime) -> None:
    """By whoever it is from: what comes in depends on Redis alone."""
    old = await archived(runtime, "Where is my parcel?")
    token = runtime.core.reply_token(old.conversation.id)
    await runtime.core.archive.close()
    runtime.core.archive.__init__(runtime.core.archive.database)
    runtime.core.archive.database.path.write_bytes(b"this is no database" * 1000)
    accepted = await hear(runtime, "It never came.", reply_token=token)
    new = await runtime.switchboard.conversation(accepted.conversation_id)
    assert new.conversation.customer_id == old.customer.id, "known by the number"
    assert dict(new.conversation.fields) == {}


async def test_what_an_agent_writes_to_an_archived_conversation_is_kept(runtime: Runtime) -> None:
    """Nothing is said to the customer, and the agent is asked where it belongs."""
    agent = Address(Channel.EMAIL, "sam@agents.test")
    old = await archived(runtime, "Where is my parcel?")
    await runtime.switchboard.create_agent(name="Sam", team="", bindings=[Binding(agent, verified=True)])
    token = runtime.core.reply_token(old.conversation.id)
    accepted = await hear(runtime, "In Lyon.", agent, reply_token=token)
    assert accepted.message_id
    message = await runtime.store.message(accepted.message_id)
    assert message is not None and message.content.text == "In Lyon." and message.side is SideName.AGENT
    assert message.conversation_id.startswith("h")
