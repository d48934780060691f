"""The WebSocket between a browser and us."""

import asyncio
import json

import aiohttp
import pytest

from channels.messages import Address, Channel, Kind, ReceiptState
from health.report import EndpointId, Status
from router.domain.conversation import Binding, MessageClass, MessageState, SideName
from router.web import chat_hub, chat_socket
from router.web.chat import CHAT_HUBS

SMS = EndpointId("sms/sandbox")


async def test_what_a_customer_says_is_accepted_before_it_is_taken(house):
    browser = await house.connect()
    taken = await browser.say("Where is my order?")
    said = house.switchboard.accepted[0]
    assert said.text == "Where is my order?"
    assert said.sender == Address(Channel.CHAT, browser.session)
    assert said.vendor_id == f"{browser.session}:client-id-1"
    assert taken["id"] == "client-id-1" and taken["message"]
    place = await browser.expect("place")
    assert place["reference"] == "4F2K9" and place["here"]


async def test_the_same_client_id_said_twice_is_one_message(house):
    browser = await house.connect()
    first = await browser.say("Hello")
    again = await house.connect(token=browser.token)
    second = await again.say("Hello")
    assert len(house.switchboard.accepted) == 1
    assert first["message"] == second["message"]


async def test_words_the_store_cannot_take_are_asked_for_again(house):
    browser = await house.connect()
    house.switchboard.broken = True
    await browser.send(type="say", id="client-id-1", text="Hello")
    wait = await browser.expect("wait")
    assert wait["id"] == "client-id-1" and wait["after_s"] > 0
    assert not house.switchboard.accepted
    house.switchboard.broken = False
    assert (await browser.say("Hello"))["message"]


async def test_a_message_is_delivered_and_its_acknowledgement_is_the_receipt(house):
    browser = await house.connect()
    await house.say_to(browser.session, "We are on it.", token="a0-77")
    message = await browser.expect("message")
    assert (message["text"], message["kind"]) == ("We are on it.", "message")
    assert "a0-77" not in json.dumps(message), "the attempt's token stays ours"
    await browser.send(type="seen", number=message["number"])
    assert (await browser.expect("noted"))["number"] == message["number"]
    receipt = house.switchboard.receipts[0]
    assert (receipt.token, receipt.state) == ("a0-77", ReceiptState.DELIVERED)


async def test_an_acknowledgement_the_store_cannot_take_is_not_noted(house):
    browser = await house.connect()
    await house.say_to(browser.session, "One")
    number = (await browser.expect("message"))["number"]
    house.switchboard.broken = True
    await browser.send(type="seen", number=number)
    await browser.send(type="ping")
    await browser.expect("pong")
    assert "noted" not in [frame["type"] for frame in browser.heard]
    house.switchboard.broken = False
    await browser.send(type="seen", number=number)
    await browser.expect("noted")


async def test_a_browser_that_comes_back_gets_what_it_has_not_acknowledged_and_nothing_else(house):
    browser = await house.connect()
    for number in (1, 2, 3):
        await house.say_to(browser.session, f"Message {number}", message_id=f"m0-{number}", token=f"a0-{number}")
    first = (await browser.expect("message"))["number"]
    await browser.send(type="seen", number=first)
    await browser.expect("noted")
    await browser.socket.close()
    again = await house.connect(token=browser.token, cursor=first)
    assert [(await again.expect("message"))["text"] for _ in range(2)] == ["Message 2", "Message 3"]
    assert again.session == browser.session


async def test_messages_come_while_nobody_is_there_and_are_delivered_later(house):
    browser = await house.connect()
    await browser.socket.close()
    await house.say_to(browser.session, "While you were away")
    again = await house.connect(token=browser.token)
    assert (await again.expect("message"))["text"] == "While you were away"


