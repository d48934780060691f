"""The console in a real browser, against the real face: log in, see who waits, answer, force a failover."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest

from channels.messages import Address, Channel, InboundMessage
from health.records import Freeze, StatusRecord
from health.report import Direction, EndpointId, Status
from router.domain.conversation import Binding
from router.domain.reasons import Cause
from router.planner import MOVES_AT_ONCE
from router.rendering import OUTAGES

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"]
WAIT_MS = 15_000

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on PATH"),
    # Playwright's own event-loop objects are let go of after the test's loop closed.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


SMS, MAIL = EndpointId("sms/twilio"), EndpointId("email/support")


@pytest.fixture
def more_endpoints() -> list[dict[str, Any]]:
    """A mail endpoint; nothing here speaks to it."""
    table = {"id": MAIL, "provider": "smtp", "host": "mail.test", "from_address": "support@northwind.test"}
    return [{**table, "lmtp": {"port": 8024}}]


@pytest.fixture
def public_url() -> str:
    """The browser comes without TLS, so the cookie must do without it too."""
    return "http://127.0.0.1"


@pytest.fixture
async def base(face: Any) -> str:
    """Where the face listens."""
    return str(face.client.make_url("/")).rstrip("/")


@pytest.fixture
async def page(base: str) -> AsyncIterator[Any]:
    """An empty page; anything the browser complains about fails the test."""
    from playwright.async_api import async_playwright

    complaints: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            context = await browser.new_context(viewport={"width": 1280, "height": 820})
            opened = await context.new_page()
            opened.set_default_timeout(WAIT_MS)
            opened.on("pageerror", lambda error: complaints.append(str(error)))
            opened.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
            yield opened
        finally:
            await browser.close()
    expected = "401 (Unauthorized)"  # a page that is not logged in asks who is
    assert [line for line in complaints if expected not in line] == []


async def test_an_agent_logs_in_sees_who_waits_and_answers(face: Any, base: str, page: Any) -> None:
    """What the customer wrote is on the screen, the answer stands behind it and is in the transcript of the API."""
    conversation_id = await face.hear("Where is my <b>card</b>?")
    await page.goto(f"{base}/")
    await page.get_by_label("API key").fill("tl_wrong")
    await page.get_by_role("button", name="Log in").click()
    await page.get_by_role("alert").get_by_text("unknown or was revoked").wait_for()
    await page.get_by_label("API key").fill(face.plain["agent"])
    await page.get_by_role("button", name="Log in").click()
    await page.get_by_role("link", name="Ada Fischer").click()
    await page.get_by_role("log").get_by_text("Where is my <b>card</b>?").wait_for()
    await page.get_by_text("Goes out by").wait_for()
    box = page.get_by_role("textbox")
    await box.fill("It is on its way to you.")
    await page.get_by_text("24 of 1,600 characters").wait_for()
    await page.get_by_text("1 SMS").wait_for()
    await page.get_by_role("button", name="Send").click()
    await page.get_by_role("log").get_by_text("It is on its way to you.").wait_for()
    assert await box.input_value() == ""
    path = f"/v1/conversations/{conversation_id}/messages"
    said = await (await face.client.get(path, headers=face.agent)).json()
    assert [one["text"] for one in said["items"]] == ["Where is my <b>card</b>?", "It is on its way to you."]
    assert await page.evaluate("document.cookie") == ""


async def goes(face: Any, status: Status) -> None:
    """Health has concluded this of SMS, and says so in the journal as the supervisor does."""
    now = face.runtime.clock.now()
    said = StatusRecord(SMS, Direction.OUT, status, now, "five_in_a_row", "It refuses everything.", written_at=now)
    await face.runtime.board.commit(statuses=[said], transitions=[], snapshots={}, fence=None)
    await face.runtime.store.note(0, "endpoint.changed", {"after": status}, endpoint=SMS)


async def test_the_reply_box_shows_where_the_next_message_goes_and_what_that_allows(
    face: Any, base: str, page: Any
) -> None:
    """By SMS; when that goes down, by mail, with mail's limits, by itself; back; nowhere while we doubt ourselves."""
    conversation_id = await face.hear("Where is my card?")
    view = await face.runtime.switchboard.conversation(conversation_id)
    mailbox = Binding(Address(Channel.EMAIL, "ada@customer.test"), verified=True, order=1)
    await face.runtime.switchboard.set_binding(view.customer.id, mailbox)
    await page.goto(f"{base}/console/login#{face.plain['agent']}")
    await page.get_by_role("link", name="Ada Fischer").click()
    way = page.locator(".way")
    await way.get_by_text("Goes out by SMS sms/twilio to +12025550177.").wait_for()
    await page.get_by_text("no files over SMS").wait_for()
    await page.get_by_text("Live", exact=True).wait_for()

    await goes(face, Status.DOWN)
    await way.get_by_text("Not by sms/twilio: The endpoint is down: it takes no messages.").wait_for()
    await way.get_by_text("by Email email/support to ada@customer.test instead.").wait_for()
    await page.get_by_text("0 of 100,000 characters").wait_for()
    await page.get_by_role("button", name="Attach…").wait_for()
    await way.get_by_text("Why?").click()
    await way.get_by_text("sms/twilio cannot: The endpoint is down: it takes no messages.").wait_for()

    await goes(face, Status.UP)
    await way.get_by_text("Goes out by SMS sms/twilio to +12025550177.").wait_for()

    await face.runtime.board.write_freeze(Freeze(face.runtime.clock.now(), "3 of 4 provider families fail at once"))
    await goes(face, Status.DOWN)
    await page.get_by_role("alert").get_by_text("It seems to be us: 3 of 4 provider families fail at once.").wait_for()
    await way.get_by_text("What you write waits, and goes out when there is a way.").wait_for()


