"""Several people and several matters behind one telephone number."""

import pytest

from channels.sandbox.vendor import Fault

PHONE = "+12025554000"


async def _open(world, person, text):
    """We write first; they answer that very mail, so that they wait for us in this conversation."""
    world.keys += 1
    body = {"customer_id": person.id, "subject": text, "text": text, "channel": "email"}
    sent = await world.post("/v1/conversations", body, key=f"open-{world.keys}")
    mail = await person.mailbox.expects(text)
    await person.writes_mail(f"About {text}", answering=mail)
    return next(talk for talk in await person._talks(1) if talk.id == sent["conversation_id"])


async def test_two_people_with_two_matters_each_get_one_notice_and_no_reply_is_misfiled(world):
    """One combined notice with four references; a reply with one goes there, a reply without is held and asked for."""
    ida = await world.known_customer("ida", phone=PHONE)
    jon = await world.known_customer("jon", phone=PHONE)
    phone = ida.phone
    talks = {text: await _open(world, ida if text < "C" else jon, text) for text in ("A1", "B2", "C3", "D4")}
    for text, talk in talks.items():
        await talk.hears(f"About {text}")
    references = {text: await talk.reference() for text, talk in talks.items()}

    await world.vendor("email").refuses()
    notice = await phone.expects("Example Shop", *references.values(), within_s=40)
    assert "ida" not in notice.text.lower() and "jon" not in notice.text.lower()

    await ida.texts(f"{references['C3']} blue please")
    await talks["C3"].hears(f"{references['C3']} blue please")
    await ida.texts("and thanks")
    question = await phone.expects("which of your requests")
    assert not any(reference in question.text for reference in references.values())
    for text, talk in talks.items():
        said = [one.content.text for one in await talk.messages() if one.author == talk_customer(ida, jon, text)]
        assert not any("and thanks" in one for one in said), text
    await ida.texts(references["D4"])
    await talks["D4"].hears("and thanks")
    await talks["A1"].answer("A1 is done.")
    await phone.expects(references["A1"], "A1 is done.")
    await world.ends_well()


def talk_customer(ida, jon, text):
    return ida.id if text < "C" else jon.id


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.HANG])
async def test_answers_already_on_their_way_in_all_four_change_nothing_of_that(world, fault):
    """Four attempts are open or failing when the mail dies: still one combined notice, then the four answers."""
    ida = await world.known_customer("ida", phone=PHONE)
    jon = await world.known_customer("jon", phone=PHONE)
    talks = {text: await _open(world, ida if text < "C" else jon, text) for text in ("A1", "B2", "C3", "D4")}
    for text, talk in talks.items():
        await talk.hears(f"About {text}")
    await world.vendor("email").suffers(fault)
    for text, talk in talks.items():
        await talk.answer(f"Answer to {text}.")
    references = [await talk.reference() for talk in talks.values()]
    await ida.phone.expects("Example Shop", *references, within_s=50)
    heard = [(await ida.phone.expects("Answer to", within_s=30)).text for _ in talks]
    for (text, _), reference in zip(talks.items(), references, strict=True):
        assert sum(f"Answer to {text}." in one and reference in one for one in heard) == 1, heard
    await world.ends_well()
