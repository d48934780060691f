"""Phone calls over Twilio, led end to end against the stand-in account: what is said, when, and what is recorded."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import aiohttp
import pytest
from aiohttp import web
from pydantic import TypeAdapter, ValidationError
from twilio.request_validator import RequestValidator

from channels.contract import Adapter
from channels.errors import LocalFault, WebhookRefused
from channels.messages import (
    About,
    Address,
    Channel,
    Content,
    InboundMessage,
    Kind,
    Matter,
    OutboundMessage,
    ReceiptEvent,
    ReceiptState,
    Received,
    Webhook,
)
from channels.phone.phrases import phrases_for
from channels.phone.twilio import TwilioVoiceAdapter, TwilioVoiceSettings
from channels.sandbox.twilio import Call, NoSuchCall, TwilioVoiceVendor
from channels.sandbox.vendor import Fault, Journal, Vendor
from channels.tools import Tools
from channels.wire.twiml import Dial, Gather, Hangup, Say, parse
from health.report import EndpointId
from tests.clocks import until

ENDPOINT = EndpointId("phone/sandbox")
CUSTOMER = "+15550100777"
AGENT = "+15550100888"
SECRET = "an-auth-token-nobody-may-see"
ACCOUNT = "AC" + "0" * 32
SID = "CA" + "1" * 32
MATTER = Matter(
    organisation="Acme <& Sons>",
    reference="4F2K9",
    locale="en-GB",
    subject="Refund of the red bicycle",
    what_happened="Our mail is down, so we call you.",
    open_question="Where is my refund?",
    last_reply="Your refund of 80 euros is on its way.",
    connect_to=AGENT,
)
WORDS = "Marked late: your refund is on its way."
SECRETS = ("Marked late", "mail is down", "80 euros", "bicycle", "Where is my refund")


class _Clock:
    def now(self) -> float:
        return 1_700_000_000.0

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Store:
    """What several processes share: the only thing that may tie the steps of a call together."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[str, float]] = {}

    async def get(self, key: str) -> str | None:
        return self.values[key][0] if key in self.values else None

    async def put(self, key: str, value: str, ttl_s: float) -> None:
        self.values[key] = value, ttl_s

    async def add(self, key: str, value: str, ttl_s: float) -> bool:
        raise AssertionError(key)

    async def delete(self, key: str) -> None:
        self.values.pop(key, None)

    async def collect(self, key: str, part: int, value: str, ttl_s: float) -> dict[int, str]:
        raise AssertionError(key)

    async def append(self, key: str, value: str, ttl_s: float) -> int:
        raise AssertionError(key)

    async def read_after(self, key: str, number: int, count: int) -> list[tuple[int, str]]:
        raise AssertionError(key)


class _NoFiles:
    async def read(self, sha256: str) -> bytes:
        raise FileNotFoundError(sha256)


@dataclass
class Router:
    """What `web` does with a webhook, in several processes: each step is taken by another adapter."""

    make: Callable[[], TwilioVoiceAdapter] | None = None
    url: str = ""
    matters: dict[str, Matter] = field(default_factory=dict)
    """By attempt token, or by a caller's number."""
    events: list[InboundMessage | ReceiptEvent] = field(default_factory=list)
    abouts: list[About] = field(default_factory=list)
    failures_left: int = 0
    babble: bool = False

    async def serve(self, request: web.Request) -> web.Response:
        assert self.make is not None
        if self.failures_left:
            self.failures_left -= 1
            return web.Response(status=503)
        webhook = Webhook(
            method=request.method, url=self.url + request.raw_path,
            path=request.path.removeprefix(f"/hooks/{ENDPOINT}").lstrip("/"), query=request.query,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=await request.read(), received_at=1_700_000_001.0,
        )  # fmt: skip
        try:
            received = await self.make().receive(webhook)
        except WebhookRefused as refused:
            return web.Response(status=refused.status)
        self.events += received.events
        matter = None
        if received.about is not None:
            self.abouts.append(received.about)
            sender = received.about.sender.value if received.about.sender else ""
            matter = self.matters.get(received.about.token or sender)
        if self.babble:
            return web.Response(text="<html>")
        reply = self.make().answer(received, matter)
        return web.Response(status=reply.status, body=reply.body, headers={"Content-Type": reply.content_type})

    def receipts(self) -> list[tuple[ReceiptState, str, bool]]:
        return [(event.state, event.reason, event.final) for event in self.events if isinstance(event, ReceiptEvent)]

    def messages(self) -> list[InboundMessage]:
        return [event for event in self.events if isinstance(event, InboundMessage)]


