"""Webhooks from whoever knows our address, and from a vendor gone mad: 4xx or taken, never a fault, never run."""

import ast
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode
from xml.etree import ElementTree

import aiohttp
import pytest
import requests
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator

from channels.messages import InboundMessage, Matter, Webhook
from channels.phone.script import CallScript, Saying, Step
from channels.signatures import sign_twilio
from channels.sms.twilio import TwilioSmsAdapter, TwilioSmsSettings
from channels.tools import Tools
from channels.wire import twiml
from health.report import EndpointId
from tests.clocks import WallClock
from tests.hostile.mutation import cases

ROOT = Path(__file__).parents[2]
ACCOUNT = "AC" + "0" * 32
TOKEN = "an-auth-token-nobody-may-see"
PUBLIC_URL = "https://talk.example.org"
SMS = {
    "MessageSid": "SM" + "1" * 32,
    "AccountSid": ACCOUNT,
    "From": "+12025550177",
    "To": "+12025550100",
    "Body": "Yes, tomorrow",
    "NumMedia": "1",
    "MediaUrl0": "https://example.invalid/x",
    "MediaContentType0": "image/png",
}
STATUS = {"MessageSid": "SM" + "2" * 32, "AccountSid": ACCOUNT, "MessageStatus": "undelivered", "ErrorCode": "30003"}
CALL = {
    "CallSid": "CA" + "3" * 32,
    "AccountSid": ACCOUNT,
    "Direction": "inbound",
    "From": "+12025550177",
    "To": "+12025550100",
    "SpeechResult": "Where is my card?",
    "Digits": "4",
    "CallStatus": "completed",
    "AnsweredBy": "human",
    "StirVerstat": "TN-Validation-Passed-A",
}
TARGETS = [
    b"/hooks/sms/twilio/inbound",
    b"/hooks/sms/twilio/status?t=0.tok",
    b"/hooks/sms/twilio",
    b"/hooks/phone/twilio/inbound",
    b"/hooks/phone/twilio/call?t=m0-01JDAAAAAAAAAAAAAAAAAA.1&r=v0-01JD-abc",
    b"/hooks/phone/twilio/matter?t=m0-01JDAAAAAAAAAAAAAAAAAA.1",
    b"/hooks/phone/twilio/answer?n=1&c=1",
    b"/hooks/phone/twilio/connected?n=2",
    b"/hooks/phone/twilio/status?t=m0-01JDAAAAAAAAAAAAAAAAAA.1",
]
FORMS = [urlencode(form).encode() for form in (SMS, STATUS, CALL)]
TOKENS = [b"%ED%A0%80", b"%00", b"%0D%0A", b"&Body=", b"&NumMedia=999", b"&Digits=0", b"&From=%2B1900", b"=&=", b"%"]
TOKENS += [b"&MediaUrl0=http%3A%2F%2F%5B", b"&OptOutType=STOP", b"StirVerstat=Failed", b"&MessageStatus=read", b"n=20"]
FORM_TYPE = "application/x-www-form-urlencoded"


def _signed(url: str, form: dict[str, str], token: str = TOKEN) -> dict[str, str]:
    """As Twilio's own library signs."""
    return {"X-Twilio-Signature": RequestValidator(token).compute_signature(url, form), "Content-Type": FORM_TYPE}


def _post(fortress: Any, target: str, form: dict[str, str], headers: dict[str, str]) -> requests.Response:
    return requests.post(fortress.url + target, data=urlencode(form), headers=headers, timeout=10)


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_no_webhook_makes_us_fail(fortress: Any, signed: bool) -> None:
    """Signed or not: no 5xx, TwiML that parses, no call connected; unsigned nothing is kept; an honest text is."""
    statuses: dict[int, int] = {}
    with requests.Session() as http:
        for case in cases("webhook", FORMS, TOKENS, size_max=20_000):
            target = case.chance.choice(TARGETS).decode()
            if case.chance.random() < 0.2:
                ends = ["/..%2f", "?t=%ED%A0%80", "&t=" + "x" * 300, "&r=" + "%26" * 2_000, "%00", "/status", "?&&=="]
                target += case.chance.choice(ends)
            headers = {"Content-Type": FORM_TYPE, "X-Twilio-Signature": "x"}
            if signed:
                form = parse_qsl(case.octets.decode("latin-1"), keep_blank_values=True, errors="replace")
                headers["X-Twilio-Signature"] = sign_twilio(TOKEN, PUBLIC_URL + target, form)
            request = requests.Request("POST", fortress.url, data=case.octets, headers=headers).prepare()
            request.url = fortress.url + target
            answer = http.send(request, timeout=10)
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            assert answer.status_code < 500, (case.name, target, answer.text)
            if answer.status_code == 200 and answer.headers["Content-Type"].startswith("text/xml"):
                assert "Dial" not in {element.tag for element in ElementTree.fromstring(answer.content).iter()}
    assert (200 in statuses) == signed
    target = "/hooks/sms/twilio/inbound"
    honest = SMS | {"MessageSid": "SM" + "f" * 32, "Body": "An honest word", "NumMedia": "0", "From": "+12025550199"}
    assert _post(fortress, target, honest, _signed(PUBLIC_URL + target, honest)).status_code == 200
    desk = fortress.runtime.switchboard
    listed = fortress.run(desk.conversations(limit=200)).items
    assert "An honest word" in [one.last_text for one in listed]
    assert signed or len(listed) == 1


