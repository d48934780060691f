"""What strangers and machines may write to us, and what must not come of it."""

import asyncio
import re
from typing import Any

import pytest
from prometheus_client import REGISTRY

from channels.messages import (
    About,
    Accepted,
    Address,
    Channel,
    InboundFile,
    InboundMessage,
    Kind,
    ReceiptEvent,
    ReceiptState,
)
from health.report import EndpointId
from router.core import Invalid
from router.domain.conversation import TEXT_MAX, Binding, Customer, Message, SideName
from router.mail_threads import conversation_of_mail
from router.receipts import take_receipt
from router.runtime import Runtime
from router.store.asked import LeaseTerms, Settlement

MAIL, SMS, CHAT = EndpointId("email/sandbox"), EndpointId("sms/sandbox"), EndpointId("chat/web")
NUMBER = Address(Channel.SMS, "+12025550177")
AGENT = Address(Channel.EMAIL, "sam@agents.test")
TERMS = LeaseTerms(lease_s=8.0, hold_s={"normal": 60.0}, idempotent=False, attempts_max=3)


async def hear(runtime: Runtime, text: str, sender: Address = NUMBER, **more: Any) -> Accepted:
    """Somebody writes."""
    endpoint = {Channel.EMAIL: MAIL, Channel.SMS: SMS, Channel.CHAT: CHAT}[sender.channel]
    more.setdefault("vendor_id", f"{sender}|{text}")
    event = InboundMessage(endpoint=endpoint, sender=sender, text=text, sent_at=runtime.clock.now(), **more)
    return await runtime.switchboard.accept(event)


async def said(runtime: Runtime, conversation_id: str, side: SideName = SideName.CUSTOMER) -> list[Message]:
    """What one side of a conversation was told, or is to be."""
    found = await runtime.switchboard.transcript(conversation_id)
    return [one for one in found if one.side is side]


async def held_at(runtime: Runtime, place: str) -> list[Message]:
    """Everything in the hidden conversation of a place."""
    store = runtime.core.store
    found = []
    for key in [one async for one in store.redis.client.scan_iter("tl:{s0}:s:h0-*:c")]:
        row = await store.redis.call("HGETALL", key)
        if row["ad"] == place:
            identity = str(key).removeprefix("tl:{s0}:s:").removesuffix(":c")
            found += await store.messages(await store.transcript_ids(identity, 0, -1))
    return found


async def answered_by_mail(runtime: Runtime) -> str:
    """A conversation whose agent answers from a mailbox."""
    conversation = (await hear(runtime, "Where is my parcel?")).conversation_id
    await runtime.switchboard.create_agent(name="Sam", team="", bindings=[Binding(AGENT, verified=True)])
    await runtime.switchboard.bind_agent_side(conversation, endpoint=MAIL, address=AGENT, who="test")
    return conversation


async def test_an_agents_mail_is_said_to_the_customer(runtime: Runtime) -> None:
    """It carries the signed token that our mail to the agent had in its reply address."""
    conversation = await answered_by_mail(runtime)
    token = runtime.core.reply_token(conversation)
    await hear(runtime, "In Lyon.", AGENT, reply_token=token)
    assert [one.content.text for one in await said(runtime, conversation)] == ["In Lyon."]


async def test_an_agents_address_is_nobody_elses_whichever_customer_has_it(runtime: Runtime) -> None:
    """As none may by now. Without a token nobody knows to whom an agent speaks, and least of all to that customer."""
    await answered_by_mail(runtime)
    await runtime.core.people.create(Customer("c0-ANN", "Ann", "en", (Binding(AGENT, verified=True),), 1.0))
    anns = await opened_with(runtime, "c0-ANN")
    assert not (await hear(runtime, "In Lyon.", AGENT)).conversation_id
    found = await runtime.switchboard.transcript(anns)
    assert [one.content.text for one in found] == ["Hello."]


async def opened_with(runtime: Runtime, customer_id: str) -> str:
    """A conversation that an agent begins; its first message waits to be sent."""
    sent = await runtime.switchboard.open_conversation(
        customer_id, subject="", text="Hello.", author="a", author_name="Bo", idempotency_key="k"
    )
    return sent.conversation_id