async def test_an_agent_sees_where_the_customer_may_be_written_to_and_ends_it_where_they_say_so(
    face: Any, base: str, page: Any
) -> None:
    """Each address with what holds of it; consent ends at once, the next message goes elsewhere, and back again."""
    conversation_id = await face.hear("Where is my card?")
    desk, people = face.runtime.switchboard, face.runtime.core.people
    customer_id = (await desk.conversation(conversation_id)).customer.id
    await desk.set_binding(customer_id, Binding(Address(Channel.EMAIL, "ada@customer.test"), order=1))
    await people.mark_unreachable(customer_id, "email:ada@customer.test", face.runtime.clock.now() + 3600)
    await _log_in(page, base, face.plain["agent"])
    await page.get_by_role("link", name="Ada Fischer").click()
    await page.get_by_text("Customer's addresses").click()
    rows = page.locator(".binding")
    phone, mailbox = rows.filter(has_text="+12025550177"), rows.filter(has_text="ada@customer.test")
    await phone.get_by_text("in use").wait_for()
    await mailbox.get_by_text("not verified").wait_for()
    await mailbox.get_by_text("nobody there, until").wait_for()
    assert "+12025550177" in await rows.first.inner_text(), "the one they prefer stands first"
    await page.set_viewport_size({"width": 320, "height": 640})
    assert await page.evaluate("document.documentElement.scrollWidth") <= 320
    await page.set_viewport_size({"width": 1280, "height": 820})

    async def consents() -> dict[str, bool]:
        return {one.address.value: one.consent for one in (await desk.customer(customer_id)).bindings}

    await mailbox.get_by_role("button", name="Try again now").click()
    await mailbox.get_by_text("nobody there").wait_for(state="detached")
    await phone.get_by_role("button", name="Stop writing here…").click()
    await phone.get_by_role("button", name="No").click()
    assert all((await consents()).values())
    await phone.get_by_role("button", name="Stop writing here…").click()
    await phone.get_by_role("button", name="Yes, stop").click()
    await phone.get_by_text("no consent").wait_for()
    assert await consents() == {"+12025550177": False, "ada@customer.test": True}
    await page.locator(".way").get_by_text("by Email email/support to ada@customer.test instead.").wait_for()
    await phone.get_by_role("button", name="Write here again…").click()
    await phone.get_by_role("button", name="Yes, they agreed").click()
    await phone.get_by_text("no consent").wait_for(state="detached")
    assert all((await consents()).values())
    await page.locator(".way").get_by_text("Goes out by SMS").wait_for()
    await page.get_by_text("Live", exact=True).wait_for()
    work = Binding(Address(Channel.EMAIL, "ada@work.test"), verified=True, order=2)
    await desk.set_binding(customer_id, work, who="another agent")
    await rows.filter(has_text="ada@work.test").wait_for()


