"""The chat's page and widget, in a real Chromium."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from playwright.async_api import Page, async_playwright

from channels.messages import Address, Channel, Kind
from health.report import EndpointId, Status
from router.web import chat_hub

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the system's Chromium"),
]
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"]
HOSTILE = "<img src=x onerror=\"document.title='broken in'\"> {words} </div><script>document.title='broken in'</script>"

Open = Callable[..., Awaitable[Page]]


@pytest.fixture
async def open_page(house) -> AsyncIterator[Open]:
    """Opens the chat's page and waits until it is connected; any error on a page fails the test."""
    faults: list[str] = []
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)

        async def new(*, at: str = "", ready: str = ".state.on", **options: object) -> Page:
            context = await chromium.new_context(**{"locale": "en-GB", **options})
            page = await context.new_page()
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("console", lambda line: faults.append(line.text) if "Content Security" in line.text else None)
            page.set_default_timeout(8_000)
            await page.goto(at or f"{house.url}/chat")
            await page.wait_for_selector(ready)
            return page

        yield new
        await chromium.close()
    assert not faults


async def say(page: Page, text: str) -> None:
    await page.fill(".say textarea", text)
    await page.keyboard.press("Enter")


def session_of(house) -> str:
    return house.switchboard.accepted[0].sender.value


async def test_a_customer_asks_and_is_answered(house, open_page):
    page = await open_page()
    await say(page, "Where is my order?")
    await page.wait_for_selector(".reference b:has-text('4F2K9')")
    await house.say_to(session_of(house), "It is in Lyon.")
    await page.wait_for_selector(".line:not(.mine) .text:has-text('It is in Lyon.')")
    await page.wait_for_selector(".line.mine:not(.pending)")
    assert [receipt.token for receipt in house.switchboard.receipts] == ["a0-1"]
    assert await page.title() == "Example Shop"


async def test_what_is_said_while_the_server_is_away_is_sent_once_and_in_order(house, open_page, until):
    page = await open_page()
    await say(page, "One")
    await page.wait_for_selector(".line.mine:not(.pending)")
    await house.stop()
    await page.wait_for_selector(".banner:has-text('The connection is lost')")
    await say(page, "Two")
    await say(page, "Three")
    await page.wait_for_selector(".pending .meta:has-text('Not sent yet')")
    await house.start()
    await until(lambda: len(house.switchboard.accepted) == 3)
    assert [message.text for message in house.switchboard.accepted] == ["One", "Two", "Three"]
    await page.wait_for_selector(".pending", state="detached")
    await page.wait_for_selector(".banner", state="hidden")
    await page.reload()
    await page.wait_for_selector("text=Three")
    assert await page.locator(".line .text").all_inner_texts() == ["One", "Two", "Three"]
    assert len(house.switchboard.accepted) == 3


async def test_what_was_not_taken_survives_a_reload(house, open_page, until):
    page = await open_page()
    house.switchboard.broken = True
    await say(page, "Keep me")
    await page.wait_for_selector(".pending")
    await page.reload()
    await page.wait_for_selector(".pending .text:has-text('Keep me')")
    assert not house.switchboard.accepted
    house.switchboard.broken = False
    await until(lambda: len(house.switchboard.accepted) == 1)
    await page.wait_for_selector(".line.mine:not(.pending)")


async def test_what_was_typed_survives_a_reload_and_no_sending(house, open_page):
    page = await open_page()
    await page.fill(".say textarea", "Half a sent")
    await page.reload()
    await page.wait_for_selector(".state.on")
    assert await page.input_value(".say textarea") == "Half a sent"
    await page.press(".say textarea", "Enter")
    await page.wait_for_selector(".line.mine:not(.pending)")
    await page.reload()
    await page.wait_for_selector(".line.mine:not(.pending)")
    assert await page.input_value(".say textarea") == ""


async def test_what_nobody_can_read_does_not_keep_back_what_is_said_after_it(house, open_page, until):
    page = await open_page()
    await say(page, "Before")
    await page.wait_for_selector(".line.mine:not(.pending)")
    poison = """() => {
      const name = Object.keys(localStorage).find((key) => key.endsWith(":outgoing"));
      localStorage.setItem(name, '[{"id":"0123456789abcdef","text":"half an emoji \\ud83d","name":""}]');
    }"""
    await page.evaluate(poison)
    await page.reload()
    await page.wait_for_selector(".failed .meta:has-text('Please write it again')")
    await say(page, "After")
    await until(lambda: [one.text for one in house.switchboard.accepted] == ["Before", "After"])


