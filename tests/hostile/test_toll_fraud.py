"""Toll fraud: what a stranger with forged senders can make us say, and to whom, is bounded in numbers."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from channels.messages import Address, Channel, InboundMessage
from health.report import EndpointId
from router.domain.conversation import Message, SideName
from router.holding import Place
from router.runtime import Runtime, open_runtime
from router.settings import load_settings
from router.store.keys import place
from router.strangers import HOUR_S

SMS, PHONE, CHAT = EndpointId("sms/sandbox"), EndpointId("phone/sandbox"), EndpointId("chat/web")
PER_ADDRESS, PER_COUNTRY, OVERALL = 5, 8, 20
ABROAD = [Address(Channel.SMS, f"+2526123456{number:02}") for number in range(12)]
"""Mobile numbers in Somalia, a country that toll fraud is fond of."""
AT_HOME = [Address(Channel.SMS, f"+1202555{number:04}") for number in range(1_000, 1_030)]
PREMIUM = [Address(Channel.SMS, value) for value in ("+449098790000", "+19005550100", "+499001234567")]


@pytest.fixture
async def runtime(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runtime]:
    """The use cases over stand-in vendors, with limits that a test reaches soon."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THROUGHLINE_REDIS_URL", redis_url)
    limits = {"PER_ADDRESS_HOUR_MAX": PER_ADDRESS, "PER_COUNTRY_HOUR_MAX": PER_COUNTRY, "PER_HOUR_MAX": OVERALL}
    for name, value in limits.items():
        monkeypatch.setenv(f"THROUGHLINE_STRANGERS__{name}", str(value))
    async with open_runtime(load_settings(), "web") as opened:
        yield opened


async def _hear(runtime: Runtime, text: str, sender: Address, serial: int = 0, **more: Any) -> str:
    endpoint = {Channel.SMS: SMS, Channel.PHONE: PHONE, Channel.CHAT: CHAT}[sender.channel]
    event = InboundMessage(
        endpoint=endpoint,
        vendor_id=f"{sender}|{text}|{serial}",
        sender=sender,
        text=text,
        sent_at=runtime.clock.now(),
        **more,
    )
    return (await runtime.switchboard.accept(event)).conversation_id


async def _said_to(runtime: Runtime, *senders: Address) -> list[Message]:
    """What we say to these, outside of any conversation."""
    store, found = runtime.core.store, []
    for sender in senders:
        endpoint = {Channel.SMS: SMS, Channel.PHONE: PHONE}[sender.channel]
        hidden = Place(endpoint, place(sender), 0).conversation_id
        messages = await store.messages(await store.transcript_ids(hidden, 0, -1))
        found += [one for one in messages if one.side is SideName.CUSTOMER]
    return found


async def _a_reference(runtime: Runtime) -> tuple[str, str]:
    conversation = await _hear(runtime, "Where is my card?", Address(Channel.SMS, "+12025550999"))
    return conversation, (await runtime.switchboard.conversation(conversation)).conversation.reference


async def test_forged_senders_abroad_get_a_country_s_share_and_no_more(runtime: Runtime) -> None:
    """Twelve numbers ask with a reference they overheard: eight are answered, the words of all twelve are kept."""
    _, reference = await _a_reference(runtime)
    for sender in ABROAD:
        await _hear(runtime, f"ref {reference}", sender)
    assert len(await _said_to(runtime, *ABROAD)) == PER_COUNTRY
    store = runtime.core.store
    for sender in ABROAD:
        kept = await store.transcript_ids(Place(SMS, place(sender), 0).conversation_id, 0, -1)
        assert [one.content.text for one in await store.messages(kept[:1])] == [f"ref {reference}"]


async def test_a_flood_at_home_ends_at_the_limit_over_all(runtime: Runtime) -> None:
    """Thirty more forged senders: prompts and codes together stay within the hour's twenty."""
    conversation, reference = await _a_reference(runtime)
    for sender in AT_HOME:
        await _hear(runtime, f"ref {reference}", sender)
    codes = [one for one in await runtime.switchboard.transcript(conversation) if one.side is SideName.CUSTOMER]
    assert len(codes) == 3
    assert len(await _said_to(runtime, *AT_HOME)) + len(codes) == OVERALL


async def test_one_address_is_confirmed_five_times_an_hour_and_obeyed_every_time(runtime: Runtime) -> None:
    """STOP and START in turns, forged or not: the consent always follows, the confirmations end."""
    sender = AT_HOME[0]
    await _hear(runtime, "Hello", sender)
    for serial in range(21):
        await _hear(runtime, "START" if serial % 2 else "STOP", sender, serial)
    assert len(await _said_to(runtime, sender)) == PER_ADDRESS
    (customer,) = await runtime.switchboard.find_customers(sender)
    assert [one.consent for one in customer.bindings] == [False]
    other = AT_HOME[1]
    await _hear(runtime, "Hello", other)
    await _hear(runtime, "STOP", other)
    assert len(await _said_to(runtime, other)) == 1, "one address' flood takes nothing from the others"


@pytest.mark.parametrize("sender", PREMIUM, ids=lambda one: one.value)
async def test_a_number_that_earns_by_it_is_never_answered(runtime: Runtime, sender: Address) -> None:
    """Premium and shared-cost numbers: their words are kept, no prompt, no confirmation, no call."""
    _, reference = await _a_reference(runtime)
    await _hear(runtime, f"ref {reference}", sender)
    await _hear(runtime, f"ref {reference}", Address(Channel.PHONE, sender.value))
    await _hear(runtime, "STOP", sender)
    assert await _said_to(runtime, sender, Address(Channel.PHONE, sender.value)) == []


async def test_nobody_is_called_back_more_often_than_written_to(runtime: Runtime) -> None:
    """A caller with a forged number who claims a reference makes us ring that number: the same limits hold."""
    _, reference = await _a_reference(runtime)
    callers = [Address(Channel.PHONE, one.value) for one in ABROAD]
    for caller in callers:
        await _hear(runtime, f"ref {reference}", caller)
    assert len(await _said_to(runtime, *callers)) == PER_COUNTRY


async def test_the_limits_end_with_the_hour(runtime: Runtime) -> None:
    """Every counter ends by itself, and none holds an address in clear."""
    _, reference = await _a_reference(runtime)
    for sender in (*ABROAD, *AT_HOME):
        await _hear(runtime, f"ref {reference}", sender)
    redis = runtime.core.store.redis.client
    keys = [key async for key in redis.scan_iter("tl:strangers:*")]
    assert len(keys) > 10
    for key in keys:
        assert 0 < await redis.ttl(key) <= HOUR_S
        assert "2025" not in str(key)
        assert "2526" not in str(key)


@pytest.mark.parametrize("zero", ["0", "\u0660", "\u0966", "\uff10"])
async def test_a_code_may_be_typed_in_anybodys_digits(runtime: Runtime, zero: str) -> None:
    """Digits of other scripts are digits; signs that only look like them (`²`) are none; neither is a fault of ours."""
    conversation, reference = await _a_reference(runtime)
    stranger = AT_HOME[0]
    await _hear(runtime, f"ref {reference}", stranger)
    (code,) = [one for one in await runtime.switchboard.transcript(conversation) if one.side is SideName.CUSTOMER]
    right = "".join(sign for sign in code.content.text if sign.isdigit())[:6]
    await _hear(runtime, "²²²²²²", stranger)
    assert await _hear(runtime, "".join(chr(ord(zero) + int(sign)) for sign in right), stranger) == conversation