@pytest.mark.parametrize("sent", [False, True], ids=["before we wrote there", "after it"])
async def test_what_comes_from_a_claimed_number_is_its_owners_until_we_have_written_there(
    runtime: Runtime, sent: bool
) -> None:
    """Anybody may claim a number in a form: what its owner writes to us must not stand in the claimant's matter."""
    claimed = [Binding(NUMBER, verified=False)]
    mallory = await runtime.switchboard.create_customer(name="Mallory", locale="en", bindings=claimed)
    conversation = await opened_with(runtime, mallory.id)
    if sent:
        (leased,) = await runtime.core.store.lease(SMS, "w", 1, TERMS)
        end = Settlement(leased.conversation_id, leased.side, leased.message_id, leased.number, leased.fence, "sent")
        await runtime.core.store.settle(0, [end])
    accepted = await hear(runtime, "My card was stolen.")
    assert (accepted.conversation_id == conversation) is sent


async def test_an_agents_out_of_office_is_not_said_to_the_customer(runtime: Runtime) -> None:
    """Two mailboxes that answer by themselves would talk for ever, in our name (RFC 3834, section 2)."""
    conversation = await answered_by_mail(runtime)
    token = runtime.core.reply_token(conversation)
    accepted = await hear(runtime, "I am at the sea.", AGENT, reply_token=token, automatic=True)
    assert accepted.message_id, "kept all the same"
    assert await said(runtime, conversation) == []


async def test_a_forged_agents_mail_is_not_said_to_the_customer(runtime: Runtime) -> None:
    """Who fails DMARC does not speak in our name, not even with the token: customers have it, too."""
    conversation = await answered_by_mail(runtime)
    token = runtime.core.reply_token(conversation)
    accepted = await hear(runtime, "Send your PIN to me.", AGENT, reply_token=token, unverified=True)
    assert accepted.message_id, "kept all the same"
    assert await said(runtime, conversation) == []


async def test_a_reference_in_many_strange_hands_floods_nobody_with_codes(runtime: Runtime) -> None:
    """Chat sessions cost nothing; each that claims a reference would send the customer a text message."""
    conversation = (await hear(runtime, "Hello")).conversation_id
    reference = (await runtime.switchboard.conversation(conversation)).conversation.reference
    for number in range(8):
        await hear(runtime, f"ref {reference}", Address(Channel.CHAT, f"stranger{number:02}"))
    codes = [one for one in await said(runtime, conversation) if one.kind is Kind.PROMPT]
    assert len(codes) == 3
    prompts = [len(await held_at(runtime, f"chat:stranger{number:02}@chat/web")) for number in range(8)]
    assert set(prompts) == {2}, "each is asked alike: none can tell whether a code went out"


async def test_many_guesses_at_once_are_five_guesses(runtime: Runtime) -> None:
    """Whoever sends their guesses all at once gets no more of them than one who waits."""
    conversation = (await hear(runtime, "Hello")).conversation_id
    reference = (await runtime.switchboard.conversation(conversation)).conversation.reference
    stranger = Address(Channel.SMS, "+12025550666")
    await hear(runtime, f"ref {reference}", stranger)
    (code,) = [one for one in await said(runtime, conversation) if one.kind is Kind.PROMPT]
    right = re.search(r"[0-9]{6}", code.content.text)
    assert right is not None
    guesses = [f"{(int(right[0]) + step) % 10**6:06d}" for step in range(1, 16)]
    await asyncio.gather(*(hear(runtime, guess, stranger) for guess in guesses))
    await hear(runtime, right[0], stranger)
    filed = [one.content.text for one in await said(runtime, conversation, SideName.AGENT)]
    assert filed == ["Hello"], "the claim ended with the fifth wrong guess"


async def test_who_said_stop_is_not_asked_for_a_reference_there(runtime: Runtime) -> None:
    """Held messages are asked about, but never where consent was withdrawn."""
    await hear(runtime, "Hello")
    (customer,) = await runtime.switchboard.find_customers(NUMBER)
    for number in range(2):
        await runtime.switchboard.open_conversation(
            customer.id, subject="", text=f"About {number}", author="a", author_name="A", idempotency_key=str(number)
        )
    await hear(runtime, "STOP")
    before = len(await held_at(runtime, str(NUMBER)))
    await hear(runtime, "and what of it?")
    prompts = [one for one in await held_at(runtime, str(NUMBER)) if one.kind is Kind.PROMPT]
    assert prompts == []
    assert len(await held_at(runtime, str(NUMBER))) == before + 1, "kept all the same"