@dataclass
class House:
    vendor: TwilioVoiceVendor
    adapter: TwilioVoiceAdapter
    router: Router
    store: _Store

    async def ring(self) -> Call:
        """Place a call; it rings at the customer's."""
        await self.adapter.send(message())
        (call,) = self.vendor.calls
        return call

    async def over(self, call: Call) -> None:
        """Wait for its end and its final status."""
        await until(call.ended.is_set)
        if call.token:
            await until(lambda: any(final for _, _, final in self.router.receipts()))


def tools_for(http: aiohttp.ClientSession, public_url: str, store: _Store) -> Tools:
    return Tools(
        endpoint=ENDPOINT, http=http, clock=_Clock(), store=store, files=_NoFiles(),
        report=lambda report: None, organisation="Acme", public_url=public_url,
    )  # fmt: skip


def message(to: str = CUSTOMER, text: str = WORDS) -> OutboundMessage:
    return OutboundMessage(
        message_id="m1", conversation_id="c1", token="0.tok", kind=Kind.MESSAGE, to=Address(Channel.PHONE, to),
        content=Content(text), matter=MATTER, reply_token="reply.tok/+",
    )  # fmt: skip


def settings_for(**changes: object) -> TwilioVoiceSettings:
    table: dict[str, object] = {
        "id": ENDPOINT, "provider": "twilio-voice", "account_sid": ACCOUNT, "auth_token": SECRET,
        "from_number": "+15550100002",
    }  # fmt: skip
    return TypeAdapter(TwilioVoiceSettings).validate_python({**table, **changes})


@pytest.fixture
async def house() -> AsyncIterator[House]:
    router, store = Router(matters={"0.tok": MATTER}), _Store()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", router.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.05)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    router.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    vendor = TwilioVoiceVendor(ENDPOINT, Journal(), router.url)
    await vendor.start()
    table = {**vendor.endpoint_table(), "connect_allowed": (AGENT,)}
    settings = TypeAdapter(TwilioVoiceSettings).validate_python(table)
    async with aiohttp.ClientSession() as http:
        tools = tools_for(http, router.url, store)
        router.make = lambda: TwilioVoiceAdapter(settings, tools)
        yield House(vendor, TwilioVoiceAdapter(settings, tools), router, store)
        await vendor.stop()
    await runner.cleanup()


async def test_nothing_but_organisation_and_reference_is_said_before_a_key(house: House) -> None:
    """Whoever picks up: a matter is private until somebody acts."""
    call = await house.ring()
    await house.vendor.answer(call.sid)
    await until(lambda: call.waiting_for == "keys")
    heard = " ".join(call.said)
    assert "Acme <& Sons>" in heard
    assert "4 F 2 K 9" in heard
    assert not any(secret in heard for secret in SECRETS)
    await house.vendor.hang_up(call.sid)
    await house.over(call)
    assert house.router.receipts() == [(ReceiptState.UNCONFIRMED, "no_key", True)]


async def test_after_a_key_the_message_is_read_and_an_answer_taken_by_speech(house: House) -> None:
    """Every step by another adapter object: only the store ties them together."""
    call = await house.ring()
    await house.vendor.answer(call.sid)
    await house.vendor.press(call.sid, "#")
    await until(lambda: call.waiting_for == "words")
    assert any(MATTER.what_happened in said for said in call.said)
    assert any(WORDS in said for said in call.said)
    assert not any(MATTER.last_reply in said for said in call.said)
    assert house.router.receipts() == [(ReceiptState.DELIVERED, "key_pressed", False)]
    await house.vendor.say(call.sid, "Thanks & <see> you")
    await until(lambda: len(house.router.messages()) == 1 and call.waiting_for == "words")
    await house.vendor.press(call.sid, "42#")
    await until(lambda: len(house.router.messages()) == 2 and call.waiting_for == "words")
    await house.vendor.hang_up(call.sid)
    await house.over(call)
    first, second = house.router.messages()
    assert (first.vendor_id, first.text, first.reply_token) == (f"{call.sid}:1", "Thanks & <see> you", "reply.tok/+")
    assert (second.vendor_id, second.text) == (f"{call.sid}:2", "42")
    assert first.sender == Address(Channel.PHONE, CUSTOMER)
    assert house.router.receipts()[-1] == (ReceiptState.DELIVERED, "key_pressed", True)
    assert {event.token for event in house.router.events if isinstance(event, ReceiptEvent)} == {"0.tok"}