async def test_a_tab_too_many_waits_until_it_is_looked_at(house, open_page, monkeypatch):
    monkeypatch.setattr(chat_hub, "SOCKETS_PER_SESSION_MAX", 1)
    first = await open_page()
    await say(first, "Hello")
    await first.wait_for_selector(".line.mine:not(.pending)")
    second = await first.context.new_page()
    await second.goto(first.url)
    await second.wait_for_selector(".line.mine")
    await first.wait_for_selector(".state:not(.on)")
    await first.wait_for_timeout(1_500)  # it would have come back three times by now
    assert await second.locator(".state.on").count() == 1
    assert await first.locator(".state.on").count() == 0
    await first.evaluate("dispatchEvent(new Event('focus'))")
    await first.wait_for_selector(".state.on")


async def test_the_same_message_twice_is_shown_once_and_acknowledged_twice(house, open_page, until):
    page = await open_page()
    await say(page, "Hello")
    await page.wait_for_selector(".line.mine:not(.pending)")
    await house.say_to(session_of(house), "Only once", token="a0-1")
    await house.say_to(session_of(house), "Only once", token="a0-2")
    await until(lambda: len(house.switchboard.receipts) == 2)
    assert await page.locator(".text:has-text('Only once')").count() == 1


async def test_hostile_words_are_shown_as_words(house, open_page):
    page = await open_page()
    await say(page, HOSTILE.format(words="mine"))
    await page.wait_for_selector(".line.mine:not(.pending)")
    await house.say_to(session_of(house), HOSTILE.format(words="theirs"))
    await page.wait_for_selector(".text:has-text('theirs')")
    assert await page.locator("throughline-chat img, throughline-chat script").count() == 0
    assert await page.title() == "Example Shop"


async def test_the_banner_says_what_is_wrong_and_where_it_goes_on(house, open_page):
    page = await open_page()
    await page.click("text=How else can we reach you?")
    await page.fill("input[name=mobile]", "+1 202 555 0100")
    await page.click("text=Save")
    await page.wait_for_selector(".problem:has-text('tick the box')")
    await page.check("input[name=consent]")
    await page.click("text=Save")
    await say(page, "Hello")
    await page.wait_for_selector(".details", state="hidden")
    house.switchboard.set_status(Status.DOWN)
    banner = page.locator(".banner")
    await page.wait_for_selector(".banner:has-text('text message to +1•••0100')")
    assert "in trouble" in await banner.inner_text()
    house.switchboard.set_status(Status.UP)
    talk = next(iter(house.switchboard.views))
    house.switchboard.move(talk, EndpointId("sms/sandbox"), Address(Channel.SMS, "+12025550100"))
    await page.wait_for_selector(".banner.moved:has-text('goes on by text message: +1•••0100')")
    house.switchboard.said(talk, "Here we are", endpoint=EndpointId("sms/sandbox"))
    await page.reload()
    await page.wait_for_selector(".mark:has-text('Continued by text message')")
    await house.say_to(session_of(house), "You are back", kind=Kind.NOTICE)
    await page.wait_for_selector(".mark:has-text('Back in chat')")


async def test_it_speaks_the_browsers_language_and_fits_a_small_screen(open_page):
    page = await open_page(locale="de-AT", viewport={"width": 320, "height": 600}, color_scheme="dark")
    assert await page.evaluate("document.documentElement.scrollWidth") <= 320
    assert await page.evaluate("document.documentElement.lang") == "de"
    assert await page.locator(".say textarea").get_attribute("placeholder") == "Nachricht schreiben"
    assert await page.locator(".log").get_attribute("aria-live") == "polite"


PLACEHOLDER = """field => {
  const light = (colour) => colour.match(/[0-9.]+/g).slice(0, 3)
    .map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0.05);
  const colours = [getComputedStyle(field, "::placeholder").color, getComputedStyle(field).backgroundColor];
  const [one, other] = colours.map(light);
  return Math.max(one, other) / Math.min(one, other);
}"""
"""The contrast of a field's placeholder (WCAG 2.2, contrast ratio)."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_an_empty_field_says_legibly_what_it_is_for(open_page, scheme):
    page = await open_page(color_scheme=scheme)
    assert await page.locator(".say textarea").evaluate(PLACEHOLDER) >= 4.5


async def test_another_site_embeds_the_widget_with_one_line(house, shop_site, open_page, until):
    page = await open_page(at=shop_site.origin, ready=".launch")
    await page.click(".launch")
    await page.wait_for_selector(".state.on")
    await say(page, "From the shop")
    await until(lambda: [message.text for message in house.switchboard.accepted] == ["From the shop"])
    await page.keyboard.press("Escape")
    await page.wait_for_selector(".panel", state="hidden")
    assert await page.evaluate("document.activeElement.shadowRoot.activeElement.className") == "launch"
    await house.say_to(session_of(house), "Come back")
    await page.wait_for_selector(".badge:has-text('1')")
    await page.click(".launch")
    await page.wait_for_selector(".text:has-text('Come back')")
    assert await page.locator(".text").first.evaluate("text => getComputedStyle(text).fontSize") == "16px"