async def test_an_agents_place_is_normalised_and_checked(runtime: Runtime) -> None:
    """As every other address: else their answers, which come from the normal form, match nothing."""
    conversation = (await hear(runtime, "Hello")).conversation_id
    shown = await runtime.switchboard.bind_agent_side(
        conversation, endpoint=MAIL, address=Address(Channel.EMAIL, "Sam@Agents.Test"), who="test"
    )
    assert shown.agent_side.leg.address == AGENT


async def test_the_reference_of_a_conversation_that_is_gone_holds_nothing_up(runtime: Runtime) -> None:
    """Archived after its time: whoever writes it again means a matter of their own, and must not wait for a code."""
    first = (await hear(runtime, "My kettle leaks")).conversation_id
    reference = (await runtime.switchboard.conversation(first)).conversation.reference
    store = runtime.core.store
    for leased in await store.lease(EndpointId("chat/console"), "w", 1, TERMS):
        await store.settle(
            0, [Settlement(first, leased.side, leased.message_id, leased.number, leased.fence, "delivered")]
        )
    await store.close(first)
    row = await store.redis.call("HMGET", f"tl:{{s0}}:v:{first}", "sq", "ca")
    assert await store.forget(first, sequence=row[0], closed_at=row[1]) == "ok"
    again = await hear(runtime, f"ref {reference} it leaks again")
    assert again.conversation_id not in {"", first}, "it opened a conversation, where somebody reads it"


async def test_a_full_list_of_addresses_keeps_no_message_out(runtime: Runtime) -> None:
    """The fifty-first address is not learned; what was written from it is taken all the same."""
    conversation = (await hear(runtime, "Hello")).conversation_id
    (customer,) = await runtime.switchboard.find_customers(NUMBER)
    for number in range(49):
        binding = Binding(Address(Channel.EMAIL, f"k{number}@customer.test"))
        await runtime.switchboard.set_binding(customer.id, binding)
    token = runtime.core.reply_token(conversation)
    accepted = await hear(runtime, "From work", Address(Channel.EMAIL, "kim@work.test"), reply_token=token)
    assert accepted.conversation_id == conversation
    assert (await hear(runtime, "Again", Address(Channel.EMAIL, "kim@work.test"), reply_token=token)).message_id


async def test_what_is_given_to_another_agent_no_longer_reaches_the_first(runtime: Runtime) -> None:
    """The agent's side was at Sam's own mailbox; Toni's answers come from elsewhere."""
    conversation = (await hear(runtime, "Hello")).conversation_id
    desk = runtime.switchboard
    sam = await desk.create_agent(name="Sam", team="", bindings=[Binding(AGENT, verified=True)])
    toni = await desk.create_agent(name="Toni", team="", bindings=[])
    await desk.update_conversation(conversation, assignee=sam.id)
    await desk.bind_agent_side(conversation, endpoint=MAIL, address=AGENT, who="test")
    assert (await desk.update_conversation(conversation, assignee=sam.id)).agent_side.leg.address == AGENT
    shown = await desk.update_conversation(conversation, assignee=toni.id)
    assert shown.agent_side.leg.endpoint == "chat/console"


async def test_an_address_is_an_agents_or_a_customers_and_never_both(runtime: Runtime) -> None:
    """Staff give it to one; a claim in a form yields to an agent, a proven customer's is refused to agents."""
    board = runtime.switchboard
    await hear(runtime, "Hello")
    claimant = await board.create_customer(name="Mallory", locale="en", bindings=[Binding(AGENT, verified=False)])
    with pytest.raises(Invalid, match="customers_address"):
        await board.create_agent(name="Kim", team="", bindings=[Binding(NUMBER)])
    await board.create_agent(name="Sam", team="", bindings=[Binding(AGENT)])
    assert (await board.customer(claimant.id)).bindings == ()
    for attempt in (
        board.set_binding(claimant.id, Binding(AGENT)),
        board.create_customer(name="Eve", locale="en", bindings=[Binding(AGENT)]),
    ):
        with pytest.raises(Invalid, match="agents_address"):
            await attempt