def test_the_same_signed_request_again_changes_nothing(fortress: Any) -> None:
    """Twilio signs no time: its id makes a copy harmless, at once and after other words, ten times over."""
    target = "/hooks/sms/twilio/inbound"
    first, second = SMS | {"NumMedia": "0"}, SMS | {"NumMedia": "0", "MessageSid": "SM" + "4" * 32, "Body": "And?"}
    for form in (first, second, *[first] * 10):
        assert _post(fortress, target, form, _signed(PUBLIC_URL + target, form)).status_code == 200
    (one,) = fortress.run(fortress.runtime.switchboard.conversations()).items
    assert fortress.said(one.conversation.id) == ["Yes, tomorrow", "And?"]


def test_a_copied_answer_of_a_call_is_one_message(fortress: Any) -> None:
    """Also where a call's every step is asked for again."""
    target = "/hooks/phone/twilio/answer?n=1"
    for _ in range(3):
        form = CALL | {"Digits": ""}
        assert _post(fortress, target, form, _signed(PUBLIC_URL + target, form)).status_code == 200
    (one,) = fortress.run(fortress.runtime.switchboard.conversations()).items
    assert fortress.said(one.conversation.id) == ["Where is my card?"]


@pytest.mark.parametrize(
    ("target", "changes", "token", "headers", "status"),
    [
        ("/hooks/sms/twilio/inbound", {}, "another-token", {}, 401),
        ("/hooks/sms/twilio/inbound", {"AccountSid": "AC" + "9" * 32}, TOKEN, {}, 401),
        ("/hooks/sms/twilio/inbound?a=1", {}, TOKEN, {"signed": "/hooks/sms/twilio/inbound"}, 401),
        ("/hooks/phone/twilio/inbound", {}, TOKEN, {"signed": "/hooks/sms/twilio/inbound"}, 401),
        ("/hooks/sms/twilio/inbound", {}, TOKEN, {"Content-Type": "application/json"}, 401),
        ("/hooks/sms/twilio/inbound", {}, TOKEN, {"Content-Encoding": "gzip"}, 415),
        ("/hooks/sms/twilio/inbound", {"From": "<script>"}, TOKEN, {}, 400),
        ("/hooks/sms/twilio/inbound", {"MessageSid": "../../x"}, TOKEN, {}, 400),
        ("/hooks/sms/twilio/console", {}, TOKEN, {}, 404),
        ("/hooks/chat/web/inbound", {}, TOKEN, {}, 404),
    ],
)
def test_a_request_for_another_place_or_account_is_refused(
    fortress: Any, target: str, changes: dict[str, str], token: str, headers: dict[str, str], status: int
) -> None:
    """A signature holds for one URL, one account, these fields; what a client says of itself counts for nothing."""
    form = SMS | changes
    good = _signed(PUBLIC_URL + headers.pop("signed", target), form, token)
    forwarded = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http", "Forwarded": "host=evil.example"}
    answer = _post(fortress, target, form, good | forwarded | headers)
    assert answer.status_code == status, answer.text
    assert fortress.run(fortress.runtime.switchboard.conversations()).items == []


@dataclass
class Trap:
    """Two servers on this machine: one stands for Twilio, to the other nobody may ever come."""

    api: str
    inside: str
    visits: list[str] = field(default_factory=list)
    redirect: str = ""