async def test_what_was_said_of_the_last_message_is_gone_after_a_move(face: Any, base: str, page: Any) -> None:
    """`It goes out over sms` must not stay beside `Goes out by Email`."""
    conversation_id = await face.hear("Where is my card?")
    view = await face.runtime.switchboard.conversation(conversation_id)
    mailbox = Binding(Address(Channel.EMAIL, "ada@customer.test"), verified=True, order=1)
    await face.runtime.switchboard.set_binding(view.customer.id, mailbox)
    await page.goto(f"{base}/console/login#{face.plain['agent']}")
    await page.get_by_role("link", name="Ada Fischer").click()
    await page.get_by_text("Live", exact=True).wait_for()
    await page.get_by_role("textbox").fill("On its way.")
    await page.get_by_role("button", name="Send").click()
    await page.get_by_text("Taken. It goes out over sms/twilio.").wait_for()
    await goes(face, Status.DOWN)
    await page.locator(".way").get_by_text("by Email email/support to ada@customer.test instead.").wait_for()
    await page.get_by_text("Taken. It goes out over sms/twilio.").wait_for(state="detached")


async def test_the_end_of_the_transcript_stays_in_sight(face: Any, base: str, page: Any) -> None:
    """What comes in is seen whole, and stays so when what stands below it grows."""
    for number in range(12):
        await face.hear(f"Message {number}\n" * 4, vendor_id=f"SM{number:032d}")
    await page.goto(f"{base}/console/login#{face.plain['agent']}")
    await page.get_by_role("link", name="Ada Fischer").click()
    await page.get_by_role("log").get_by_text("Message 11").wait_for()
    await page.get_by_text("Live", exact=True).wait_for()
    await face.hear("The last word\n" * 6, vendor_id="SM" + "f" * 32)
    await page.get_by_role("log").get_by_text("The last word").wait_for()
    left = "(() => { const box = document.querySelector('.transcript'); "
    left += "return box.scrollHeight - box.scrollTop - box.clientHeight < 2; })"
    await page.wait_for_function(left)
    await page.get_by_role("textbox").fill("one\ntwo\nthree\nfour\nfive\nsix\nseven\neight")
    await page.wait_for_function("() => document.querySelector('#reply-text').rows === 8")
    await page.wait_for_function(left)


async def test_a_phone_shows_the_end_of_the_transcript_and_the_box_to_answer_in(
    face: Any, base: str, page: Any
) -> None:
    """Nobody scrolls through a week to answer; who reads above is left where they are."""
    await page.set_viewport_size({"width": 390, "height": 700})
    for number in range(12):
        await face.hear(f"Message {number}\n" * 4, vendor_id=f"SM{number:032d}")
    await _log_in(page, base, face.plain["agent"])
    await page.get_by_role("link", name="Ada Fischer").click()
    await page.get_by_role("log").get_by_text("Message 11").wait_for()
    seen = """words => {
      const drawn = [...document.querySelectorAll(".message .text, .reply button[type=submit]")];
      const { top, bottom } = drawn.find((one) => one.textContent.startsWith(words)).getBoundingClientRect();
      return top >= 0 && bottom <= innerHeight;
    }"""
    for words in ("Message 11", "Send"):
        await page.wait_for_function(seen, arg=words)
    await face.hear("The last word", vendor_id="SM" + "f" * 32)
    await page.get_by_role("log").get_by_text("The last word").wait_for()
    await page.wait_for_function(seen, arg="The last word")
    await page.locator(".one").evaluate("one => { one.scrollTop = 0; }")
    await page.wait_for_function(seen, arg="Message 0")
    await face.hear("One thing more", vendor_id="SM" + "e" * 32)
    await page.get_by_role("log").get_by_text("One thing more").wait_for()
    assert await page.evaluate(f"({seen})('Message 0')")


async def test_the_page_of_the_api_fits_a_phone(base: str, page: Any) -> None:
    """Its long paths break; only what is a table may be wider than its place, and is scrolled there."""
    await page.set_viewport_size({"width": 320, "height": 700})
    await page.goto(f"{base}/docs")
    assert {one.split()[-1] for one in await page.evaluate(SIDEWAYS)} <= {"wide", "PRE"}


