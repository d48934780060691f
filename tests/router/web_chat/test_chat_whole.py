"""A browser, the real switchboard, the real dispatcher: the whole way there and back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
from aiohttp import web

from channels.messages import Channel
from channels.sms.twilio import TwilioSmsSettings
from health.report import EndpointId
from router.dispatcher import run_dispatcher
from router.domain.conversation import MessageState
from router.runtime import Runtime, open_runtime
from router.settings import Settings
from router.web.app import build_app

SMS = EndpointId("sms/acme")


@dataclass
class Shop:
    """A web role and a dispatcher, and a way to connect."""

    runtime: Runtime
    url: str
    http: aiohttp.ClientSession
    connect: object


@pytest.fixture
async def shop(redis_url, tmp_path, browse) -> AsyncIterator[Shop]:
    sms = TwilioSmsSettings(
        id=SMS,
        provider="twilio-sms",
        account_sid="AC" + "0" * 32,
        auth_token="t" * 32,
        from_number="+12025550182",
        api_base="http://127.0.0.1:9",
    )
    settings = Settings(
        organisation="Example Shop",
        redis_url=redis_url,
        data_dir=tmp_path,
        secret="s" * 40,
        public_url="http://127.0.0.1:1",
        endpoints=(sms,),
    )
    async with open_runtime(settings, "web") as runtime, aiohttp.ClientSession() as http:
        runner = web.AppRunner(build_app(runtime), shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        dispatching = asyncio.create_task(run_dispatcher(runtime, frozenset({Channel.CHAT})))
        try:
            yield Shop(runtime, url, http, lambda **more: browse(http, url, **more))
        finally:
            dispatching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await dispatching
            await runner.cleanup()


async def test_a_question_gets_its_answer_and_the_answer_its_receipt(shop):
    browser = await shop.connect()
    await browser.say("Where is my order?")
    place = await browser.expect("place")
    talk = await shop.runtime.switchboard.conversation(place["reference"])
    assert talk.last_text == "Where is my order?" and place["here"]

    sent = await shop.runtime.switchboard.send(
        talk.conversation.id, text="It is in Lyon.", author="a0-ana", author_name="Ana", idempotency_key="k1"
    )
    message = await browser.expect("message", within_s=10)
    assert (message["text"], message["id"], message["reference"]) == (
        "It is in Lyon.",
        sent.message_id,
        place["reference"],
    )
    await browser.send(type="seen", number=message["number"])
    await browser.expect("noted")
    async with asyncio.timeout(10):  # the browser may be faster than the dispatcher that records the send
        while (await shop.runtime.switchboard.message(sent.message_id)).state is not MessageState.DELIVERED:
            await asyncio.sleep(0.02)

    again = await shop.connect(token=browser.token, cursor=message["number"])
    lines = (await again.expect("history"))["lines"]
    assert [(line["from"], line["text"], line["author"]) for line in lines] == [
        ("customer", "Where is my order?", ""),
        ("us", "It is in Lyon.", "Ana"),
    ]
    assert lines[1]["id"] == sent.message_id


async def test_a_closed_conversation_is_still_shown_to_who_comes_back(shop):
    browser = await shop.connect()
    await browser.say("Thank you, bye")
    place = await browser.expect("place")
    await shop.runtime.switchboard.close_conversation(place["reference"], "ana")
    again = await shop.connect(token=browser.token)
    assert (await again.expect("history"))["lines"][0]["text"] == "Thank you, bye"


async def test_the_talk_goes_to_the_number_that_was_left_and_the_browser_is_told(shop):
    browser = await shop.connect()
    await browser.say("Hello")
    place = await browser.expect("place")
    await browser.send(type="details", name="Dana", phone="+12025550100", consent=True)
    await browser.expect("details_taken")
    assert (await browser.expect("place"))["next"] == [{"channel": "sms", "address": "+1•••0100"}]

    await shop.runtime.switchboard.move_customer_side(place["reference"], endpoint=SMS, who="ana", why="a try")
    moved = await browser.expect("place")
    assert (moved["here"], moved["channel"], moved["address"]) == (False, "sms", "+1•••0100")

    await browser.say("I am still here", "client-id-2")
    assert (await browser.expect("place"))["here"], "who writes in chat has it back in chat"


async def test_a_name_left_after_the_first_message_is_the_customers_unless_they_have_one(shop):
    """On one line, and only as long as a name is; the next one who sits there does not change it."""
    browser = await shop.connect()
    await browser.say("Hello")
    reference = (await browser.expect("place"))["reference"]
    for name in (" Dana\r\nVogt ", "Mallory"):
        await browser.send(type="details", name=name, consent=True)
        await browser.expect("details_taken")
        assert (await shop.runtime.switchboard.conversation(reference)).customer.name == "Dana Vogt"


async def test_an_outbox_that_was_lost_is_delivered_from_its_beginning(shop):
    browser = await shop.connect()
    await browser.say("Hello")
    place = await browser.expect("place")
    again = await shop.connect(token=browser.token, cursor=57)
    assert again.heard[0]["cursor"] == 0
    await shop.runtime.switchboard.send(
        (await shop.runtime.switchboard.conversation(place["reference"])).conversation.id,
        text="Number one",
        author="a0-ana",
        author_name="Ana",
        idempotency_key="k1",
    )
    assert (await again.expect("message", within_s=10))["text"] == "Number one"
