"""The mail vendor fails while people talk: the conversation goes on by SMS, and comes back."""

from health.report import Status


async def test_an_answer_overtaken_by_a_hanging_mail_vendor_arrives_on_the_phone(world):
    """One notice with who, what and the reference; the SMS reply joins; mail recovers; new conversations use it."""
    ann = await world.known_customer("ann")
    await ann.writes_mail("Where is my parcel?", subject="Parcel")
    talk = await ann.conversation()
    await talk.hears("Where is my parcel?")
    await talk.answer("It left yesterday.")
    await ann.mailbox.expects("It left yesterday.")

    await world.vendor("email").hangs()
    await talk.answer("It is in Lyon now.")
    notice = await ann.phone.expects("Example Shop", "email", await talk.reference(), within_s=30)
    assert "reply here" in notice.text
    await ann.phone.expects("It is in Lyon now.", within_s=30)
    await ann.texts("Thanks, got it")
    await talk.hears("Thanks, got it")
    await talk.answer("You are welcome.")
    await ann.phone.expects("You are welcome.")

    await world.vendor("email").recovers()
    await world.expects_status("email/sandbox", Status.UP, within_s=30)
    bob = await world.known_customer("bob")
    await bob.writes_mail("Do you ship to Spain?")
    other = await bob.conversation()
    await other.answer("We do.")
    await bob.mailbox.expects("We do.")
    await world.ends_well()


async def test_the_mail_server_dies_with_forty_conversations_open(world):
    """Each customer hears once, on SMS, with their own reference; then their answer; nobody twice."""
    people = [await world.known_customer(f"c{number}", phone=f"+1202555{2000 + number}") for number in range(40)]
    for number, person in enumerate(people):
        await person.writes_mail(f"Question {number}", subject="Help")
    talks = [await person.conversation() for person in people]
    for number, talk in enumerate(talks):
        await talk.hears(f"Question {number}")

    await world.vendor("email").refuses()
    for number, talk in enumerate(talks[:20]):  # the other half only waits for us
        await talk.answer(f"Answer {number}, part one.")
        await talk.answer(f"Answer {number}, part two.")
    for number, (person, talk) in enumerate(zip(people, talks, strict=True)):
        await person.phone.expects("Example Shop", await talk.reference(), within_s=30)
        if number < 20:
            await person.phone.expects(f"Answer {number}, part one.")
            await person.phone.expects(f"Answer {number}, part two.")
    for number, talk in enumerate(talks[20:], 20):
        await talk.answer(f"Answer {number}.")
    for number, person in enumerate(people[20:], 20):
        await person.phone.expects(f"Answer {number}.")
    await world.ends_well()


async def test_another_account_for_sms_comes_before_mail(world):
    """sms/sandbox dies: the talk goes on over sms/backup, from its other number, and replies there join."""
    eva = await world.known_customer("eva", phone="+12025553001")
    await eva.texts("Is my order ready?")
    talk = await eva.conversation()
    await talk.answer("Almost.")
    await eva.phone.expects("Almost.")

    await world.vendor("sms").refuses()
    await talk.answer("Now it is.")
    notice = await eva.phone.expects("Example Shop", await talk.reference(), within_s=30)
    answer = await eva.phone.expects("Now it is.")
    assert (notice.endpoint, answer.endpoint) == ("sms/backup", "sms/backup")
    await eva.texts("Coming", over="backup")
    await talk.hears("Coming")
    await world.ends_well()


async def test_every_channel_is_down_then_one_comes_back(build_world):
    """What is said is kept, parked with a reason and a time that people can see, and goes out on the first way."""
    # Three providers that fail at once look like a fault of ours for this long; nobody is moved meanwhile.
    async with build_world(health={"broken_within_s": 1.0}) as world:
        await _tell_of_no_way(world)


async def _tell_of_no_way(world):
    fay = await world.known_customer("fay")
    await fay.writes_mail("Hello?")
    talk = await fay.conversation()
    for vendor in ("email", "sms", "backup"):
        await world.vendor(vendor).refuses()
    await talk.answer("One.")
    await talk.answer("Two.")
    parked = await talk.reaches("parked", "One.", within_s=40)
    assert parked.reason and parked.parked_until > 0
    shown = await world.get(f"/v1/messages/{parked.id}")
    assert shown["state"] == "parked" and shown["reason"], shown

    await world.vendor("backup").recovers()
    await fay.phone.expects("Example Shop", await talk.reference(), within_s=40)
    await fay.phone.expects("One.")
    await fay.phone.expects("Two.")
    await world.ends_well()