async def test_a_long_transcript_opens_at_its_end_and_goes_back_for_the_asking(face: Any, base: str, page: Any) -> None:
    """One question for what is seen; what comes above leaves it where it is; what is new still comes below."""
    conversation_id = await face.hear("Message 1.")
    for number in range(2, 421):
        await face.hear(f"Message {number}.", vendor_id=f"SM{number:032d}")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/messages?" in request.url else None)
    await _log_in(page, base, face.plain["agent"])
    await page.get_by_role("link", name="Ada Fischer").click()
    log = page.get_by_role("log")
    await log.get_by_text("Message 420.", exact=True).wait_for()
    assert {one.partition("?")[2] for one in asked} <= {"before=0&limit=200", "after=380&limit=200"}
    messages, top = log.locator(".message"), "document.querySelector('.transcript').scrollTop"
    assert await messages.count() == 200
    earlier = page.get_by_role("button", name="Show earlier messages")
    await earlier.scroll_into_view_if_needed()
    seen = log.get_by_text("Message 221.", exact=True)
    for count in (400, 420):
        before = await seen.bounding_box()
        await earlier.click()
        await page.wait_for_function(f"() => document.querySelectorAll('.message').length === {count}")
        await page.wait_for_function(f"() => {top} > 0")
        after = await seen.bounding_box()
        assert before and after and abs(before["y"] - after["y"]) < 60, "what was read has not moved away"
        seen = log.get_by_text("Message 21.", exact=True)
        if count == 400:
            await earlier.scroll_into_view_if_needed()
    await earlier.wait_for(state="detached")
    await face.hear("The last word.", vendor_id="SM" + "f" * 32)
    await log.get_by_text("The last word.", exact=True).wait_for()
    said = [text.partition("\n")[0] for text in await messages.all_inner_texts()]
    assert said == [*(f"Message {number}." for number in range(1, 421)), "The last word."]
    assert conversation_id in asked[-1]


async def test_the_banner_tells_the_readers_own_time(face: Any, base: str, page: Any) -> None:
    """The router says its times in UTC; beside all others, which are local, they would be taken for local ones."""
    words = "all families fail since 14:02:11 UTC"
    await face.runtime.board.write_freeze(Freeze(face.runtime.clock.now(), words))
    context = await page.context.browser.new_context(timezone_id="Asia/Tokyo", locale="en-GB")
    abroad = await context.new_page()
    await abroad.goto(f"{base}/console/login#{face.plain['agent']}")
    await abroad.get_by_role("alert").get_by_text("all families fail since 23:02:11.").wait_for(timeout=WAIT_MS)
    await context.close()


async def test_a_new_message_shows_up_by_itself(face: Any, base: str, page: Any) -> None:
    """The list is live: nobody reloads, and the newcomer is there."""
    await page.goto(f"{base}/console/login#{face.plain['admin']}")
    await page.get_by_text("Nobody waits").wait_for()
    assert "tl_" not in page.url
    await page.get_by_text("Live", exact=True).wait_for()
    await face.hear("Is anybody there?")
    await page.get_by_role("link", name="Ada Fischer").wait_for()


async def test_an_agent_files_what_waits_for_proof(face: Any, base: str, page: Any) -> None:
    """What matches nothing shows up by itself, as text; once filed it stands where it belongs, and nowhere else."""
    ada = [Binding(Address(Channel.SMS, "+12025550177"), verified=True)]
    customer = await face.runtime.switchboard.create_customer(name="Ada Fischer", locale="en", bindings=ada)
    more = {"text": "Hello", "author": "a", "author_name": "Bo"}
    for subject in ("Parcel", "Invoice"):
        sent = await face.runtime.switchboard.open_conversation(
            customer.id, subject=subject, idempotency_key=subject, **more
        )
    reference = (await face.runtime.switchboard.conversation(sent.conversation_id)).conversation.reference
    await page.goto(f"{base}/console/login#{face.plain['agent']}")
    await page.get_by_text("Live", exact=True).wait_for()
    assert await face.hear("It is <b>broken</b>.") == ""
    await page.get_by_text("Waiting for proof").click()
    held = page.locator(".held")
    await held.get_by_text("It is <b>broken</b>.").wait_for()
    await held.get_by_text("+12025550177").wait_for()
    await held.get_by_role("button", name="File in…").click()
    await held.get_by_label("Reference").fill(f"{reference.lower()} ")
    await held.get_by_role("button", name="File", exact=True).click()
    await page.get_by_role("log").get_by_text("It is <b>broken</b>.").wait_for()
    await held.wait_for(state="detached")
    heard = [one for one in await face.runtime.switchboard.transcript(sent.conversation_id) if one.side == "a"]
    assert [one.content.text for one in heard] == ["It is <b>broken</b>."]


