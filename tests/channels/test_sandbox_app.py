"""The sandbox's own face: the pocket's page, its API, its stream, and who may not use it."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
from playwright.async_api import Page, async_playwright
from pydantic import SecretStr, ValidationError

from channels.registry import SETTINGS_OF
from channels.sandbox.app import DEMO_CUSTOMERS, MAIL, PHONE, SMS, Sandbox, SandboxSettings, endpoint_tables, serve
from channels.sandbox.pocket_site import LiveCall
from channels.sandbox.vendor import Entry, Fault, Journal, Switch

ANY_PORT = {"pocket_port": 0, "mail_port": 0, "sms_port": 0, "sms_backup_port": 0, "phone_port": 0, "lmtp_port": 0}


@dataclass
class StubCall:
    sid: str = "CA1"
    customer: str = "+12025550100"
    inbound: bool = False
    started_at: float = 1.0
    status: str = "ringing"
    said: list[str] = field(default_factory=list)
    waiting_for: str = ""


class StubVendor:
    """A vendor that speaks no protocol and remembers what it was told."""

    def __init__(self, endpoint: str, journal: Journal) -> None:
        self.endpoint, self.journal, self.switch = endpoint, journal, Switch()
        self.number = "+12025550181"
        self.canary = ""
        self.running = False
        self.answered: list[Entry | None] = []

    async def start(self) -> None:
        self.running = True

    async def stop(self) -> None:
        self.running = False

    async def set_fault(self, fault: Fault, share: float = 1.0) -> None:
        self.switch = Switch(fault, share, time.time())

    async def write(self, customer: str, text: str, *, subject: str = "", in_reply_to: Entry | None = None) -> str:
        self.answered.append(in_reply_to)
        said = {"to_customer": False, "customer": customer, "text": text, "subject": subject}
        self.journal.add(at=1.0, endpoint=self.endpoint, **said)
        return "written-1"

    def endpoint_table(self) -> dict[str, object]:
        return {"id": self.endpoint}


class StubPhone(StubVendor):
    """The same, with a phone."""

    def __init__(self, endpoint: str, journal: Journal) -> None:
        super().__init__(endpoint, journal)
        self.calls: list[LiveCall] = []
        self.done: list[tuple[str, ...]] = []

    async def answer(self, call_sid: str) -> None:
        self.done.append(("answer", call_sid))
        self.calls[0].status = "in-progress"

    async def decline(self, call_sid: str) -> None:
        self.done.append(("decline", call_sid))

    async def to_voicemail(self, call_sid: str) -> None:
        self.done.append(("voicemail", call_sid))

    async def press(self, call_sid: str, digits: str) -> None:
        if not digits:
            raise ValueError("a telephone has the keys 0-9, * and #")
        self.done.append(("press", call_sid, digits))

    async def say(self, call_sid: str, text: str) -> None:
        self.done.append(("say", call_sid, text))

    async def hang_up(self, call_sid: str) -> None:
        self.done.append(("hang_up", call_sid))
        self.calls.clear()

    async def call_in(self, customer: str) -> str:
        self.calls.append(StubCall(sid="CA2", customer=customer, inbound=True))
        return "CA2"


@dataclass
class Pocket:
    """A running sandbox on stub vendors, and a client."""

    sandbox: Sandbox
    http: aiohttp.ClientSession
    sms: StubVendor
    phone: StubPhone

    def url(self, path: str) -> str:
        return self.sandbox.pocket_url.rstrip("/") + path

    async def get(self, path: str, **headers: str) -> tuple[int, dict]:
        async with self.http.get(self.url(path), headers=headers) as answer:
            return answer.status, await answer.json()

    async def post(self, path: str, body: object, **headers: str) -> tuple[int, dict]:
        async with self.http.post(self.url(path), json=body, headers=headers) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def pocket(tmp_path) -> AsyncIterator[Pocket]:
    sandbox = Sandbox(SandboxSettings(**ANY_PORT, journal_folder=tmp_path), vendors=[])
    mail, sms, phone = (
        StubVendor(MAIL, sandbox.journal),
        StubVendor(SMS, sandbox.journal),
        StubPhone(PHONE, sandbox.journal),
    )
    sandbox.vendors = {MAIL: mail, SMS: sms, PHONE: phone}
    await sandbox.start()
    async with aiohttp.ClientSession() as http:
        yield Pocket(sandbox, http, sms, phone)
    await sandbox.stop()
    assert not sms.running and not phone.running


def note(pocket: Pocket, text: str, **more: object) -> Entry:
    """The vendor took a message for the customer."""
    fields = {"at": 1.0, "endpoint": SMS, "to_customer": True, "customer": "+12025550100", "text": text, **more}
    return pocket.sandbox.journal.add(**fields)


async def test_the_page_and_its_files_are_served_under_a_strict_policy(pocket):
    for path in ("/", "/pocket/pocket.js", "/pocket/pocket.css", "/pocket/phone.js", "/pocket/icon.svg"):
        async with pocket.http.get(pocket.url(path)) as answer:
            assert answer.status == 200
            assert "unsafe" not in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
    for path in ("/pocket/..%2Fapp.py", "/pocket/app.py", "/pocket/none.js"):
        async with pocket.http.get(pocket.url(path)) as answer:
            assert answer.status == 404


async def test_a_fault_is_switched_and_shown(pocket):
    assert (await pocket.post(f"/api/vendors/{SMS}/fault", {"fault": "hang", "share": 0.5}))[0] == 200
    assert (pocket.sms.switch.fault, pocket.sms.switch.share) == (Fault.HANG, 0.5)
    _, state = await pocket.get("/api/state")
    shown = {vendor["endpoint"]: vendor["fault"] for vendor in state["vendors"]}
    assert shown == {MAIL: "none", SMS: "hang", PHONE: "none"}
    assert set(state["faults"]) == {fault.value for fault in Fault}
    assert (await pocket.post(f"/api/vendors/{SMS}/fault", {"fault": "none"}))[0] == 200
    assert pocket.sms.switch.fault is Fault.NONE


async def test_the_journal_is_read_on_from_a_number(pocket):
    for number in range(1, 4):
        note(pocket, f"Message {number}")
    status, answer = await pocket.get("/api/journal?after=1")
    assert status == 200 and answer["last"] == 3
    assert [entry["text"] for entry in answer["entries"]] == ["Message 2", "Message 3"]
    assert (await pocket.get("/api/journal?after=many"))[0] == 422


async def test_the_journal_is_kept_on_disk(pocket, tmp_path):
    note(pocket, "Kept")
    assert json.loads((tmp_path / "vendors.jsonl").read_text().splitlines()[0])["text"] == "Kept"


async def test_the_customer_answers_the_message_they_got(pocket):
    entry = note(pocket, "Question?")
    body = {"endpoint": SMS, "customer": "+12025550100", "text": "Answer.", "in_reply_to": entry.number}
    assert await pocket.post("/api/write", body) == (200, {"vendor_id": "written-1"})
    assert pocket.sms.answered == [entry]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/write", {"endpoint": "sms/none", "customer": "+12025550100", "text": "x"}, 404),
        ("/api/write", {"endpoint": SMS, "customer": "dana@customer.test", "text": "x"}, 422),
        ("/api/write", {"endpoint": SMS, "customer": "+12025550100", "text": ""}, 422),
        ("/api/write", {"endpoint": SMS, "customer": "+12025550100", "text": "x", "in_reply_to": 99}, 404),
        ("/api/write", {"endpoint": SMS, "customer": "+12025550100", "text": "x", "other": 1}, 422),
        ("/api/write", {"endpoint": SMS, "customer": "+12025550100", "text": "x", "subject": "a\nb"}, 422),
        (f"/api/vendors/{SMS}/fault", {"fault": "explode"}, 422),
        (f"/api/vendors/{SMS}/fault", {"fault": "hang", "share": 2}, 422),
        ("/api/vendors/sms/none/fault", {"fault": "hang"}, 404),
        ("/api/calls", {"endpoint": SMS, "customer": "+12025550100"}, 422),
        ("/api/calls/CA9", {"does": "answer"}, 404),
        ("/api/calls/CA9", {"does": "explode"}, 422),
    ],
)
async def test_what_cannot_be_done_is_said_in_words(pocket, path, body, status):
    got, answer = await pocket.post(path, body)
    assert got == status and answer["words"] and answer["reason"]
    assert not pocket.sms.answered


async def test_a_call_is_led_from_the_pocket(pocket):
    pocket.phone.calls.append(StubCall())
    assert (await pocket.get("/api/calls"))[1]["calls"][0]["status"] == "ringing"
    for body in ({"does": "answer"}, {"does": "press", "digits": "5"}, {"does": "say", "text": "Wednesday"}):
        assert (await pocket.post("/api/calls/CA1", body))[0] == 200
    assert (await pocket.post("/api/calls/CA1", {"does": "press"}))[0] == 422
    assert (await pocket.post("/api/calls/CA1", {"does": "hang_up"}))[1] == {"calls": []}
    assert pocket.phone.done == [
        ("answer", "CA1"),
        ("press", "CA1", "5"),
        ("say", "CA1", "Wednesday"),
        ("hang_up", "CA1"),
    ]


async def test_the_customer_calls_in(pocket):
    assert await pocket.post("/api/calls", {"endpoint": PHONE, "customer": "+12025550100"}) == (200, {"sid": "CA2"})


async def test_the_stream_tells_entries_and_switches_and_resumes(pocket):
    note(pocket, "Before")
    async with pocket.http.get(pocket.url("/api/live")) as stream:
        first = await events(stream, 2)
        assert [kind for kind, _ in first] == ["state", "entries"]
        note(pocket, "After")
        assert (await events(stream, 1))[0][1][0]["text"] == "After"
        await pocket.sms.set_fault(Fault.FLAP)
        kind, state = (await events(stream, 1))[0]
        assert kind == "state" and state["vendors"][1]["fault"] == "flap"
    async with pocket.http.get(pocket.url("/api/live"), headers={"Last-Event-ID": "1"}) as stream:
        got = dict(await events(stream, 2))
        assert [entry["text"] for entry in got["entries"]] == ["After"]


async def test_a_stream_looks_back_no_further_than_asked(pocket):
    for number in range(1, 6):
        note(pocket, f"Message {number}")
    async with pocket.http.get(pocket.url("/api/live?after=-2")) as stream:
        got = dict(await events(stream, 2))
        assert [entry["text"] for entry in got["entries"]] == ["Message 4", "Message 5"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8090", "127.0.0.1.evil.example", "10.0.0.5"])
async def test_a_name_pointed_at_us_is_refused(pocket, host):
    assert (await pocket.get("/api/state", Host=host))[0] == 421
    assert (await pocket.post(f"/api/vendors/{SMS}/fault", {"fault": "hang"}, Host=host))[0] == 421
    assert pocket.sms.switch.fault is Fault.NONE


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}],
)
async def test_a_page_elsewhere_may_not_act_here(pocket, headers):
    assert (await pocket.post(f"/api/vendors/{SMS}/fault", {"fault": "hang"}, **headers))[0] == 403
    assert pocket.sms.switch.fault is Fault.NONE


async def test_a_form_elsewhere_may_not_act_here(pocket):
    async with pocket.http.post(pocket.url(f"/api/vendors/{SMS}/fault"), data='{"fault":"hang"}') as answer:
        assert answer.status == 415
    assert pocket.sms.switch.fault is Fault.NONE


async def test_our_own_page_acts(pocket):
    origin = pocket.sandbox.pocket_url.rstrip("/")
    answer = await pocket.post(f"/api/vendors/{SMS}/fault", {"fault": "slow"}, Origin=origin)
    assert answer[0] == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.5", "example.org"])
def test_the_sandbox_listens_on_loopback_only(host):
    with pytest.raises(ValidationError, match="on loopback only"):
        SandboxSettings(host=host)


def test_the_tables_are_known_beforehand_stay_the_same_and_the_registry_takes_them():
    settings = SandboxSettings(secret=SecretStr("s" * 40))
    tables = endpoint_tables(settings)
    assert tables == endpoint_tables(settings)
    assert tables != endpoint_tables(SandboxSettings(secret=SecretStr("t" * 40)))
    assert [table["id"] for table in tables] == ["email/sandbox", "sms/sandbox", "sms/backup", "phone/sandbox"]
    for table in tables:
        SETTINGS_OF[str(table["provider"])].model_validate(table)


async def test_the_real_vendors_start_and_stop_together():
    sandbox = Sandbox(SandboxSettings(**ANY_PORT))
    await sandbox.start()
    try:
        for table in sandbox.endpoint_tables():
            SETTINGS_OF[str(table["provider"])].model_validate(table)
        async with aiohttp.ClientSession() as http, http.get(sandbox.pocket_url) as page:
            assert page.status == 200
    finally:
        await sandbox.stop()


async def test_a_taken_port_leaves_nothing_running():
    first = Sandbox(SandboxSettings(**ANY_PORT))
    await first.start()
    taken = int(str(first.endpoint_tables()[1]["port"]))
    second = Sandbox(SandboxSettings(**{**ANY_PORT, "sms_port": taken}))
    try:
        with pytest.raises(OSError):
            await second.start()
        mail = int(str(second.endpoint_tables()[0]["port"]))
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", mail)
    finally:
        await first.stop()


async def test_serve_runs_until_it_is_cancelled():
    task = asyncio.create_task(serve(SandboxSettings(**ANY_PORT)))
    done, _ = await asyncio.wait({task}, timeout=0.3)
    assert not done
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_demo_customers_share_nothing():
    """Each can write, be texted and be called alone: a shared address would join their conversations."""
    places = [place for person in DEMO_CUSTOMERS for place in (person.email, person.phone)]
    assert len(DEMO_CUSTOMERS) == 2 and all(places) and len(set(places)) == len(places)


@asynccontextmanager
async def opened(pocket: Pocket) -> AsyncIterator[Page]:
    """The pocket's page in Chromium; nothing may have thrown in it."""
    async with async_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"]
        chromium = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        page = await chromium.new_page()
        page.set_default_timeout(8_000)
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
        await page.goto(pocket.sandbox.pocket_url)
        yield page
        assert not faults
        await chromium.close()


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the system's Chromium")
async def test_two_people_have_a_phone_and_a_mailbox_each_and_write_as_themselves(pocket):
    dana, eli = DEMO_CUSTOMERS

    def written() -> list[tuple[str, str, str]]:
        return [(one.customer, one.subject, one.text) for one in pocket.sandbox.journal.entries if not one.to_customer]

    async with opened(pocket) as page:
        await page.wait_for_selector(f"#whose [aria-pressed=true]:has-text('{dana.name}')")
        note(pocket, "For Dana", customer=dana.phone)
        note(pocket, "For Eli", customer=eli.phone)
        note(pocket, "Mail for Eli", customer=eli.email, endpoint=MAIL, subject="Hello")
        await page.wait_for_selector(".bubble:has-text('For Dana')")
        await page.wait_for_selector(f"#whose button:has-text('{eli.name}') i:text-is('2')")
        assert "Eli" not in await page.locator("main").inner_text()
        await page.fill(".say textarea", "Dana's half a sentence")
        await page.fill(".answer textarea", "Dana's half a mail")

        await page.click(f"#whose >> text={eli.name}")
        await page.wait_for_selector(".bubble:has-text('For Eli')")
        await page.wait_for_selector(".mail:has-text('Mail for Eli')")
        assert "Dana" not in await page.locator("main").inner_text()
        assert not await page.input_value(".say textarea") and not await page.input_value(".answer textarea")
        assert await page.locator("#whose i:visible").count() == 0
        await page.fill(".say textarea", "Eli's text")
        await page.click(".say button")
        await page.wait_for_selector(".bubble.mine:has-text('text')")
        await page.click("text=New mail")
        await page.fill("[placeholder=Subject]", "Address")
        await page.fill(".answer textarea", "Eli's mail")
        await page.click("text=Send mail")
        await page.wait_for_selector(".mail.mine")
        assert written() == [(eli.phone, "", "Eli's text"), (eli.email, "Address", "Eli's mail")]

        await page.click(f"#whose >> text={dana.name}")
        await page.wait_for_selector(".bubble:has-text('For Dana')")
        assert await page.input_value(".say textarea") == "Dana's half a sentence"
        assert await page.input_value(".answer textarea") == "Dana's half a mail"
        await page.click(".say button")
        await page.wait_for_selector(".bubble.mine")
        assert written()[2:] == [(dana.phone, "", "Dana's half a sentence")]
        await page.reload()
        await page.wait_for_selector(f"#whose [aria-pressed=true]:has-text('{dana.name}')")


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the system's Chromium")
async def test_somebody_watches_an_outage_in_the_pocket_by_hand(pocket):
    async with opened(pocket) as page:
        note(pocket, "<b>Hello</b> <script>document.title='broken in'</script>")
        note(pocket, "Never arrived", delivered=False)
        note(pocket, "Somebody else's", customer="+4915112345678")
        await page.wait_for_selector(".bubble.theirs:has-text('<b>Hello</b>')")
        await page.wait_for_selector(".bubble.lost:has-text('lost it')")
        assert "Never arrived" not in await page.locator(".bubbles").inner_text()
        assert "Somebody" not in await page.locator(".bubbles").inner_text()
        await page.fill(".say textarea", "An answer")
        await page.click(".say button")
        await page.wait_for_selector(".bubble.mine:has-text('An answer')")

        await page.click(f".card:has-text('{SMS}') >> text=Hang")
        await page.wait_for_selector(f".card.bad:has-text('{SMS}') .pill:has-text('Hang')")
        assert pocket.sms.switch.fault is Fault.HANG
        await page.click("text=All work again")
        await page.wait_for_selector(".card.bad", state="detached")
        assert pocket.sms.switch.fault is Fault.NONE

        pocket.phone.calls.append(StubCall())
        await page.wait_for_selector("text=Incoming call")
        await page.click(".call >> text=Answer")
        await page.fill(".call input", "Wednesday")
        pocket.phone.calls[0].said.append("They said something while somebody types.")
        await page.wait_for_selector(".heard:has-text('while somebody types')")
        assert await page.locator(".call input").input_value() == "Wednesday"
        await page.click(".call form button")
        await page.click("text=Hang up")
        await page.wait_for_selector(".call", state="hidden")
        assert pocket.phone.done == [("answer", "CA1"), ("say", "CA1", "Wednesday"), ("hang_up", "CA1")]

        await page.select_option("#customer", "+4915112345678")
        await page.wait_for_selector(".bubble:has-text('Somebody else')")
        assert await page.title() == "The customer's pocket"


async def events(stream: aiohttp.ClientResponse, count: int) -> list[tuple[str, object]]:
    """The next `count` server-sent events, within 5 s."""
    found: list[tuple[str, object]] = []
    kind = ""
    async with asyncio.timeout(5):
        while len(found) < count:
            line = (await stream.content.readline()).decode().strip()
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                found.append((kind, json.loads(line.removeprefix("data: "))))
    return found


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the system's Chromium")
async def test_an_empty_field_says_what_it_is_for_as_legibly_as_any_hint(pocket):
    """Chromium's own grey is too dark on a dark ground."""
    colours = """() => {
      const fields = [...document.querySelectorAll("[placeholder]")];
      const hint = document.querySelector(".hint");
      const styles = fields.map((one) => getComputedStyle(one, "::placeholder"));
      return [getComputedStyle(hint), ...styles].map((one) => one.color);
    }"""
    async with opened(pocket) as page:
        await page.emulate_media(color_scheme="dark")
        await page.wait_for_selector(".say textarea")
        hint, *fields = await page.evaluate(colours)
        assert len(fields) == 3 and set(fields) == {hint}