async def test_what_an_agent_writes_is_the_agents_whoever_claims_their_address(runtime: Runtime) -> None:
    """A record of before, or a claim in the same moment: still nothing of the agent's is filed as a customer's."""
    conversation = await answered_by_mail(runtime)
    mallory = await runtime.switchboard.create_customer(name="Mallory", locale="en", bindings=[])
    await runtime.core.people.set_binding(mallory.id, Binding(AGENT, verified=True))
    token = runtime.core.reply_token(conversation)
    await hear(runtime, "In Lyon.", AGENT, reply_token=token)
    assert [one.content.text for one in await said(runtime, conversation)] == ["In Lyon."]
    assert (await runtime.switchboard.conversations(customer_id=mallory.id)).items == []
    assert await runtime.switchboard.matter(About(sender=AGENT)) is None


async def test_stop_holds_for_everybody_however_many_share_a_number(runtime: Runtime) -> None:
    """More than one call asks about: none of them may be left out."""
    crowd = [f"c0-CROWD{number:04d}" for number in range(230)]
    for identity in crowd:
        binding = Binding(NUMBER, None, verified=True)
        await runtime.core.people.create(Customer(identity, "Ann", "en", (binding,), 1.0))
    await hear(runtime, "STOP")
    async with asyncio.timeout(20.0):  # so many take a while, and what is not done in 1.5 s goes on behind the spool
        for identity in crowd:
            while await _consents(runtime, identity):
                await asyncio.sleep(0.05)


async def _consents(runtime: Runtime, identity: str) -> bool:
    customer = await runtime.core.people.customer(identity)
    return customer is None or any(one.consent for one in customer.bindings)


async def test_a_reference_is_found_among_more_conversations_than_one_call_reads(runtime: Runtime) -> None:
    """A shared number may have hundreds open; whoever names one is understood."""
    first = await hear(runtime, "Where is my order?")
    customer = (await runtime.switchboard.conversation(first.conversation_id)).conversation.customer_id
    opened = [first.conversation_id]
    for number in range(130):
        opening = await runtime.switchboard.open_conversation(
            customer, subject="", text="Hello", author="bob", author_name="Bob", idempotency_key=f"{number}"
        )
        opened.append(opening.conversation_id)
    for conversation_id in (opened[1], opened[70], opened[-1]):
        reference = (await runtime.switchboard.conversation(conversation_id)).conversation.reference
        assert (await hear(runtime, f"I mean {reference}, please")).conversation_id == conversation_id


async def test_files_beyond_the_limits_are_told_of(runtime: Runtime) -> None:
    """The agent knows that there was more, and can ask for it on another way."""
    files = tuple(InboundFile(f"{number}.txt", "text/plain", b"x" * number) for number in range(12))
    accepted = await hear(runtime, "See the files.", files=files)
    content = (await runtime.switchboard.message(accepted.message_id)).content
    assert [file.name for file in content.files] == [f"{number}.txt" for number in range(10)]
    assert content.text == "See the files.\n[not kept: 10.txt, 10 bytes]\n[not kept: 11.txt, 11 bytes]"


async def test_a_third_party_who_answers_in_the_thread_is_filed_but_proves_nothing(runtime: Runtime) -> None:
    """Whoever was copied knows the Message-ID: their mail joins marked, and neither moves nor becomes the customer."""
    ann, copied = Address(Channel.EMAIL, "ann@example.org"), Address(Channel.EMAIL, "copied@example.org")
    first = await hear(runtime, "My order never came.", ann, vendor_id="<one@example.org>")
    joined = await hear(runtime, "I know more.", copied, in_reply_to=("<one@example.org>",))
    assert joined.conversation_id == first.conversation_id
    view = await runtime.switchboard.conversation(first.conversation_id)
    assert view.customer_side.leg.address == ann
    assert [one.address for one in view.customer.bindings] == [ann]
    assert (await runtime.switchboard.message(joined.message_id)).unverified


@pytest.mark.parametrize("forged", [False, True], ids=["under a name of their own", "in the customer's name"])
async def test_a_stranger_who_knows_a_message_id_cannot_have_the_customers_mail_dropped(
    runtime: Runtime, forged: bool
) -> None:
    """They send something under it first; the customer's mail is still a mail of its own, and taken once."""
    ann, stranger = Address(Channel.EMAIL, "ann@example.org"), Address(Channel.EMAIL, "mallory@example.org")
    known = "<known@example.org>"
    await hear(runtime, "Nothing.", ann if forged else stranger, vendor_id=known, unverified=forged)
    hers = await hear(runtime, "My order never came.", ann, vendor_id=known)
    assert not hers.duplicate
    assert (await runtime.switchboard.message(hers.message_id)).content.text == "My order never came."
    again = await hear(runtime, "My order never came.", ann, vendor_id=known)
    assert (again.duplicate, again.message_id) == (True, hers.message_id), "read again over another connection"