async def test_ops_preview_start_and_stop_a_failover(face: Any, base: str, page: Any) -> None:
    """Nothing starts before it was looked at and given a reason; what runs is listed and can be stopped."""
    await page.goto(f"{base}/console/login#{face.plain['ops']}")
    await page.get_by_role("link", name="Failovers").click()
    await page.get_by_role("checkbox", name="sms/twilio").check()
    await page.get_by_role("button", name="Preview").click()
    await page.get_by_text("What it would do now").wait_for()
    start = page.get_by_role("button", name="Start failover")
    assert await start.is_disabled()
    await page.get_by_label("Because").fill("The vendor announced work")
    await start.click()
    await page.get_by_text("active", exact=True).wait_for()
    listed = await face.runtime.switchboard.failovers()
    assert [one.why for one in listed] == ["The vendor announced work"]
    await page.get_by_role("button", name="Stop…").click()
    await page.get_by_role("button", name="Stop it now").click()
    await page.get_by_text("stopped", exact=True).wait_for()
    assert await face.runtime.switchboard.failovers() == []


SIDEWAYS = """[...document.querySelectorAll("*")].filter((one) =>
  one.scrollWidth > one.clientWidth + 1 && (one === document.documentElement ||
  ["auto", "scroll"].includes(getComputedStyle(one).overflowX))).map((one) => `${one.tagName} ${one.className}`)"""
"""Whatever on the page can be scrolled sideways."""


async def _long_words_everywhere(face: Any) -> str:
    """A stranger and our own people write without a space; the conversation's reference."""
    talk, name = face.runtime.switchboard, "Maximiliane-" * 15
    heard = await talk.accept(
        InboundMessage(
            endpoint=MAIL, vendor_id="<1@x>", sender=Address(Channel.EMAIL, f"{'a' * 60}@{'b' * 60}.customer.test"),
            text="https://example.org/" + "x" * 900, sent_at=face.runtime.clock.now(), subject="Re:" + "s" * 400,
            sender_name=name,
        )
    )  # fmt: skip
    await talk.send(heard.conversation_id, text="y" * 900, author="a", author_name=name, idempotency_key="k")
    agent = await talk.create_agent(name="N" * 200, team="", bindings=())
    await talk.update_conversation(heard.conversation_id, assignee=agent.id)
    await talk.start_failover(scope=[SMS], target=None, who="w" * 80, why="z" * 200, expires_in_s=600)
    return str((await talk.conversation(heard.conversation_id)).conversation.reference)


async def test_words_without_a_space_widen_no_screen(face: Any, base: str, page: Any) -> None:
    """A name, subject, address, reason or link of any length breaks or ends in dots; nothing scrolls sideways."""
    reference = await _long_words_everywhere(face)
    await _log_in(page, base, face.plain["admin"])
    screens = {
        "conversations": page.locator(".row"),
        f"conversations/{reference}": page.get_by_role("button", name="Send"),
        "endpoints": page.get_by_role("heading", name="Endpoints"),
        "failovers": page.get_by_role("button", name="Stop…"),
    }
    for screen, drawn in screens.items():
        for width in (1280, 390, 320):
            await page.set_viewport_size({"width": width, "height": 820})
            await page.goto(f"{base}/console/#/{screen}")
            await drawn.wait_for()
            if "/" in screen:
                await page.locator(".ways summary").click()
                await page.get_by_role("button", name="Move…").click()
            assert await page.evaluate(SIDEWAYS) == [], (screen, width)
            if "/" in screen:
                await page.get_by_role("button", name="Leave it").click()
                await page.locator(".ways summary").click()


async def test_an_agent_is_offered_no_failover_that_would_be_refused(face: Any, base: str, page: Any) -> None:
    """Also not by its address, which somebody may have sent them; they read what they can do instead."""
    await _log_in(page, base, face.plain["agent"])
    await page.goto(f"{base}/console/#/failovers")
    await page.get_by_text("Ops staff force a failover.").wait_for()
    assert await page.get_by_role("button", name="Preview").count() == 0


