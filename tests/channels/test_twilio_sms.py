"""SMS over Twilio against the stand-in account, on real sockets; Twilio's own library signs the webhooks."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from twilio.request_validator import RequestValidator

from channels import twilio
from channels.contract import Adapter
from channels.errors import (
    EndpointMisconfigured,
    EndpointUnavailable,
    LocalFault,
    MessageRejected,
    OutcomeUnknown,
    RecipientUnreachable,
    SendFailed,
    Throttled,
    WebhookRefused,
)
from channels.messages import (
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
from channels.sandbox.twilio import TwilioSmsVendor
from channels.sandbox.vendor import Fault, Journal, Vendor
from channels.sms.twilio import TwilioSmsAdapter, TwilioSmsSettings
from channels.tools import Tools
from health.report import EndpointId
from tests.clocks import until

ENDPOINT = EndpointId("sms/sandbox")
CUSTOMER = "+15550100777"
SECRET = "an-auth-token-nobody-may-see"
ACCOUNT = "AC" + "0" * 32
SID = "SM" + "1" * 32


class _Clock:
    def now(self) -> float:
        return 1_700_000_000.0

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _NoStore:
    """SMS over Twilio keeps nothing."""

    async def get(self, key: str) -> str | None:
        raise AssertionError(key)

    async def put(self, key: str, value: str, ttl_s: float) -> None:
        raise AssertionError(key)

    async def add(self, key: str, value: str, ttl_s: float) -> bool:
        raise AssertionError(key)

    async def delete(self, key: str) -> None:
        raise AssertionError(key)

    async def collect(self, key: str, part: int, value: str, ttl_s: float) -> dict[int, str]:
        raise AssertionError(key)

    async def append(self, key: str, value: str, ttl_s: float) -> int:
        raise AssertionError(key)

    async def read_after(self, key: str, number: int, count: int) -> list[tuple[int, str]]:
        raise AssertionError(key)


class _NoFiles:
    async def read(self, sha256: str) -> bytes:
        raise FileNotFoundError(sha256)


def tools_for(http: aiohttp.ClientSession, public_url: str = "https://throughline.example") -> Tools:
    return Tools(
        endpoint=ENDPOINT, http=http, clock=_Clock(), store=_NoStore(), files=_NoFiles(),
        report=lambda report: None, organisation="Acme", public_url=public_url,
    )  # fmt: skip


def message(text: str = "Hello", to: str = CUSTOMER, token: str = "0.tok") -> OutboundMessage:
    return OutboundMessage(
        message_id="m1", conversation_id="c1", token=token, kind=Kind.MESSAGE,
        to=Address(Channel.SMS, to), content=Content(text), matter=Matter("Acme", "4F2K9", "en"),
    )  # fmt: skip


def settings_for(**changes: object) -> TwilioSmsSettings:
    table: dict[str, object] = {
        "id": ENDPOINT, "provider": "twilio-sms", "account_sid": ACCOUNT, "auth_token": SECRET,
        "from_number": "+15550100001",
    }  # fmt: skip
    merged = {name: value for name, value in {**table, **changes}.items() if value is not None}
    return TypeAdapter(TwilioSmsSettings).validate_python(merged)


@dataclass
class Router:
    """What `web` does with a webhook, without the durable part."""

    adapter: TwilioSmsAdapter | None = None
    url: str = ""
    events: list[InboundMessage | ReceiptEvent] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    failures_left: int = 0

    async def serve(self, request: web.Request) -> web.Response:
        assert self.adapter is not None
        if self.failures_left:
            self.failures_left -= 1
            return web.Response(status=500)
        webhook = Webhook(
            method=request.method, url=self.url + request.raw_path,
            path=request.path.removeprefix(f"/hooks/{ENDPOINT}").lstrip("/"), query=request.query,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=await request.read(), received_at=1_700_000_001.0,
        )  # fmt: skip
        try:
            received = await self.adapter.receive(webhook)
        except WebhookRefused as refused:
            self.refusals.append(refused.reason)
            return web.Response(status=refused.status)
        self.events += received.events
        reply = self.adapter.answer(received, None)
        return web.Response(status=reply.status, body=reply.body, headers={"Content-Type": reply.content_type})

    def receipts(self) -> list[ReceiptEvent]:
        return [event for event in self.events if isinstance(event, ReceiptEvent)]

    def messages(self) -> list[InboundMessage]:
        return [event for event in self.events if isinstance(event, InboundMessage)]


@dataclass
class House:
    vendor: TwilioSmsVendor
    adapter: TwilioSmsAdapter
    router: Router

    def taken(self) -> list[str]:
        return [entry.text for entry in self.vendor.journal.entries if entry.to_customer]


async def serve(handle: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> tuple[web.AppRunner, str]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.05)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def house(http: aiohttp.ClientSession) -> AsyncIterator[House]:
    router = Router()
    runner, router.url = await serve(router.serve)
    vendor = TwilioSmsVendor(ENDPOINT, Journal(), router.url)
    await vendor.start()
    settings = TypeAdapter(TwilioSmsSettings).validate_python(vendor.endpoint_table())
    router.adapter = TwilioSmsAdapter(settings, tools_for(http, router.url))
    yield House(vendor, router.adapter, router)
    await vendor.stop()
    await runner.cleanup()


def webhook(
    form: dict[str, str] | None = None, *, path: str = "", query: str = "", secret: str = SECRET, **changes: Any
) -> Webhook:
    """A webhook as Twilio would sign it."""
    fields = {"MessageSid": SID, "AccountSid": ACCOUNT, "From": CUSTOMER, "To": "+15550100001", "Body": "Hi"}
    fields.update(form or {})
    url = f"https://throughline.example/hooks/{ENDPOINT}" + (f"/{path}" if path else "") + query
    signed = Webhook(
        method="POST", url=url, path=path,
        query={name: values[0] for name, values in parse_qs(urlsplit(url).query).items()},
        headers={
            "x-twilio-signature": RequestValidator(secret).compute_signature(url, fields),
            "content-type": "application/x-www-form-urlencoded; charset=UTF-8",
        },
        body=urlencode(fields).encode(), received_at=1_700_000_001.0,
    )  # fmt: skip
    return replace(signed, **changes)


async def test_a_message_is_sent_and_its_receipts_carry_its_token(house: House) -> None:
    receipt = await house.adapter.send(message("Grüße, it's fixed & done 🙂", token="3.a+b/=&?"))
    (sid,) = receipt.vendor_ids
    await until(lambda: len(house.router.receipts()) == 2)
    (entry,) = house.vendor.journal.entries
    assert (entry.customer, entry.text, entry.vendor_id) == (CUSTOMER, "Grüße, it's fixed & done 🙂", sid)
    assert [event.state for event in house.router.receipts()] == [ReceiptState.SENT, ReceiptState.DELIVERED]
    assert {(event.token, event.vendor_id) for event in house.router.receipts()} == {("3.a+b/=&?", sid)}


async def test_what_a_customer_writes_arrives_once_and_in_order(house: House) -> None:
    """A router that fails at first is tried again, and nothing overtakes."""
    house.router.failures_left = 2
    sids = [await house.vendor.write(CUSTOMER, f"part {number} & <more>") for number in range(5)]
    await until(lambda: len(house.router.messages()) == 5)
    assert [event.vendor_id for event in house.router.messages()] == sids
    assert [event.text for event in house.router.messages()] == [f"part {number} & <more>" for number in range(5)]
    assert house.router.messages()[0].sender == Address(Channel.SMS, CUSTOMER)


async def test_a_receipt_the_router_failed_to_take_comes_again(house: House) -> None:
    house.router.failures_left = 1
    await house.adapter.send(message())
    await until(lambda: len(house.router.receipts()) == 2)


@pytest.mark.parametrize(
    ("fault", "error", "taken", "usable"),
    [
        (Fault.REFUSE, EndpointUnavailable, 0, False),
        (Fault.ERROR, EndpointUnavailable, 0, False),
        (Fault.DROP_AFTER_ACCEPT, OutcomeUnknown, 1, True),
        (Fault.THROTTLE, Throttled, 0, False),
        (Fault.FLAP, EndpointUnavailable, 0, False),
    ],
)
async def test_each_fault_shows_on_the_wire(
    house: House, fault: Fault, error: type[SendFailed], taken: int, usable: bool
) -> None:
    """Whose fault it was and whether it may have been taken; afterwards everything works again."""
    await house.adapter.send(message("before"))
    await house.vendor.set_fault(fault)
    await asyncio.sleep(0)
    with pytest.raises(error):
        await house.adapter.send(message("during"))
    assert house.taken().count("during") == taken
    if usable:
        await house.adapter.probe()
    else:
        with pytest.raises(Throttled if fault is Fault.THROTTLE else EndpointUnavailable):
            await house.adapter.probe()
    await house.vendor.set_fault(Fault.NONE)
    await house.adapter.probe()
    await house.adapter.send(message("after"))
    assert house.taken()[-1] == "after"


async def test_a_slow_vendor_still_takes_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("channels.sandbox.twilio_server.SLOW_S", 0.3)
    await house.vendor.set_fault(Fault.SLOW)
    began = asyncio.get_running_loop().time()
    await house.adapter.send(message())
    assert asyncio.get_running_loop().time() - began >= 0.3


async def test_what_is_lost_silently_has_a_receipt_and_no_delivery(house: House) -> None:
    await house.vendor.set_fault(Fault.LOSE_SILENTLY)
    assert (await house.adapter.send(message())).vendor_ids
    await house.vendor.set_fault(Fault.NONE)
    await house.adapter.send(message("second"))
    await until(lambda: len(house.router.receipts()) == 2)
    assert [entry.delivered for entry in house.vendor.journal.entries] == [False, True]


async def test_a_share_of_a_fault_hits_a_share_of_the_messages(house: House) -> None:
    await house.vendor.set_fault(Fault.THROTTLE, share=0.5)
    outcomes = []
    for _ in range(40):
        try:
            await house.adapter.send(message())
            outcomes.append(True)
        except Throttled:
            outcomes.append(False)
    assert {True, False} == set(outcomes)


@pytest.mark.parametrize(("fault", "share"), [(Fault.FLAP, 1.0), (Fault.REFUSE, 0.5)])
async def test_a_vendor_that_comes_and_goes_refuses_and_takes_by_turns(
    house: House, monkeypatch: pytest.MonkeyPatch, fault: Fault, share: float
) -> None:
    """In doubt is at most who was connecting at the moment the port closed."""
    monkeypatch.setattr("channels.sandbox.twilio_server.FLAP_PERIOD_S", 0.2)
    monkeypatch.setattr("channels.sandbox.twilio_server.REFUSE_PERIOD_S", 0.2)
    await house.vendor.set_fault(fault, share)
    turns: list[bool] = []
    in_doubt = 0
    async with asyncio.timeout(5):
        while len(turns) < 5:
            try:
                await house.adapter.send(message())
                taken = True
            except EndpointUnavailable:
                taken = False
            except OutcomeUnknown:
                in_doubt += 1
                continue
            if not turns or turns[-1] is not taken:
                turns.append(taken)
            await asyncio.sleep(0.01)
    assert turns[0] is False
    assert in_doubt <= len(turns)


ANSWERS = [
    (400, 21211, RecipientUnreachable),
    (400, 21610, RecipientUnreachable),
    (400, 21614, RecipientUnreachable),
    (400, 21612, RecipientUnreachable),
    (400, 21617, MessageRejected),
    (400, 99999, MessageRejected),
    (413, 0, MessageRejected),
    (400, 21606, EndpointMisconfigured),
    (401, 20003, EndpointMisconfigured),
    (403, 20403, EndpointMisconfigured),
    (404, 20404, EndpointMisconfigured),
    (302, 0, EndpointMisconfigured),
    (429, 20429, Throttled),
    (400, 14107, Throttled),
    (400, 21611, Throttled),
    (503, 0, EndpointUnavailable),
    (408, 0, EndpointUnavailable),
    (500, 20500, OutcomeUnknown),
    (502, 0, OutcomeUnknown),
    (504, 0, OutcomeUnknown),
    (520, 0, OutcomeUnknown),
    (201, 0, OutcomeUnknown),
]


@pytest.mark.parametrize(("status", "code", "error"), ANSWERS)
async def test_each_answer_means_what_the_table_says(
    http: aiohttp.ClientSession, status: int, code: int, error: type[SendFailed]
) -> None:
    """And no error repeats the number, the text or the secret."""

    async def answer(request: web.Request) -> web.Response:
        words = json.dumps({"code": code, "message": f"{CUSTOMER} {SECRET} Hello-body"})
        return web.Response(status=status, text=words, headers={"Retry-After": "7"})

    runner, url = await serve(answer)
    adapter = TwilioSmsAdapter(settings_for(api_base=url), tools_for(http))
    with pytest.raises(SendFailed) as caught:
        await adapter.send(message("Hello-body"))
    await runner.cleanup()
    assert type(caught.value) is error
    if isinstance(caught.value, Throttled):
        assert caught.value.retry_after_s == 7.0
    shown = f"{caught.value!r} {caught.value} {adapter!r} {settings_for()!r}"
    assert not any(private in shown for private in (CUSTOMER, SECRET, "Hello-body"))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("", 1.0), ("0", 1.0), ("30", 30.0), ("99999", 3600.0), ("soon", 1.0), ("nan", 1.0),
     ("Tue, 14 Nov 2023 22:14:20 GMT", 60.0)],
)  # fmt: skip
async def test_retry_after_is_read_and_bounded(http: aiohttp.ClientSession, header: str, seconds: float) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": header} if header else {})

    runner, url = await serve(answer)
    with pytest.raises(Throttled) as caught:
        await TwilioSmsAdapter(settings_for(api_base=url), tools_for(http)).send(message())
    await runner.cleanup()
    assert caught.value.retry_after_s == seconds


class _NoNames(aiohttp.abc.AbstractResolver):
    async def resolve(self, *_: object, **__: object) -> list[aiohttp.abc.ResolveResult]:
        raise OSError("no name server")

    async def close(self) -> None: ...


async def test_a_name_that_does_not_resolve_is_our_own_fault() -> None:
    connector = aiohttp.TCPConnector(resolver=_NoNames())
    async with aiohttp.ClientSession(connector=connector) as http:
        adapter = TwilioSmsAdapter(settings_for(api_base="https://api.twilio.example"), tools_for(http))
        with pytest.raises(LocalFault):
            await adapter.send(message())
        with pytest.raises(LocalFault):
            await adapter.probe()


_WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(st.dictionaries(st.sampled_from(["To", "Body", "StatusCallback"]), _WORDS, min_size=1))
def test_a_form_says_on_the_wire_what_was_put_in(form: dict[str, str]) -> None:
    """Whatever the words: read back by another decoder."""
    assert parse_qsl(twilio.encode_form(form).decode("ascii"), keep_blank_values=True) == list(form.items())


async def test_the_stand_in_refuses_whom_twilio_refuses(house: House) -> None:
    house.vendor.opted_out.add(CUSTOMER)
    with pytest.raises(RecipientUnreachable) as caught:
        await house.adapter.send(message())
    assert caught.value.reason == "twilio_21610"


@pytest.mark.parametrize(
    ("status", "code", "state", "permanent"),
    [
        ("sent", "", ReceiptState.SENT, True),
        ("delivered", "", ReceiptState.DELIVERED, True),
        ("read", "", ReceiptState.READ, True),
        ("undelivered", "30003", ReceiptState.UNDELIVERED, False),
        ("undelivered", "30005", ReceiptState.UNDELIVERED, True),
        ("failed", "30008", ReceiptState.UNDELIVERED, False),
    ],
)
async def test_each_status_is_translated(
    http: aiohttp.ClientSession, status: str, code: str, state: ReceiptState, permanent: bool
) -> None:
    adapter = TwilioSmsAdapter(settings_for(), tools_for(http))
    received = await adapter.receive(
        webhook({"MessageStatus": status, "ErrorCode": code}, path="status", query="?t=0.tok%2B")
    )
    (event,) = received.events
    assert isinstance(event, ReceiptEvent)
    assert (event.state, event.permanent, event.token, event.vendor_id) == (state, permanent, "0.tok+", SID)


@pytest.mark.parametrize("status", ["queued", "sending", "accepted", "scheduled"])
async def test_no_news_is_no_event(http: aiohttp.ClientSession, status: str) -> None:
    adapter = TwilioSmsAdapter(settings_for(), tools_for(http))
    assert await adapter.receive(webhook({"MessageStatus": status}, path="status")) == Received()


@pytest.mark.parametrize(("opt", "found"), [("STOP", "stop"), ("START", "start"), ("HELP", ""), ("", "")])
async def test_an_opt_out_twilio_recognised_is_passed_on(http: aiohttp.ClientSession, opt: str, found: str) -> None:
    adapter = TwilioSmsAdapter(settings_for(), tools_for(http))
    (event,) = (await adapter.receive(webhook({"OptOutType": opt}))).events
    assert isinstance(event, InboundMessage)
    assert event.opt == found


async def test_a_sender_that_is_none_is_refused(http: aiohttp.ClientSession) -> None:
    with pytest.raises(WebhookRefused) as caught:
        adapter = TwilioSmsAdapter(settings_for(), tools_for(http))
        await adapter.receive(webhook({"From": "<script>alert(1)</script>"}))
    assert caught.value.status == 400


def test_our_timeouts_end_within_the_bound_of_a_send() -> None:
    """The suite shortens them; these are the real ones. Whatever times out after connecting was on its way."""
    assert twilio.CONNECT_S < twilio.REQUEST_S < twilio.IO_S
    timeout = twilio._TIMEOUT
    assert (timeout.total, timeout.connect) == (twilio.REQUEST_S, twilio.CONNECT_S)
    assert timeout.ceil_threshold > twilio.IO_S, "else the client rounds the limit up to a full second"


async def test_media_come_from_twilio_and_the_credential_goes_nowhere_else(http: aiohttp.ClientSession) -> None:
    """A picture is fetched from the API's host; one from elsewhere, or too large, is named in the text."""
    asked: list[tuple[str, bool]] = []

    async def media(request: web.Request) -> web.Response:
        asked.append((request.path, "Authorization" in request.headers))
        if request.path == "/large":
            return web.Response(body=b"x" * 6_000_000)
        if request.path == "/away":
            return web.Response(status=307, headers={"Location": elsewhere + "/stolen"})
        return web.Response(body=b"picture")

    runner, url = await serve(media)
    other, elsewhere = await serve(media)
    form = {"NumMedia": "4"}
    for number, place in enumerate([url + "/1", elsewhere + "/2", url + "/large", url + "/away"]):
        form |= {f"MediaUrl{number}": place, f"MediaContentType{number}": "image/png"}
    adapter = TwilioSmsAdapter(settings_for(api_base=url), tools_for(http))
    (event,) = (await adapter.receive(webhook(form))).events
    await runner.cleanup()
    await other.cleanup()
    assert isinstance(event, InboundMessage)
    assert [(file.name, file.media_type, file.content) for file in event.files] == [
        ("attachment-1.png", "image/png", b"picture")
    ]
    assert event.text == "Hi" + "\n[file not fetched: image/png]" * 3
    assert asked == [("/1", True), ("/large", True), ("/away", True)]


@pytest.mark.parametrize(
    "changes",
    [
        {"api_base": "http://api.twilio.com"},
        {"api_base": "https://user:pass@api.twilio.com"},
        {"api_base": "https://api.twilio.com/2010-04-01"},
        {"account_sid": "SK" + "0" * 32},
        {"auth_token": ""},
        {"from_number": None},
        {"messaging_service_sid": "MG" + "0" * 32},
        {"from_number": "+1 555"},
        {"colour": "red"},
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        settings_for(**changes)


async def test_a_sender_of_letters_cannot_be_answered(http: aiohttp.ClientSession) -> None:
    assert not TwilioSmsAdapter(settings_for(from_number="ACME"), tools_for(http)).capabilities.replyable
    assert TwilioSmsAdapter(settings_for(), tools_for(http)).capabilities.replyable


async def test_both_keep_their_contracts(house: House, tmp_path: Path) -> None:
    """The types say so; stopping twice and starting again is harmless."""
    adapter: Adapter = house.adapter
    vendor: Vendor = house.vendor
    await adapter.close()
    await vendor.stop()
    await vendor.stop()
    await vendor.start()
    await adapter.probe()