@pytest.fixture
async def trap() -> AsyncIterator[Trap]:
    """Whatever comes to the inner one is remembered."""
    runners: list[web.AppRunner] = []
    made = Trap("", "")

    async def serve(handler: Any) -> str:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", handler)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"127.0.0.1:{runner.addresses[0][1]}"

    async def visited(request: web.Request) -> web.Response:
        made.visits.append(f"{request.method} {request.path} {request.headers.get('Authorization', '')}")
        return web.Response(body=b"secret")

    async def redirect(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": made.redirect})

    made.api, made.inside = await serve(redirect), await serve(visited)
    yield made
    for runner in runners:
        await runner.cleanup()


URLS = [
    "http://{inside}/latest/meta-data/",
    "https://{inside}/",
    "http://{api}@{inside}/",
    "http://{api}#@{inside}/",
    "http://{inside}#{api}/",
    "http://{inside}\\@{api}/",
    "//{inside}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f.1:{port}/",
    "http://localhost:{port}/",
    "file:///etc/passwd",
    "ftp://{inside}/",
    "gopher://{inside}/_x",
    "http://[",
    "https://evil.twilio.com.{inside}/",
    "http://api.twilio.com@{inside}/",
    "https://amazonaws.com:{port}/",
    "",
]


@pytest.mark.parametrize("redirected", [False, True], ids=["named", "redirected"])
@pytest.mark.parametrize("url", URLS)
async def test_no_address_a_stranger_names_is_fetched(trap: Trap, url: str, redirected: bool) -> None:
    """Media come from the API's own host, and by its redirects from Twilio's over TLS: nothing else, no way round."""
    place = url.format(api=trap.api, inside=trap.inside, port=trap.inside.rpartition(":")[2])
    trap.redirect = place
    media = f"http://{trap.api}/media" if redirected else place
    table = {"id": "sms/t", "provider": "twilio-sms", "account_sid": ACCOUNT, "auth_token": TOKEN}
    table |= {"from_number": "+12025550100", "api_base": f"http://{trap.api}"}
    form = SMS | {"MediaUrl0": media}
    body = urlencode(form).encode()
    target = f"{PUBLIC_URL}/hooks/sms/t"
    headers = {name.lower(): value for name, value in _signed(target, form).items()}
    async with aiohttp.ClientSession() as http:
        tools = Tools(EndpointId("sms/t"), http, WallClock(), None, None, print, "Acme", PUBLIC_URL)
        adapter = TwilioSmsAdapter(TwilioSmsSettings.model_validate(table), tools)
        received = await adapter.receive(Webhook("POST", target, "", {}, headers, body))
    (event,) = received.events
    assert isinstance(event, InboundMessage)
    assert event.files == ()
    assert event.text.endswith("[file not fetched: image/png]"), "the words must not be lost for it"
    assert trap.visits == []


def test_only_three_modules_fetch_anything() -> None:
    """The vendor's API, its media, a mail server's tokens. Whoever adds a fourth says here whose URL it is."""
    found = set()
    for package in ("channels", "router", "health"):
        for module in (ROOT / package).rglob("*.py"):
            if {"sandbox", "demo", "bench"} & set(module.parts):
                continue
            for node in ast.walk(ast.parse(module.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    asked = ast.unparse(node.func)
                    if asked.endswith(
                        ("http.get", "http.post", "http.put", "http.request", "http.ws_connect", "urlopen")
                    ):
                        found.add(str(module.relative_to(ROOT)))
    assert found == {"channels/twilio.py", "channels/sms/twilio.py", "channels/email/oauth.py"}


VERBS = {"Response", "Say", "Pause", "Gather", "Hangup"}
hostile = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        [
            "</Say><Dial>+19005550100</Dial><Say>",
            "]]></Say><Redirect>https://evil.example</Redirect>",
            "<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>&a;",
            "&#60;Dial&#62;",
            "{organisation.__class__}{0}{text}%s%n",
            '" action="https://evil.example',
            "\x00\x0b\ufffe\ud800",
            "&" * 4_000,
            "字" * 4_000,
        ]
    ),
)


@given(st.sampled_from(list(Step)), hostile, hostile, hostile, hostile, hostile)
@settings(deadline=None)
def test_whatever_is_said_in_a_call_is_said_and_nothing_else(
    step: Step, text: str, reference: str, happened: str, token: str, number: str
) -> None:
    """An independent XML reader finds our verbs only, our own callbacks only, and no number that is not allowed."""
    script = CallScript(
        organisation="Northwind & <Sons>",
        locale="en",
        from_number="+12025550100",
        callback_number="+12025550100",
        connect_allowed=frozenset({"+12025550111"}),
        hook_url=lambda at, query: f"{PUBLIC_URL}/hooks/phone/t/{at}?{urlencode(query, errors='replace')}",
    )
    reference = reference[:20]  # ours has five letters and digits; a webhook's tokens have at most 150 signs
    matter = Matter("Acme", reference, "en", connect_to=number, last_reply=text, open_question=text)
    saying = Saying(reference, "en", happened, text).encoded() if happened else ""
    fields = {"step": step, "token": token[:150], "reply_token": token[:150], "n": "1", "saying": saying}
    document = script.next_document(fields, matter)
    assert len(document) <= twiml.DOCUMENT_MAX
    root = ElementTree.fromstring(document)
    assert {element.tag for element in root.iter()} <= VERBS
    for element in root.iter():
        assert element.get("action", PUBLIC_URL).startswith(PUBLIC_URL)
        assert not (element.tag == "Say" and len(element))
    assert twiml.parse(document) is not None


def test_no_document_makes_the_twiml_reader_fall_over() -> None:
    """Our stand-in for Twilio reads what anybody may serve it: verbs, or the declared error."""
    samples = [
        twiml.render(twiml.Say("Hi"), twiml.Gather("/a", (twiml.Say("x"), twiml.Pause(2))), twiml.Hangup()),
        twiml.render(twiml.Dial("+12025550111", "/b"), twiml.Record("/c"), twiml.Redirect("/d")),
        b'<!DOCTYPE l [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><Response><Say>&b;</Say></Response>',
    ]
    tokens = [b"<Response>", b"</Response>", b"<Say>", b"&a;", b"<!ENTITY", b"<?xml encoding='utf-16'?>", b"<Gather>"]
    read = 0
    for case in cases("twiml", samples, tokens):
        try:
            twiml.parse(case.octets)
            read += 1
        except twiml.TwimlError:
            continue
    assert read