async def test_why_a_conversation_is_where_it_is_stands_there_in_words(face: Any, base: str, page: Any) -> None:
    """Whatever the router writes down as a leg's reason; what somebody wrote themselves stands as it is."""
    await _log_in(page, base, face.plain["agent"])
    worded = await page.evaluate("import('/console/words.js').then((words) => Object.keys(words.LEG_REASONS))")
    parked = {Cause.NO_ROUTE, Cause.PACED, Cause.MOVED_LATELY}
    rest = {"opened", "wrote_here", "failback", "routed", "unreachable", "rejected", "undelivered"}
    assert (OUTAGES | parked | MOVES_AT_ONCE | rest) - {""} <= set(worded)


async def test_a_session_ends_with_its_key(face: Any, base: str, page: Any) -> None:
    """A revoked key's console is back at the login page with its next question."""
    await page.goto(f"{base}/console/login#{face.plain['agent']}")
    await page.get_by_text("Nobody waits").wait_for()
    await face.runtime.keys.revoke(face.plain["agent"].split("_")[1])
    await page.reload()
    await page.get_by_label("API key").wait_for()


async def _log_in(page: Any, base: str, key: str) -> None:
    await page.goto(f"{base}/console/login#{key}")
    await page.get_by_text("Live", exact=True).wait_for()


async def _comes_to(page: Any, words: str) -> None:
    """The focus comes to the element of that tag and text: right after it is drawn, not with it."""
    focused = "(document.activeElement.tagName + ' ' + document.activeElement.textContent.trim())"
    await page.wait_for_function(f"words => {focused}.startsWith(words)", arg=words)


async def test_what_was_typed_outlives_a_reload_and_no_logout(face: Any, base: str, page: Any) -> None:
    """A tab that was reloaded has the half sentence still; whoever sits down next at this desk finds nothing."""
    await face.hear("Where is my card?")
    await _log_in(page, base, face.plain["agent"])
    await page.get_by_role("link", name="Ada Fischer").click()
    await page.get_by_role("textbox").fill("It is on its w")
    await page.reload()
    await expect_value(page, "It is on its w")
    await page.get_by_role("textbox").fill("It is on its way.")
    await page.keyboard.press("Control+Enter")
    await page.get_by_role("log").get_by_text("It is on its way.").wait_for()
    await page.reload()
    await expect_value(page, "")
    await page.get_by_role("textbox").fill("One thing m")
    await page.get_by_role("button", name="Log out").click()
    await page.get_by_label("API key").wait_for()
    assert await page.evaluate("Object.keys(sessionStorage).length") == 0
    await page.get_by_label("API key").fill(face.plain["agent"])
    await page.get_by_role("button", name="Log in").click()
    await page.get_by_role("link", name="Ada Fischer").click()
    await expect_value(page, "")


@pytest.mark.parametrize(
    ("meanwhile", "left"),
    [
        ("On its way. One thing more", "One thing more"),
        ("Something else", "Something else"),
        ("On its way.", ""),
    ],
)
async def test_what_is_typed_while_a_message_is_being_sent_is_not_thrown_away(
    face: Any, base: str, page: Any, meanwhile: str, left: str
) -> None:
    """The router may be long in taking it: what was written on since stays in the box, over a reload too."""
    conversation_id = await face.hear("Where is my card?")
    await _log_in(page, base, face.plain["agent"])
    await page.get_by_role("link", name="Ada Fischer").click()
    held = asyncio.Event()

    async def hold(route: Any) -> None:
        if route.request.method == "POST":
            await held.wait()
        await route.continue_()

    await page.route("**/messages*", hold)
    await page.get_by_role("textbox").fill("On its way.")
    await page.get_by_role("button", name="Send").click()
    await page.get_by_role("button", name="Sending…").wait_for()
    await page.get_by_role("textbox").fill(meanwhile)
    held.set()
    await page.get_by_role("log").get_by_text("On its way.").wait_for()
    await page.get_by_role("button", name="Send", exact=True).wait_for()
    await expect_value(page, left)
    await page.reload()
    await expect_value(page, left)
    if left:
        await page.get_by_role("button", name="Send", exact=True).click()
        await page.get_by_role("log").get_by_text(left, exact=True).wait_for()
    said = await face.runtime.switchboard.transcript(conversation_id)
    assert [one.content.text for one in said[1:]] == ["On its way.", *([left] if left else [])]


async def expect_value(page: Any, value: str) -> None:
    """The reply box holds this, once it is there."""
    await page.get_by_role("textbox").wait_for()
    assert await page.get_by_role("textbox").input_value() == value