async def test_the_receipt_of_a_call_occupies_its_leg(house: House) -> None:
    receipt = await house.adapter.send(message())
    assert receipt.occupied_s == 600.0
    assert receipt.vendor_ids == (house.vendor.calls[0].sid,)


async def test_voicemail_gets_a_number_to_call_and_is_never_delivered(house: House) -> None:
    call = await house.ring()
    await house.vendor.to_voicemail(call.sid)
    await house.over(call)
    heard = " ".join(call.said)
    assert "4 F 2 K 9" in heard
    assert "+ 1 5 5 5 0 1 0 0 0 0 2" in heard
    assert not any(secret in heard for secret in SECRETS)
    assert house.router.receipts() == [(ReceiptState.UNCONFIRMED, "voicemail", True)]
    assert not any(key.startswith(("say:", "key:")) for key in house.store.values)


async def test_a_call_that_is_declined_or_not_answered_is_undelivered_this_once(house: House) -> None:
    call = await house.ring()
    await house.vendor.decline(call.sid)
    await house.over(call)
    (event,) = house.router.events
    assert isinstance(event, ReceiptEvent)
    assert (event.state, event.reason, event.permanent, event.final) == (
        ReceiptState.UNDELIVERED, "call_busy", False, True,
    )  # fmt: skip
    assert call.said == []