async def test_no_more_than_the_window_is_under_way_unacknowledged(house):
    browser = await house.connect()
    for number in range(1, 41):
        await house.say_to(browser.session, f"{number}", message_id=f"m0-{number}", token=f"a0-{number}")
    got = [(await browser.expect("message"))["text"] for _ in range(32)]
    assert got == [f"{number}" for number in range(1, 33)]
    with pytest.raises(TimeoutError):
        await browser.expect("message", within_s=0.6)


async def test_an_acknowledgement_makes_room_in_the_window(house):
    browser = await house.connect()
    for number in range(1, 36):
        await house.say_to(browser.session, f"{number}", message_id=f"m0-{number}", token=f"a0-{number}")
    for number in range(1, 36):
        message = await browser.expect("message")
        assert message["text"] == f"{number}"
        await browser.send(type="seen", number=message["number"])


async def test_a_forged_or_foreign_token_begins_a_new_session(house):
    browser = await house.connect()
    forged = browser.session + "." + "0" * 64
    for token in (forged, browser.session, "", "x" * 150, browser.token[:-1] + "é"):
        other = await house.connect(token=token)
        assert other.session != browser.session


async def test_history_shows_both_directions_and_nothing_that_is_not_the_customers(house):
    browser = await house.connect()
    taken = await browser.say("My question")
    talk = house.switchboard.by_key[f"{browser.session}:client-id-1"].conversation_id
    said = house.switchboard.said
    said(talk, "Sent by SMS", endpoint=SMS, state=MessageState.DELIVERED)
    said(talk, "Not said yet", state=MessageState.QUEUED)
    said(talk, "Taken back", state=MessageState.CANCELLED)
    said(talk, "For agents only", side=SideName.AGENT, author="g0-ben")
    said(talk, "Told to the agent", side=SideName.AGENT, kind=Kind.NOTICE, author="router")
    said(talk, "Code 123456", endpoint=SMS, message_class=MessageClass.SECRET)
    said(talk, "We are back here", kind=Kind.NOTICE, author="router")
    said(talk, "We go on here, by SMS", kind=Kind.NOTICE, author="router", endpoint=SMS)
    again = await house.connect(token=browser.token)
    lines = (await again.expect("history"))["lines"]
    assert [(line["from"], line["text"], line["via"]) for line in lines] == [
        ("customer", "My question", ""),
        ("us", "Sent by SMS", "sms"),
        ("notice", "We are back here", ""),
    ]
    assert lines[0]["id"] == taken["message"]
    assert lines[1]["author"] == "Ana"


async def test_one_session_never_sees_anothers_history(house):
    one = await house.connect()
    await one.say("Private")
    await (await house.connect()).say("Mine")
    other = await house.connect()
    await other.send(type="ping")
    await other.expect("pong")
    assert [frame["type"] for frame in other.heard] == ["welcome", "pong"]


async def test_a_long_history_comes_in_frames_within_the_limit(house):
    browser = await house.connect()
    await browser.say("Start")
    talk = next(iter(house.switchboard.views))
    for _ in range(30):
        house.switchboard.said(talk, "ä" * 9_000)
    again = await house.connect(token=browser.token)
    await again.expect("place")
    frames = [frame for frame in again.heard if frame["type"] == "history"]
    assert sum(len(frame["lines"]) for frame in frames) == 31
    assert all(len(json.dumps(frame, ensure_ascii=False).encode()) <= 64 * 1024 for frame in frames)


async def test_the_browser_hears_where_the_talk_went_and_that_it_is_back(house):
    browser = await house.connect()
    await browser.say("Hello")
    await browser.expect("place")
    talk = next(iter(house.switchboard.views))
    house.switchboard.move(talk, SMS, Address(Channel.SMS, "+12025550100"))
    place = await browser.expect("place")
    assert place == {
        "type": "place", "reference": "4F2K9", "here": False, "channel": "sms", "address": "+1•••0100", "next": [],
    }  # fmt: skip
    house.switchboard.move(talk, EndpointId("chat/web"), Address(Channel.CHAT, browser.session))
    assert (await browser.expect("place"))["here"]