async def test_who_waits_beyond_the_first_hundred_can_be_seen_and_found(face: Any, base: str, page: Any) -> None:
    """The count does not pretend to be all, more are shown for the asking, and a reference finds anyone."""
    ids = [
        await face.hear(f"Question {number}", f"+1202555{1000 + number}", f"SM{number:032d}") for number in range(102)
    ]
    last = (await face.runtime.switchboard.conversation(ids[-1])).conversation.reference
    await _log_in(page, base, face.plain["admin"])
    await page.get_by_role("link", name="Conversations 100+").wait_for()
    await page.get_by_role("searchbox", name="Find by reference").fill(f" {last.lower()} ")
    await page.get_by_role("button", name="Find").click()
    await page.get_by_role("log").get_by_text("Question 101").wait_for()
    await page.get_by_role("button", name="Show more").click()
    await page.get_by_role("link", name="Conversations 102", exact=True).wait_for()
    assert await page.locator(".row").count() == 102
    await page.set_viewport_size({"width": 320, "height": 640})
    assert await page.evaluate("document.documentElement.scrollWidth") <= 320


async def test_an_agent_sees_that_another_one_answered_meanwhile(face: Any, base: str, page: Any) -> None:
    """What a second agent said while the first one typed stands above the box, until the first one's is sent."""
    conversation_id = await face.hear("Where is my card?")
    await _log_in(page, base, face.plain["agent"])
    await page.get_by_role("link", name="Ada Fischer").click()
    await page.get_by_role("textbox").fill("It is on its w")
    await face.runtime.switchboard.send(
        conversation_id, text="It was sent on Monday.", author="a", author_name="Bo", idempotency_key="k"
    )
    await page.locator(".meanwhile").get_by_text("Bo answered while you wrote: It was sent on Monday.").wait_for()
    await page.keyboard.press("Control+Enter")
    await page.locator(".meanwhile").wait_for(state="detached")


async def test_the_keyboard_does_not_lose_its_place(face: Any, base: str, page: Any) -> None:
    """Opening a conversation leads into it; a button that makes room for others gives the focus on and gets it back."""
    await face.hear("Where is my card?")
    await _log_in(page, base, face.plain["agent"])
    await page.get_by_role("link", name="Ada Fischer").focus()
    await page.keyboard.press("Enter")
    await page.get_by_role("textbox").wait_for()
    await _comes_to(page, "H2 Ada Fischer")
    for opens, inside, leaves in (("Close…", "BUTTON Close it", "Keep open"), ("Move…", "SELECT", "Leave it")):
        for _ in range(2):
            await page.get_by_role("button", name=opens).focus()
            await page.keyboard.press("Enter")
            await page.get_by_role("button", name=leaves).wait_for()
            await _comes_to(page, inside)
            await page.get_by_role("button", name=leaves).press("Enter")
            await page.get_by_role("button", name=opens).wait_for()
            await _comes_to(page, f"BUTTON {opens}")


async def test_a_console_without_answers_says_so_and_comes_back_by_itself(face: Any, base: str, page: Any) -> None:
    """Nobody is sent to the login page by an outage of ours, no green light shines, and nothing is to be reloaded."""
    await face.hear("Where is my card?")
    context = await page.context.browser.new_context()
    other = await context.new_page()
    other.set_default_timeout(WAIT_MS)
    await _log_in(other, base, face.plain["agent"])
    green = "getComputedStyle(document.querySelector('.stream'), '::before').backgroundColor"
    lit = await other.evaluate(green)

    async def refuse(route: Any) -> None:
        problem = {"reason": "store_unavailable", "detail": "Nothing was accepted; please try again."}
        await route.fulfill(status=503, json=problem, content_type="application/problem+json")

    await other.route("**/console/session", refuse)
    await other.route("**/v1/**", refuse)
    await other.reload()
    await other.get_by_text("The router cannot say now who is logged in.").wait_for()
    await other.unroute("**/console/session")
    await other.get_by_role("alert").get_by_text("What stands here may be old").wait_for()
    await other.get_by_text("Connecting…").wait_for()
    assert await other.evaluate(green) != lit
    await other.unroute("**/v1/**")
    await other.get_by_role("link", name="Ada Fischer").wait_for()
    await other.get_by_text("Live", exact=True).wait_for()
    await other.get_by_role("alert").wait_for(state="detached")
    assert await other.evaluate(green) == lit
    await context.close()