async def test_a_phone_nobody_picks_up_ends_no_answer(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("channels.sandbox.twilio.RING_S", 0.1)
    call = await house.ring()
    await house.over(call)
    assert call.status == "no-answer"
    assert house.router.receipts() == [(ReceiptState.UNDELIVERED, "call_no_answer", True)]


@pytest.mark.parametrize(
    ("auto", "state"), [("answer", ReceiptState.DELIVERED), ("voicemail", ReceiptState.UNCONFIRMED)]
)
async def test_in_automatic_mode_a_call_runs_by_itself(house: House, auto: Any, state: ReceiptState) -> None:
    house.vendor.auto = auto
    call = await house.ring()
    await house.over(call)
    assert house.router.receipts()[-1][0] is state
    said = [entry.text for entry in house.vendor.journal.entries if entry.details.get("event") == "say"]
    assert said == call.said


async def test_a_known_caller_hears_the_open_matter_after_the_same_key(house: House) -> None:
    house.router.matters[CUSTOMER] = MATTER
    sid = await house.vendor.call_in(CUSTOMER)
    (call,) = house.vendor.calls
    await until(lambda: call.waiting_for == "keys")
    assert not any(secret in " ".join(call.said) for secret in SECRETS)
    await house.vendor.press(sid, "5")
    await until(lambda: call.waiting_for == "words")
    assert any(MATTER.last_reply in said for said in call.said)
    await house.vendor.say(sid, "It has not come")
    await until(lambda: len(house.router.messages()) == 1)
    await house.vendor.hang_up(sid)
    await house.over(call)
    (found,) = house.router.messages()
    assert (found.sender.value, found.text, found.vendor_id) == (CUSTOMER, "It has not come", f"{sid}:1")
    assert house.router.receipts() == []
    assert {about.sender for about in house.router.abouts} == {Address(Channel.PHONE, CUSTOMER)}


async def test_a_caller_is_connected_to_a_free_agent_on_asking(house: House) -> None:
    house.router.matters[CUSTOMER] = MATTER
    sid = await house.vendor.call_in(CUSTOMER)
    (call,) = house.vendor.calls
    await house.vendor.press(sid, "1")
    await until(lambda: call.waiting_for == "words")
    await house.vendor.press(sid, "0#")
    await house.over(call)
    assert call.dialled == AGENT
    assert house.router.messages() == []


async def test_a_caller_whom_no_agent_answers_leaves_words(house: House) -> None:
    house.router.matters[CUSTOMER] = MATTER
    house.vendor.dial_status = "no-answer"
    sid = await house.vendor.call_in(CUSTOMER)
    (call,) = house.vendor.calls
    await house.vendor.press(sid, "1")
    await until(lambda: call.waiting_for == "words")
    await house.vendor.press(sid, "0#")
    await until(lambda: bool(call.dialled) and call.waiting_for == "words")
    await house.vendor.say(sid, "Call me back")
    await until(lambda: len(house.router.messages()) == 1)
    assert house.router.messages()[0].text == "Call me back"


@pytest.mark.parametrize("number", ["", "+15550999999"])
async def test_only_a_configured_number_is_ever_dialled(house: House, number: str) -> None:
    """Zero is then an answer like any other."""
    house.router.matters[CUSTOMER] = replace(MATTER, connect_to=number)
    sid = await house.vendor.call_in(CUSTOMER)
    (call,) = house.vendor.calls
    await house.vendor.press(sid, "1")
    await until(lambda: call.waiting_for == "words")
    await house.vendor.press(sid, "0#")
    await until(lambda: len(house.router.messages()) == 1)
    assert house.router.messages()[0].text == "0"
    assert call.dialled == ""


async def test_a_number_that_is_no_longer_allowed_is_not_dialled(house: House) -> None:
    """The offer is checked again when it is taken up."""
    fields = {"step": "connect", "n": "2"}
    for matter in (replace(MATTER, connect_to="+15550999999"), None):
        verbs = parse(house.adapter.answer(Received(fields=fields), matter).body)
        assert not any(isinstance(verb, Dial) for verb in verbs)


async def test_an_unknown_caller_hears_no_matter_and_leaves_words(house: House) -> None:
    """`write` is a whole call: it dials, says it, hangs up, and redials when nobody takes it."""
    house.router.failures_left = 1
    vendor_id = await house.vendor.write("+15550100999", "I am new here")
    await until(lambda: len(house.router.messages()) == 1)
    (found,) = house.router.messages()
    assert (found.vendor_id, found.sender.value, found.text) == (vendor_id, "+15550100999", "I am new here")
    assert not found.unverified
    entries = [entry for entry in house.vendor.journal.entries if not entry.to_customer]
    assert [(entry.text, entry.vendor_id) for entry in entries] == [("I am new here", vendor_id)]


@pytest.mark.parametrize("number", ["+266696687", "anonymous", "", "sip:a@b.example"])
async def test_a_caller_who_shows_no_number_is_told_so_before_saying_anything(house: House, number: str) -> None:
    """There would be nobody to answer, and two such callers must never be taken for one person."""
    await house.vendor.call_in(number)
    (call,) = house.vendor.calls
    await house.over(call)
    assert any(phrases_for("en").no_number in said for said in call.said)
    adapter = TwilioVoiceAdapter(settings_for(), tools_for_none(house))
    step = webhook({"From": number, "SpeechResult": "hello"}, path="answer", query="?n=1")
    assert (await adapter.receive(step)).events == ()
    assert house.router.abouts == []


async def test_a_forged_number_learns_nothing_and_what_it_says_is_marked(house: House) -> None:
    adapter = TwilioVoiceAdapter(settings_for(), tools_for_none(house))
    forged = {"From": CUSTOMER, "StirVerstat": "TN-Validation-Failed-A", "SpeechResult": "hello"}
    assert (await adapter.receive(webhook(forged, path="inbound"))).about is None
    (event,) = (await adapter.receive(webhook(forged, path="answer", query="?n=1"))).events
    assert isinstance(event, InboundMessage)
    assert event.unverified


async def test_two_calls_say_each_its_own_message(house: House) -> None:
    """Even though the conversation has gone on meanwhile; and nothing of them is kept after their end."""
    heard = []
    for number, text in enumerate(("the first thing", "the second thing")):
        sent = replace(message(text=text), token=f"{number}.tok")
        await house.adapter.send(sent)
        call = house.vendor.calls[-1]
        await house.vendor.answer(call.sid)
        await house.vendor.press(call.sid, "1")
        await until(lambda call=call: call.waiting_for == "words")
        heard.append([said for said in call.said if "thing" in said])
    assert heard == [["Our message to you: the first thing"], ["Our message to you: the second thing"]]
    for call in house.vendor.calls:
        await house.vendor.hang_up(call.sid)
    await until(lambda: sum(final for _, _, final in house.router.receipts()) == 2)
    assert not [key for key in house.store.values if key.startswith("say:")]


async def test_a_notice_is_what_happened_and_the_last_message_follows(house: House) -> None:
    await house.adapter.send(replace(message(text="Chat is down; we call."), kind=Kind.NOTICE))
    (call,) = house.vendor.calls
    await house.vendor.answer(call.sid)
    await house.vendor.press(call.sid, "1")
    await until(lambda: call.waiting_for == "words")
    at = call.said.index("Chat is down; we call.")
    assert call.said[at + 1] == f"Our message to you: {MATTER.last_reply}"


def tools_for_none(house: House) -> Tools:
    return replace(house.adapter._tools, public_url="https://throughline.example")


def webhook(form: dict[str, str], *, path: str, query: str = "", secret: str = SECRET, **changes: Any) -> Webhook:
    """A webhook as Twilio would sign it."""
    fields = {"CallSid": SID, "AccountSid": ACCOUNT, "Direction": "inbound", "From": CUSTOMER, "To": "+15550100002"}
    fields.update(form)
    url = f"https://throughline.example/hooks/{ENDPOINT}/{path}{query}"
    signed = Webhook(
        method="POST", url=url, path=path,
        query={name: values[0] for name, values in parse_qs(urlsplit(url).query).items()},
        headers={
            "x-twilio-signature": RequestValidator(secret).compute_signature(url, fields),
            "content-type": "application/x-www-form-urlencoded",
        },
        body=urlencode(fields).encode(), received_at=1_700_000_001.0,
    )  # fmt: skip
    return replace(signed, **changes)


BAD = [
    (webhook({"SpeechResult": "hi"}, path="answer"), 400),
    (webhook({"SpeechResult": "hi"}, path="answer", query="?n=0"), 400),
    (webhook({"SpeechResult": "hi"}, path="answer", query="?n=21"), 400),
    (webhook({"SpeechResult": "hi"}, path="answer", query="?n=%C2%B2"), 400),
]


@pytest.mark.parametrize(("bad", "status"), BAD)
async def test_a_webhook_we_cannot_trust_or_read_is_refused(house: House, bad: Webhook, status: int) -> None:
    adapter = TwilioVoiceAdapter(settings_for(), tools_for_none(house))
    with pytest.raises(WebhookRefused) as caught:
        await adapter.receive(bad)
    assert caught.value.status == status


async def test_a_step_asked_for_twice_files_one_message(house: House) -> None:
    """The same answer has the same id."""
    adapter = TwilioVoiceAdapter(settings_for(), tools_for_none(house))
    step = webhook({"SpeechResult": "yes"}, path="answer", query="?n=1&t=0.tok")
    first, again = await adapter.receive(step), await adapter.receive(step)
    assert first == again


@pytest.mark.parametrize("status", ["initiated", "ringing", "in-progress"])
async def test_a_call_under_way_is_no_receipt(house: House, status: str) -> None:
    adapter = TwilioVoiceAdapter(settings_for(), tools_for_none(house))
    assert (await adapter.receive(webhook({"CallStatus": status}, path="status", query="?t=1"))).events == ()


async def test_a_machine_with_a_key_is_still_no_delivery(house: House) -> None:
    adapter = TwilioVoiceAdapter(settings_for(), tools_for_none(house))
    await house.store.put(f"key:{SID}", "1", 1)
    await house.store.put(f"begun:{SID}", "1", 1)
    done = webhook({"CallStatus": "completed", "AnsweredBy": "machine_end_other"}, path="status", query="?t=1")
    (event,) = (await adapter.receive(done)).events
    assert isinstance(event, ReceiptEvent)
    assert event.state is ReceiptState.UNCONFIRMED


@pytest.mark.parametrize(
    ("locale", "language", "words"),
    [
        ("en-GB", "en-US", "Press any key"),
        ("es", "es-ES", "Pulse cualquier tecla"),
        ("fr_CA", "fr-FR", "Appuyez sur une touche"),
        ("de-AT", "de-DE", "Drücken Sie"),
        ("tlh", "en-US", "Press any key"),
    ],
)
async def test_a_call_speaks_the_customers_language(house: House, locale: str, language: str, words: str) -> None:
    received = Received(fields={"step": "call", "token": "t"})
    verbs = parse(house.adapter.answer(received, replace(MATTER, locale=locale)).body)
    gather = verbs[0]
    assert isinstance(gather, Gather)
    assert gather.language == language
    assert all(isinstance(verb, Say) and verb.language == language for verb in gather.prompt)
    assert any(isinstance(verb, Say) and words in verb.text for verb in gather.prompt)
    assert isinstance(verbs[-1], Hangup)


@pytest.mark.parametrize(
    "step", ["call", "voicemail", "inbound", "matter", "thanks", "connect", "nobody_free", "withheld", "goodbye"]
)
@pytest.mark.parametrize("locale", ["en", "es", "fr", "de"])
async def test_every_step_is_sayable_with_hostile_or_missing_matter(house: House, step: str, locale: str) -> None:
    """Names with markup or braces are spoken as they are; no step needs a matter."""
    hostile = replace(MATTER, organisation="{reference}</Say><Dial>", last_reply="{0} ]]> \x00" * 2000, locale=locale)
    for matter in (hostile, None, replace(MATTER, reference="", what_happened="", last_reply="")):
        parse(house.adapter.answer(Received(fields={"step": step, "token": "t", "n": "x"}), matter).body)
    assert "{" not in phrases_for(locale).press_key


async def test_a_call_lost_silently_rings_nowhere(house: House) -> None:
    await house.vendor.set_fault(Fault.LOSE_SILENTLY)
    await house.adapter.send(message())
    assert house.vendor.calls == []
    assert [entry.delivered for entry in house.vendor.journal.entries] == [False]


async def test_a_call_survives_a_web_process_that_restarts(house: House) -> None:
    """Each URL we give asks to be retried."""
    call = await house.ring()
    await house.vendor.answer(call.sid)
    await until(lambda: call.waiting_for == "keys")
    house.router.failures_left = 2
    await house.vendor.press(call.sid, "1")
    await until(lambda: call.waiting_for == "words")
    assert house.router.failures_left == 0


async def test_a_call_whose_words_were_never_fetched_is_undelivered_although_it_was_answered(house: House) -> None:
    """Web was dead meanwhile: the vendor is sorry, and calls it completed. The message goes out again elsewhere."""
    adapter = TwilioVoiceAdapter(settings_for(), tools_for_none(house))
    done = webhook({"CallStatus": "completed", "AnsweredBy": "human"}, path="status", query="?t=1")
    (event,) = (await adapter.receive(done)).events
    assert isinstance(event, ReceiptEvent)
    assert (event.state, event.reason, event.permanent) == (ReceiptState.UNDELIVERED, "never_said", False)


async def test_the_end_of_a_call_waits_for_a_store_that_stutters(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twilio gives up telling us after a few tries, and the leg would be taken for occupied for ten minutes."""
    await house.store.put(f"key:{SID}", "1", 1)
    await house.store.put(f"begun:{SID}", "1", 1)
    read, left = house.store.get, 3

    async def stutter(key: str) -> str | None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise LocalFault("the store is away")
        return await read(key)

    monkeypatch.setattr(house.store, "get", stutter)
    adapter = TwilioVoiceAdapter(settings_for(), tools_for_none(house))
    done = webhook({"CallStatus": "completed", "AnsweredBy": "human"}, path="status", query="?t=1")
    (event,) = (await adapter.receive(done)).events
    assert isinstance(event, ReceiptEvent)
    assert (event.state, event.final) == (ReceiptState.DELIVERED, True)


async def test_the_end_of_a_call_is_not_taken_while_the_store_stays_away(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is to be told again: what became of the call is written nowhere else."""

    async def away(key: str) -> str | None:
        raise LocalFault("the store is away")

    monkeypatch.setattr(house.store, "get", away)
    monkeypatch.setattr("channels.phone.twilio.STATUS_PATIENCE_S", 0.5)
    adapter = TwilioVoiceAdapter(settings_for(), tools_for_none(house))
    done = webhook({"CallStatus": "completed", "AnsweredBy": "human"}, path="status", query="?t=1")
    with pytest.raises(LocalFault):
        await adapter.receive(done)


async def test_a_router_that_talks_nonsense_ends_the_call_with_an_apology(house: House) -> None:
    house.router.babble = True
    call = await house.ring()
    await house.vendor.answer(call.sid)
    await house.over(call)
    assert call.said == ["We are sorry, an application error has occurred. Goodbye."]
    assert house.router.receipts() == [(ReceiptState.UNCONFIRMED, "no_key", True)]


async def test_the_phone_refuses_what_a_phone_cannot_do(house: House) -> None:
    with pytest.raises(NoSuchCall):
        await house.vendor.answer("CA0")
    call = await house.ring()
    with pytest.raises(ValueError, match="keys"):
        await house.vendor.press(call.sid, "hello")


@pytest.mark.parametrize(
    "changes", [{"from_number": "0555"}, {"connect_allowed": ("anyone",)}, {"locale": "Klingon"}, {"extra": 1}]
)
def test_wrong_settings_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        settings_for(**changes)


async def test_both_keep_their_contracts(house: House) -> None:
    adapter: Adapter = house.adapter
    vendor: Vendor = house.vendor
    await adapter.close()
    assert vendor.endpoint == ENDPOINT