async def test_the_browser_hears_of_trouble_and_of_its_end(house):
    browser = await house.connect()
    house.switchboard.set_status(Status.SUSPECT)
    assert (await browser.expect("trouble"))["on"] is True
    late = await house.connect()
    assert (await late.expect("trouble"))["on"] is True
    house.switchboard.set_status(Status.UP)
    assert (await browser.expect("trouble"))["on"] is False


async def test_what_is_said_in_one_tab_shows_in_the_other(house):
    one = await house.connect()
    two = await house.connect(token=one.token)
    taken = await one.say("From the first tab")
    line = (await two.expect("history"))["lines"][0]
    assert (line["id"], line["text"]) == (taken["message"], "From the first tab")


async def test_a_ninth_tab_closes_the_first(house):
    first = await house.connect()
    others = [await house.connect(token=first.token) for _ in range(8)]
    assert not any(other.socket.closed for other in others)
    message = await asyncio.wait_for(first.socket.receive(), 5)
    assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


async def _open_silent(house):
    return await house.http.ws_connect(f"{house.url}/chat/ws")


async def _ended(socket):
    message = await asyncio.wait_for(socket.receive(), 5)
    return message.type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}


async def test_a_socket_that_never_says_hello_counts_until_it_is_closed(house, monkeypatch, until):
    monkeypatch.setattr(chat_socket, "HELLO_WITHIN_S", 0.5)
    monkeypatch.setattr(chat_hub, "SOCKETS_MAX", 3)
    hub = next(iter(house._runner.app[CHAT_HUBS].values()))
    silent = [await _open_silent(house) for _ in range(3)]
    await until(lambda: hub.full)
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await _open_silent(house)
    assert refused.value.status == 503 and refused.value.headers["Retry-After"]
    assert all([await _ended(socket) for socket in silent])
    assert silent[0].close_code == 1008
    await until(lambda: not hub.full)
    assert await house.connect()


async def test_the_one_silent_longest_makes_room_and_a_browser_is_let_in(house, monkeypatch):
    """Whoever opens sockets by the thousand and says nothing keeps nobody out."""
    monkeypatch.setattr(chat_hub, "SILENT_MAX", 2)
    browser = await house.connect()
    silent = [await _open_silent(house) for _ in range(3)]
    assert await _ended(silent[0])
    assert not silent[1].closed and not silent[2].closed
    other = await house.connect()
    for one in (browser, other):
        await one.send(type="ping")
        await one.expect("pong")


async def test_details_with_consent_become_bindings(house):
    browser = await house.connect()
    await browser.say("Hello")
    await browser.send(
        type="details", name="Dana", email=" Dana@Customer.Example ", phone="+1 (202) 555-0100", consent=True
    )
    await browser.expect("details_taken")
    customer = next(iter(house.switchboard.customers.values()))
    added = {str(b.address): b for b in customer.bindings}
    assert added["sms:+12025550100"].consent and not added["sms:+12025550100"].verified
    assert not added["email:dana@customer.example"].verified
    place = await browser.expect("place")
    assert place["next"][0] == {"channel": "sms", "address": "+1•••0100"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"phone": "+12025550100", "consent": False}, "no_consent"),
        ({"phone": "12", "consent": True}, "bad_phone"),
        ({"phone": "+19005550100", "consent": True}, "bad_phone"),
        ({"phone": "+881612345678", "consent": True}, "bad_phone"),
        ({"email": "no mailbox", "consent": True}, "bad_email"),
        ({"email": "a@b.example\r\nBcc: c@d.example", "consent": True}, "bad_email"),
    ],
)
async def test_details_that_will_not_do_add_nothing(house, fields, reason):
    browser = await house.connect()
    await browser.say("Hello")
    await browser.send(type="details", **fields)
    assert (await browser.expect("details_refused"))["reason"] == reason
    assert len(next(iter(house.switchboard.customers.values())).bindings) == 1


