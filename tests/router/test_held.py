"""What cannot be matched: agents see it, may file it, and its sender is asked again when something new comes."""

import asyncio
import logging
from typing import Any

import structlog
from click.testing import CliRunner
from prometheus_client import REGISTRY

from channels.messages import Accepted, Address, Channel, InboundFile, InboundMessage, Kind
from health.report import EndpointId
from router.cli.app import throughline
from router.domain.conversation import Binding, Message, SideName
from router.gauges import StoreGauges
from router.holding import Filed, Holding
from router.runtime import Runtime

MAIL, SMS = EndpointId("email/sandbox"), EndpointId("sms/sandbox")
NUMBER = Address(Channel.SMS, "+12025550177")


async def hear(runtime: Runtime, text: str, sender: Address = NUMBER, **more: Any) -> Accepted:
    """Somebody writes."""
    endpoint = {Channel.EMAIL: MAIL, Channel.SMS: SMS}[sender.channel]
    more.setdefault("vendor_id", f"{sender}|{text}")
    event = InboundMessage(endpoint=endpoint, sender=sender, text=text, sent_at=runtime.clock.now(), **more)
    return await runtime.switchboard.accept(event)


async def two_open(runtime: Runtime, at: Address = NUMBER) -> tuple[str, str]:
    """References of two open conversations with the same place: what comes from there next is ambiguous."""
    bindings = [Binding(at, verified=True)]
    ann = await runtime.switchboard.create_customer(name="Ann", locale="en", bindings=bindings)
    references = []
    for subject in ("Parcel", "Invoice"):
        more: dict[str, Any] = {"subject": subject, "text": "Hello", "author": "a", "author_name": "Bo"}
        sent = await runtime.switchboard.open_conversation(ann.id, idempotency_key=subject, **more)
        references.append((await runtime.switchboard.conversation(sent.conversation_id)).conversation.reference)
    return references[0], references[1]


async def held_id(runtime: Runtime) -> str:
    """The only hidden conversation."""
    (found,) = await runtime.store.hidden_before(0, runtime.clock.now() + 1)
    return found


async def prompts(runtime: Runtime) -> list[Message]:
    """What the sender was asked."""
    store = runtime.store
    found = await store.messages(await store.transcript_ids(await held_id(runtime), 0, -1))
    return [one for one in found if one.kind is Kind.PROMPT]


async def heard(runtime: Runtime, reference: str) -> list[Message]:
    """What the agents of a conversation were told."""
    view = await runtime.switchboard.conversation(reference)
    found = await runtime.switchboard.transcript(view.conversation.id)
    return [one for one in found if one.side is SideName.AGENT]


async def test_after_filing_the_next_unmatched_message_is_asked_about_at_once(runtime: Runtime) -> None:
    """The bound is one prompt a matter, not ten minutes of silence after the sender has answered."""
    parcel, _ = await two_open(runtime)
    await hear(runtime, "It is broken.")
    await hear(runtime, "Do you hear me?")
    assert len(await prompts(runtime)) == 1
    await hear(runtime, f"ref {parcel}")
    assert [one.content.text for one in await heard(runtime, parcel)][:2] == ["It is broken.", "Do you hear me?"]
    elsewhere = Address(Channel.SMS, NUMBER.value)
    await runtime.store.redis.call("DEL", f"tl:{{s0}}:pair:{SMS}|{elsewhere}")  # nobody spoke there last
    assert not (await hear(runtime, "And another thing.")).conversation_id
    assert len(await prompts(runtime)) == 2


async def test_what_a_conversation_does_not_take_stays_held(runtime: Runtime) -> None:
    """It would be marked as filed, and be nowhere."""
    parcel, _ = await two_open(runtime)
    await hear(runtime, "It is broken.")
    holding, held = Holding(runtime.core), await held_id(runtime)
    assert await holding.file_from(held, "v0-0000000000000000000000", "", "") == Filed(0, 1)
    view = await runtime.switchboard.conversation(parcel)
    assert await holding.file_from(held, view.conversation.id, "", "") == Filed(1, 0)
    assert [one.content.text for one in await heard(runtime, parcel)] == ["It is broken."]


async def test_what_was_unverified_when_it_came_is_so_when_it_is_filed(runtime: Runtime) -> None:
    """A mail that failed DMARC proves no more about its sender for having waited."""
    parcel, _ = await two_open(runtime)
    await hear(runtime, "Pay me instead.", unverified=True)
    view = await runtime.switchboard.conversation(parcel)
    await Holding(runtime.core).file_from(await held_id(runtime), view.conversation.id, "", "")
    assert [one.unverified for one in await heard(runtime, parcel)] == [True]


