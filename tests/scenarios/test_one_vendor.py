"""What one vendor does wrong without being dead: a changed password, too much at once, another language."""

from channels.sandbox.vendor import Fault
from health.report import Status


async def test_a_password_that_was_changed_takes_the_account_down_and_tells_staff(world):
    """A person must act: the customer is reached elsewhere at once, and the incident says why."""
    ray = await world.known_customer("ray")
    await ray.writes_mail("Hello")
    talk = await ray.conversation()
    await talk.hears("Hello")
    vendor = world.vendor("email").vendor
    kept, vendor._password = vendor._password, "somebody changed it"
    await talk.answer("Hello Ray.")
    await ray.phone.expects("Example Shop", await talk.reference(), within_s=30)
    await ray.phone.expects("Hello Ray.")
    await world.expects_status("email/sandbox", Status.DOWN)

    async def opened():
        return (await world.get("/v1/incidents?open_only=true"))["items"]

    (incident,) = await world.eventually(opened, "an incident is open")
    assert incident["affected"][0]["endpoint"] == "email/sandbox"
    assert incident["affected"][0]["reason"] == "misconfigured"
    vendor._password = kept
    await world.ends_well()


async def test_a_vendor_that_asks_us_to_wait_is_neither_down_nor_left(world):
    """Throttled texts wait for their time and arrive once, in order."""
    sue = await world.known_customer("sue")
    await sue.texts("Hello")
    talk = await sue.conversation()
    await talk.hears("Hello")
    await world.vendor("sms").suffers(Fault.THROTTLE)
    for number in ("one", "two", "three"):
        await talk.answer(f"Number {number}.")
    first = (await talk.messages())[1]

    async def throttled() -> bool:
        found = await world.core.store.message(first.id)
        return any(one.outcome == "throttled" for one in found.attempts)

    await world.eventually(throttled, "an attempt was throttled")
    assert await world.status("sms/sandbox") is Status.UP
    await world.vendor("sms").recovers()
    for number in ("one", "two", "three"):
        assert (await sue.phone.expects(f"Number {number}.", within_s=30)).endpoint == "sms/sandbox"
    await world.ends_well()


async def test_each_customer_is_told_in_their_language(world):
    """A notice in English, Spanish, French and German; a language we do not have falls back."""
    words = {"en": "you can simply reply", "es": "responder", "fr": "répondre", "de": "antworten", "it": "simply reply"}
    people = {locale: await world.known_customer(f"x{locale}", locale=locale) for locale in words}
    talks = {}
    for locale, person in people.items():
        await person.writes_mail("Hallo")
        talks[locale] = await person.conversation()
        await talks[locale].hears("Hallo")
    await world.vendor("email").suffers(Fault.ERROR)
    for locale, talk in talks.items():
        await talk.answer(f"Answer for {locale}!")
    for locale, person in people.items():
        notice = await person.phone.expects("Example Shop", await talks[locale].reference(), within_s=30)
        assert words[locale].casefold() in notice.text.casefold(), notice.text
        await person.phone.expects(f"Answer for {locale}!")
    await world.ends_well()