async def test_a_form_takes_a_slip_and_its_correction_and_no_list_of_strangers(house):
    browser = await house.connect()
    await browser.say("Hello")
    answers = []
    for number in range(4):
        await browser.send(type="details", phone=f"+1202555010{number}", consent=True)
        answers.append(await browser.expect("details_taken" if number < 2 else "details_refused"))
    assert [one.get("reason") for one in answers] == [None, None, "enough", "enough"]
    assert len(next(iter(house.switchboard.customers.values())).bindings) == 3


STOPPED, AGENTS, NEW = "+12025550100", "+12025550101", "+12025550102"


async def _leave(house, *numbers):
    """A new visitor leaves numbers; what they are told, without times and ids of their own."""
    browser = await house.connect()
    await browser.say("Hello")
    browser.heard.clear()
    for number in numbers:
        await browser.send(type="details", phone=number, email="dana@customer.example", consent=True)
        await browser.send(type="ping")
        await browser.expect("pong")
    again = await house.connect(token=browser.token)
    await again.send(type="ping")
    await again.expect("pong")
    places = [one for one in (*browser.heard, *again.heard) if one["type"] == "place"]
    told = [(one["type"], one.get("reason")) for one in browser.heard]
    shown = [[(way["channel"], way["address"]) for way in place["next"]] for place in places]
    customer = next(
        one for one in house.switchboard.customers.values() if one.bindings[0].address.value == browser.session
    )
    return told, shown, {str(one.address): one for one in customer.bindings}


async def test_a_form_tells_nobody_who_said_stop_or_which_number_is_an_agents(house):
    """Whoever types a number has proven nothing: they are told the same of every one, also after they come back."""
    one = await house.connect()
    await one.say("Hello")
    stopped = Binding(Address(Channel.SMS, STOPPED), consent=False, verified=True)
    await house.switchboard.set_binding(next(iter(house.switchboard.customers)), stopped)
    house.switchboard.agents.add(Address(Channel.SMS, AGENTS))
    alike = []
    for number in (STOPPED, AGENTS, NEW):
        told, shown, _ = await _leave(house, number, "+12025550140", "+12025550141")
        alike.append(json.dumps([told, shown]).replace(number[-4:], "####"))
    assert alike[0] == alike[1] == alike[2]


async def test_a_form_does_not_undo_a_stop_and_is_kept_for_the_day_of_start(house):
    one = await house.connect()
    await one.say("Hello")
    stopped = Binding(Address(Channel.SMS, STOPPED), consent=False, verified=True)
    await house.switchboard.set_binding(next(iter(house.switchboard.customers)), stopped)
    _, _, kept = await _leave(house, STOPPED)
    assert not kept[f"sms:{STOPPED}"].consent
    assert kept["email:dana@customer.example"].consent, "the other one is not stopped"


async def test_an_agents_number_left_in_a_form_stays_the_agents(house):
    house.switchboard.agents.add(Address(Channel.SMS, AGENTS))
    told, _, kept = await _leave(house, AGENTS)
    assert ("details_taken", None) in told
    assert f"sms:{AGENTS}" not in kept and kept["email:dana@customer.example"].consent, "nothing else is lost"


async def test_who_has_proven_an_address_theirs_is_told_that_it_is_stopped(house):
    browser = await house.connect()
    await browser.say("Hello")
    stopped = Binding(Address(Channel.SMS, STOPPED), consent=False, verified=True)
    await house.switchboard.set_binding(next(iter(house.switchboard.customers)), stopped)
    await browser.send(type="details", phone=STOPPED, consent=True)
    assert (await browser.expect("details_refused"))["reason"] == "opted_out"


