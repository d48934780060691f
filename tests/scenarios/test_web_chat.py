"""A customer in our own chat closes the browser before the answer comes."""

import asyncio

from channels.chat import webchat
from health.report import Status


class Browser:
    """The widget's half of the socket."""

    def __init__(self, socket):
        self.socket = socket
        self.token = ""

    async def expect(self, kind, within_s=10.0):
        async with asyncio.timeout(within_s):
            while (frame := await self.socket.receive_json())["type"] != kind:
                pass
            return frame


async def browse(world, token="", cursor=0):
    browser = Browser(await world.http.ws_connect(world.settings.public_url + "/chat/ws"))
    await browser.socket.send_json({"type": "hello", "token": token, "cursor": cursor, "locale": "en"})
    browser.token = (await browser.expect("welcome"))["token"]
    return browser


async def test_an_answer_nobody_saw_in_the_chat_goes_to_the_phone_and_is_there_when_they_return(
    build_world, monkeypatch
):
    """Unacknowledged: the next binding, and no word against the chat; back again: history, nothing twice."""
    monkeypatch.setattr(webchat, "RECEIPT_DUE_S", 2.0)
    async with build_world() as world:
        phone = world.pocket("+12025557001")
        browser = await browse(world)
        await browser.socket.send_json({"type": "say", "id": "client-0001", "text": "Is it in stock?"})
        reference = (await browser.expect("place"))["reference"]
        talk = await world.talk(reference)
        details = {"type": "details", "name": "Wim", "phone": phone.address, "consent": True}
        await browser.socket.send_json(details)
        await browser.expect("details_taken")
        await talk.answer("Let me look.")
        seen = await browser.expect("message")
        await browser.socket.send_json({"type": "seen", "number": seen["number"]})
        await talk.reaches("delivered", "Let me look.")
        await browser.socket.close()

        await talk.answer("Yes, three.")
        notice = await phone.expects("Example Shop", reference)
        assert "problem" not in notice.text, "nothing is wrong with the chat"
        await phone.expects("Yes, three.")
        assert await world.status("chat/web") is Status.UP

        again = await browse(world, browser.token, seen["number"])
        lines = (await again.expect("history"))["lines"]
        texts = [line["text"] for line in lines]
        assert [texts.count(one) for one in ("Is it in stock?", "Let me look.")] == [1, 1]
        assert sum("Yes, three." in one for one in texts) == 1
        await again.socket.send_json({"type": "say", "id": "client-0002", "text": "Great"})
        await talk.hears("Great")
        await talk.answer("Good.")
        while (shown := await again.expect("message"))["text"] != "Good.":
            assert shown["id"] in {line["id"] for line in lines}, "only what the history shows already"
        await again.socket.send_json({"type": "seen", "number": shown["number"]})
        await talk.reaches("delivered", "Good.")
        await again.socket.close()
        await world.ends_well(spoken=("Let me look.", "Yes, three.", "Good."))
