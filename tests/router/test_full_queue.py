"""A conversation whose agents do not come after what is written to them: it takes no more, and nothing is lost."""

import pytest

from channels.errors import LocalFault
from channels.messages import Accepted, Address, Channel, InboundMessage
from health.report import EndpointId
from router.domain.conversation import SideName
from router.runtime import Runtime
from router.store.reading import QUEUE_MAX

MAIL, SMS = EndpointId("email/sandbox"), EndpointId("sms/sandbox")
NUMBER = Address(Channel.SMS, "+12025550177")


async def hear(runtime: Runtime, text: str, vendor_id: str = "") -> Accepted:
    """The customer writes."""
    event = InboundMessage(
        endpoint=SMS, sender=NUMBER, text=text, sent_at=runtime.clock.now(), vendor_id=vendor_id or text
    )
    return await runtime.switchboard.accept(event)


async def fill(runtime: Runtime, conversation_id: str) -> None:
    """As many wait for its agents as ever may."""
    await runtime.store.redis.call("RPUSH", f"tl:{{s0}}:q:{conversation_id}:a", *["m0-X"] * QUEUE_MAX)


async def empty(runtime: Runtime, conversation_id: str) -> None:
    """Its agents have read it all."""
    await runtime.store.redis.call("DEL", f"tl:{{s0}}:q:{conversation_id}:a")


async def heard(runtime: Runtime, conversation_id: str) -> list[str]:
    """What its agents were told, or are to be."""
    found = await runtime.switchboard.transcript(conversation_id)
    return [one.content.text for one in found if one.side is SideName.AGENT]


async def test_what_a_full_conversation_cannot_take_is_held_shown_and_filed_later(runtime: Runtime) -> None:
    """Its sender was told that we have it, so we do."""
    conversation = (await hear(runtime, "one")).conversation_id
    await fill(runtime, conversation)
    accepted = await hear(runtime, "two")
    assert accepted.message_id and not accepted.duplicate
    again = await hear(runtime, "two")
    assert (again.message_id, again.duplicate) == (accepted.message_id, True)
    (view,) = (await runtime.switchboard.held()).items
    assert (view.why, view.last_text, len(view.candidates)) == ("queue_full", "two", 1)
    assert await heard(runtime, conversation) == ["one"]
    await empty(runtime, conversation)
    await hear(runtime, "three")
    assert await heard(runtime, conversation) == ["one", "two", "three"]
    assert (await runtime.switchboard.held()).items == []


async def test_a_stop_is_kept_and_holds_where_the_conversation_is_full(runtime: Runtime) -> None:
    conversation = (await hear(runtime, "one")).conversation_id
    await fill(runtime, conversation)
    accepted = await hear(runtime, "STOP")
    assert accepted.message_id and not accepted.duplicate
    (customer,) = await runtime.switchboard.find_customers(NUMBER)
    assert not any(one.consent for one in customer.bindings)


async def test_where_even_what_is_held_is_full_the_vendor_keeps_it(runtime: Runtime) -> None:
    """It is told that we have not taken it, and delivers it again."""
    conversation = (await hear(runtime, "one")).conversation_id
    await fill(runtime, conversation)
    await hear(runtime, "two")
    (held,) = await runtime.store.hidden_before(0, runtime.clock.now() + 1)
    await fill(runtime, held)
    with pytest.raises(LocalFault):
        await hear(runtime, "three")
    await empty(runtime, held)
    assert (await hear(runtime, "three")).message_id