async def test_what_is_filed_keeps_when_it_came_its_original_and_its_files(runtime: Runtime) -> None:
    """Whoever reads it later sees how long its sender has waited, and what the mail was before we read it."""
    mailbox = Address(Channel.EMAIL, "ann@example.org")
    parcel, _ = await two_open(runtime, mailbox)
    raw, picture = b"From: ann@example.org\r\n\r\nIt is broken.", InboundFile("box.png", "image/png", b"a picture")
    await hear(runtime, "It is broken.", mailbox, original=raw, files=(picture,), unverified=True)
    store = runtime.store
    (held_message,) = [
        one
        for one in await store.messages(await store.transcript_ids(await held_id(runtime), 0, -1))
        if one.side is SideName.AGENT
    ]
    came = held_message.created_at - 3 * 3600
    await store.redis.call("HSET", f"tl:{{s0}}:m:{held_message.id}", "ca", int(came * 1000))
    await runtime.switchboard.file_held(await held_id(runtime), parcel, who="Bo")
    (filed,) = await heard(runtime, parcel)
    assert abs(filed.created_at - came) < 0.01
    original, _ = await store.origin_of(filed.id)
    assert await runtime.core.files.read(original) == raw
    (file,) = filed.content.files
    assert await runtime.core.files.read(file.sha256) == b"a picture"
    listed = await runtime.switchboard.conversations()
    assert listed.items[0].conversation.reference == parcel, "who waits longest comes first"
    assert listed.items[0].conversation.waiting_since == filed.created_at
    conversation = filed.conversation_id
    for index in ("wait", f"at:{listed.items[0].customer_side.leg.endpoint}"):
        member = conversation if index == "wait" else f"{conversation}:c"
        assert int(await store.redis.call("ZSCORE", f"tl:{{s0}}:{index}", member)) == int(came * 1000), index


async def test_a_mail_that_is_filed_is_answered_in_its_thread(runtime: Runtime) -> None:
    """The sender's mail program shows the answer beside what they wrote; an SMS has no thread."""
    mailbox = Address(Channel.EMAIL, "ann@example.org")
    parcel, _ = await two_open(runtime, mailbox)
    conversation = (await runtime.switchboard.conversation(parcel)).conversation.id
    await hear(runtime, "It is broken.", mailbox, vendor_id="<1:2@mail.example.org>")
    await runtime.switchboard.file_held(await held_id(runtime), parcel, who="Bo")
    assert await runtime.store.mail_thread(conversation) == ("<1:2@mail.example.org>",)


async def test_what_is_filed_and_was_no_mail_has_no_thread(runtime: Runtime) -> None:
    """An id of a vendor's is no Message-ID."""
    parcel, _ = await two_open(runtime)
    await hear(runtime, "It is broken.", vendor_id="a:b:c")
    await runtime.switchboard.file_held(await held_id(runtime), parcel, who="Bo")
    conversation = (await runtime.switchboard.conversation(parcel)).conversation.id
    assert await runtime.store.mail_thread(conversation) == ()


async def status(runtime: Runtime) -> str:
    """The line of `throughline status` about it."""
    result = await asyncio.to_thread(CliRunner().invoke, throughline, ["status"])
    structlog.reset_defaults()  # it logs to the standard error of its own run, which is gone by now
    logging.getLogger().handlers.clear()
    assert result.exit_code == 0, result.output
    words = " ".join(result.stdout.split())
    return words.partition("Held: ")[2].partition(" Clockwork")[0]


async def test_status_says_how_many_wait_and_how_long(runtime: Runtime) -> None:
    """One line, that names the runbook's page as soon as something waits."""
    assert await status(runtime) == "nothing waits for a sender's proof"
    await two_open(runtime)
    await hear(runtime, "It is broken.")
    await hear(runtime, "Do you hear me?")
    await runtime.store.hold_again(await held_id(runtime), runtime.clock.now() - 12 * 60, 2)
    assert await status(runtime) == (
        "2 messages wait for a sender's proof; oldest 12 min. See deploy/runbook/held-messages.md"
    )


async def test_gauges_tell_how_much_waits_and_since_when(runtime: Runtime) -> None:
    """Both are 0 again once it is filed."""
    gauges, now = StoreGauges(runtime.store, runtime.board), runtime.clock.now()

    async def shown() -> tuple[float | None, float | None]:
        await gauges.refresh(now)
        names = ("throughline_held", "throughline_held_since_timestamp_seconds")
        return REGISTRY.get_sample_value(names[0]), REGISTRY.get_sample_value(names[1])

    parcel, _ = await two_open(runtime)
    await hear(runtime, "It is broken.")
    await runtime.store.hold_again(await held_id(runtime), 1_760_000_000.0, 1)
    assert await shown() == (1, 1_760_000_000.0)
    await hear(runtime, f"ref {parcel}")
    assert await shown() == (0, 0)


async def test_what_nobody_can_prove_is_not_listed(runtime: Runtime) -> None:
    """An auto-reply is kept, and nobody is asked about it; nor has a STOP a place to belong."""
    await two_open(runtime)
    await hear(runtime, "I am at the sea.", automatic=True)
    await hear(runtime, "STOP", Address(Channel.SMS, "+12025550188"))
    assert len(await runtime.store.hidden_before(0, runtime.clock.now() + 1)) == 2
    assert (await runtime.switchboard.held()).items == []
    await hear(runtime, "It is broken.")
    assert [(one.count, one.last_text) for one in (await runtime.switchboard.held()).items] == [(1, "It is broken.")]


async def test_each_filing_takes_what_came_since_the_one_before(runtime: Runtime) -> None:
    """Neither again what was filed then, nor all but the first of what is new."""
    parcel, invoice = await two_open(runtime)
    for number, reference in enumerate((parcel, invoice)):
        await hear(runtime, f"It is broken: {number}.")
        await hear(runtime, f"Very much: {number}.")
        held = await held_id(runtime)
        conversation = (await runtime.switchboard.conversation(reference)).conversation.id
        assert await Holding(runtime.core).file_from(held, conversation, "c", "Ann") == Filed(2, 0)
    assert [one.content.text for one in await heard(runtime, invoice)] == ["It is broken: 1.", "Very much: 1."]