async def test_who_talks_too_fast_waits_and_loses_nothing(house):
    browser = await house.connect()
    for number in range(11):
        await browser.send(type="say", id=f"client-id-{number}", text=str(number))
    wait = await browser.expect("wait")
    assert wait["id"] == "client-id-10"
    assert len(house.switchboard.accepted) == 10


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"type":"say","id":"x","text":"short id"}',
        '{"type":"hello"}',
        '{"type":"seen","number":-1}',
        '{"type":"say","id":"client-id-1","text":"a","admin":true}',
    ],
)
async def test_a_malformed_frame_closes_the_socket_and_accepts_nothing(house, text):
    browser = await house.connect()
    await browser.socket.send_str(text)
    message = await asyncio.wait_for(browser.socket.receive(), 5)
    assert message.type is aiohttp.WSMsgType.CLOSE and message.data == 1008
    assert not house.switchboard.accepted


async def test_a_frame_over_the_limit_closes_the_socket(house):
    browser = await house.connect()
    await browser.send(type="say", id="client-id-1", text="x" * 70_000)
    message = await asyncio.wait_for(browser.socket.receive(), 5)
    assert message.type is aiohttp.WSMsgType.CLOSE and message.data == 1009


async def test_an_empty_message_is_refused_in_words(house):
    browser = await house.connect()
    await browser.send(type="say", id="client-id-1", text=" \x00 ")
    assert (await browser.expect("refused"))["reason"] == "empty"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://shop.example", 101),
        ("https://talk.example", 101),
        ("https://shop.example.evil.example", 403),
        ("http://shop.example", 403),
        ("null", 403),
    ],
)
async def test_only_listed_origins_and_our_own_come_in(house, origin, status):
    try:
        await house.connect(origin=origin)
        got = 101
    except aiohttp.WSServerHandshakeError as error:
        got = error.status
    assert got == status


async def test_our_own_origin_always_comes_in(house):
    assert await house.connect(origin=house.url)


async def test_the_page_has_a_strict_policy_and_the_widget_is_small(house):
    async with house.http.get(f"{house.url}/chat") as page:
        policy = page.headers["Content-Security-Policy"]
        body = await page.text()
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "<style" not in body and "onload" not in body and "<script>" not in body
    size = 0
    for name in ("widget.js", "link.js", "style.js", "words.js"):
        async with house.http.get(
            f"{house.url}/chat/{name}", headers={"Accept-Encoding": "gzip"}, auto_decompress=False
        ) as file:
            assert file.headers["Access-Control-Allow-Origin"] == "*"
            size += len(await file.read())
    assert size < 15_000, "bytes over the wire"


async def test_the_beat_says_that_a_web_process_is_there(house):
    async with asyncio.timeout(5):
        while await house.store.get("beat") is None:
            await asyncio.sleep(0.02)
    await house.adapter.probe()


async def test_an_unknown_chat_is_not_found(house):
    async with house.http.get(f"{house.url}/chat/ws?endpoint=chat/other") as answer:
        assert answer.status == 404


async def test_one_source_begins_few_conversations_and_all_together_no_endless_number(house):
    """Each begun conversation is kept until somebody closes it; sessions are free."""
    hub = next(iter(house._runner.app[CHAT_HUBS].values()))
    assert [bool(hub.may_begin("203.0.114.9")) for _ in range(11)] == [False] * 10 + [True]
    assert not hub.may_begin("198.51.101.4"), "somebody else is not kept waiting"
    assert [bool(hub.may_begin(f"2a00:1450:4001:81b::{number:x}")) for number in range(1, 12)].count(True) == 1
    proxied = [bool(hub.may_begin("10.0.0.7")) for _ in range(400)]
    assert not any(proxied[:150]) and proxied[-1], "behind a proxy all are one, and bounded together"


async def test_who_may_not_begin_yet_waits_and_a_talk_that_began_goes_on(house):
    hub = next(iter(house._runner.app[CHAT_HUBS].values()))
    old = await house.connect()
    await old.say("Hello")
    while not hub.may_begin("127.0.0.1"):
        pass
    new = await house.connect()
    await new.send(type="say", id="client-id-1", text="Hello")
    wait = await new.expect("wait")
    assert wait["id"] == "client-id-1" and 0 < wait["after_s"] <= 1
    await old.say("Still here")