async def test_a_message_id_that_two_senders_used_files_nobody_in_either_conversation(runtime: Runtime) -> None:
    """Who answers it could mean either; a stranger could lead a colleague's words into a matter of theirs."""
    ann, stranger = Address(Channel.EMAIL, "ann@example.org"), Address(Channel.EMAIL, "mallory@example.org")
    taken = [await hear(runtime, "Hello", one, vendor_id="<known@example.org>") for one in (stranger, ann)]
    copied = Address(Channel.EMAIL, "copied@example.org")
    answer = await hear(runtime, "I know more.", copied, in_reply_to=("<known@example.org>",))
    assert answer.conversation_id not in {"", *(one.conversation_id for one in taken)}


async def test_what_nobody_could_match_ends_after_thirty_quiet_days(runtime: Runtime) -> None:
    """Held messages are listed by when somebody last wrote, and close like everything else."""
    await hear(runtime, "Nobody knows me, about #4F2K9")
    store = runtime.core.store
    held = await store.hidden_before(0, runtime.clock.now() + 1)
    opened = await store.listed(0, "open", offset=0, limit=10)
    assert not set(held) & set(opened)
    for one in held:
        assert await store.close(one) == "ok"
    assert await store.hidden_before(0, runtime.clock.now() + 1) == []


async def test_a_conversation_of_ours_begins_elsewhere_when_the_wished_channel_does_not_work(runtime: Runtime) -> None:
    """`channel` is a wish: mail is led away from, so it begins by SMS."""
    bindings = [Binding(Address(Channel.EMAIL, "ann@example.org"), verified=True), Binding(NUMBER, verified=True)]
    ann = await runtime.switchboard.create_customer(name="Ann", locale="en", bindings=bindings)
    said = {"subject": "Recall", "text": "Please look.", "author": "a", "author_name": "Bo", "channel": Channel.EMAIL}
    first = await runtime.switchboard.open_conversation(ann.id, idempotency_key="one", **said)
    await runtime.switchboard.start_failover(scope=[MAIL], target=None, who="ops", why="a test", expires_in_s=60)
    second = await runtime.switchboard.open_conversation(ann.id, idempotency_key="two", **said)
    assert (first.endpoint, second.endpoint) == (MAIL, SMS)


async def test_merged_customers_keep_what_is_open_begin_anew_as_one_and_can_be_parted_again(runtime: Runtime) -> None:
    """No key moves; consent reaches every alias; undo takes back what was given."""
    board, mail = runtime.switchboard, Address(Channel.EMAIL, "ann@example.org")
    open_one = await hear(runtime, "by text")
    loser = (await board.conversation(open_one.conversation_id)).customer
    winner = await board.create_customer(name="Ann", locale="en", bindings=[Binding(mail, verified=True)])
    merged = await board.merge_customer(loser.id, winner.id)
    assert {one.address for one in merged.bindings} == {mail, NUMBER}
    assert (await hear(runtime, "still the same matter")).conversation_id == open_one.conversation_id
    await board.close_conversation(open_one.conversation_id, "ops")
    anew = await hear(runtime, "something else")
    assert (await board.conversation(anew.conversation_id)).customer.id == winner.id
    await board.set_binding(winner.id, Binding(NUMBER, verified=True, consent=False))
    assert not next(one for one in (await board.customer(loser.id)).bindings if one.address == NUMBER).consent
    await board.unmerge_customer(loser.id)
    assert [one.address for one in (await board.customer(winner.id)).bindings] == [mail]
    assert (await board.customer(loser.id)).alias_of == ""


async def sent_at(runtime: Runtime, endpoint: EndpointId, address: Address) -> tuple[str, str]:
    """A message of ours that an endpoint took: its id and its attempt's token."""
    bindings = [Binding(address, verified=True)]
    ann = await runtime.switchboard.create_customer(name="Ann", locale="en", bindings=bindings)
    sent = await runtime.switchboard.open_conversation(
        ann.id, subject="", text="Hi", author="a", author_name="A", idempotency_key=str(address)
    )
    (leased,) = await runtime.core.store.lease(endpoint, "w", 1, TERMS)
    end = Settlement(leased.conversation_id, leased.side, leased.message_id, leased.number, leased.fence, "sent")
    await runtime.core.store.settle(0, [end])
    return sent.message_id, leased.token


@pytest.mark.parametrize(
    ("endpoint", "address", "by", "becomes"),
    [
        pytest.param(SMS, NUMBER, SMS, "queued", id="its own: it is to go out elsewhere"),
        pytest.param(SMS, NUMBER, CHAT, "sent", id="another channel's"),
        pytest.param(SMS, NUMBER, EndpointId("sms/other"), "sent", id="another vendor's"),
        pytest.param(SMS, NUMBER, MAIL, "sent", id="a mailbox's, of a text message"),
        pytest.param(MAIL, AGENT, EndpointId("email/bounces"), "queued", id="a bounce at another mailbox"),
    ],
)
async def test_an_endpoint_says_nothing_of_another_endpoints_attempts(
    runtime: Runtime, endpoint: EndpointId, address: Address, by: EndpointId, becomes: str
) -> None:
    """Whoever holds one vendor's credentials, and a token, ends nothing that another vendor took."""
    message, token = await sent_at(runtime, endpoint, address)
    refused = REGISTRY.get_sample_value("throughline_receipts_refused_total", {"endpoint": by}) or 0.0
    event = ReceiptEvent(endpoint=by, state=ReceiptState.UNDELIVERED, at=runtime.clock.now(), token=token)
    await take_receipt(runtime.core, runtime.desk, event)
    assert (await runtime.switchboard.message(message)).state == becomes
    journal = [row for _, row in await runtime.core.store.journal_last(0, 100) if row["k"] == "receipt.refused"]
    count = (REGISTRY.get_sample_value("throughline_receipts_refused_total", {"endpoint": by}) or 0.0) - refused
    assert (len(journal), count) == ((1, 1.0) if becomes == "sent" else (0, 0.0))
    assert not journal or (journal[0]["ep"], journal[0]["m"]) == (by, message)


async def test_a_text_that_was_cut_still_fits_wherever_agents_read(runtime: Runtime) -> None:
    """The mark that says so, and the names of files that were not kept, count too: the console takes no more."""
    files = tuple(InboundFile(f"{number}.txt", "text/plain", b"x") for number in range(30))
    accepted = await hear(runtime, "x" * (TEXT_MAX + 1), vendor_id="long", files=files)
    message = await runtime.switchboard.message(accepted.message_id)
    assert isinstance(message, Message)
    assert len(message.content.text) <= TEXT_MAX
    assert "[...]" in message.content.text and "not kept" in message.content.text


async def test_the_names_of_files_leave_room_for_what_was_said(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where texts are kept short, long names of files that were not kept must not displace the words themselves."""
    short = runtime.core.settings.messages.model_copy(update={"text_max": 160})
    monkeypatch.setattr(runtime.core, "settings", runtime.core.settings.model_copy(update={"messages": short}))
    files = tuple(InboundFile(f"{number}-{'long' * 20}.txt", "text/plain", b"x") for number in range(20))
    accepted = await hear(runtime, "The pump is leaking.", files=files)
    message = await runtime.switchboard.message(accepted.message_id)
    assert isinstance(message, Message)
    assert (
        message.content.text.startswith("The pump is leaking.\n[not kept: 10-long") and len(message.content.text) <= 160
    )


async def test_a_mail_whose_taker_died_before_remembering_it_is_known_by_its_answers(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is delivered again finishes what was begun: else nobody would know what an answer to it belongs to."""

    async def die(*_: object) -> None:
        raise RuntimeError("killed")

    sender, vendor_id = Address(Channel.EMAIL, "ann@customer.test"), "<1@customer.test>"
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr("router.reception.remember_mail", die)
        await hear(runtime, "Where is it?", sender, vendor_id=vendor_id)
    assert not await conversation_of_mail(runtime.core, MAIL, vendor_id)
    again = await hear(runtime, "Where is it?", sender, vendor_id=vendor_id)
    assert again.duplicate
    assert await conversation_of_mail(runtime.core, MAIL, vendor_id) == again.conversation_id != ""
