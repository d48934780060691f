"""What nobody should send us: each gets a clear answer, and nothing is lost, doubled or moved by it."""

import io
from urllib.parse import urlencode

import pytest

from channels.messages import Address, Channel
from channels.signatures import sign_twilio
from router.domain.conversation import Binding

SID = "SM" + "7" * 32


def _text(world, body="Hello", sid=SID, sender="+12025559001"):
    vendor = world.vendor("backup").vendor
    return {
        "MessageSid": sid,
        "AccountSid": vendor.account_sid,
        "From": sender,
        "To": vendor.number,
        "Body": body,
        "SmsStatus": "received",
        "NumMedia": "0",
    }


async def _post(world, form, *, path="/hooks/sms/backup", signed=True):
    vendor = world.vendor("backup").vendor
    url = world.settings.public_url + path
    signature = sign_twilio(vendor._auth_token, url, form.items()) if signed else "bm90IG91cnM="
    body = io.BytesIO(urlencode(form).encode())
    headers = {"X-Twilio-Signature": signature, "Content-Type": "application/x-www-form-urlencoded"}
    async with world.http.post(url, data=body, headers=headers) as answer:
        return answer.status


async def test_webhooks_that_are_not_what_they_say_change_nothing(build_world):
    """Unsigned, tampered, unknown endpoint, too large: refused; a genuine one delivered five times is one message."""
    async with build_world(start=("web",)) as world:
        form = _text(world)
        assert await _post(world, form, signed=False) == 401
        assert await _post(world, form, path="/hooks/sms/nobody") == 404
        assert await _post(world, form | {"Body": "x" * 3_000_000}) == 413
        assert await world.core.people.at(Address(Channel.SMS, "+12025559001")) == []
        assert [await _post(world, form) for _ in range(5)] == [200] * 5
        person = world.customer("wendy", "+12025559001")
        talk = await person.conversation()
        assert [one.content.text for one in await talk.messages()] == ["Hello"]


async def test_statuses_out_of_order_only_move_up(world):
    """`delivered` before `sent`, and again: it stays delivered; one about nothing is taken and ignored."""
    vendor = world.vendor("backup").vendor
    joe = await world.known_customer("joe")
    await joe.texts("Hi", over="backup")
    talk = await joe.conversation()
    message = await talk.answer("Hi Joe.")
    text = await joe.phone.expects("Hi Joe.")
    await talk.reaches("delivered", "Hi Joe.")
    path = "/hooks/sms/backup/status?t=" + text.details["token"]
    for status in ("sent", "queued", "delivered", "undelivered"):
        form = {"MessageSid": text.vendor_id, "MessageStatus": status, "AccountSid": vendor.account_sid}
        assert await _post(world, form, path=path) < 300
    form = {"MessageSid": "SM" + "9" * 32, "MessageStatus": "delivered", "AccountSid": vendor.account_sid}
    assert await _post(world, form, path="/hooks/sms/backup/status?t=t0-01M7ZW65B1R3EHSMN0J24B.1") < 300
    assert (await world.get(f"/v1/messages/{message}"))["state"] == "delivered"
    await world.ends_well()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"text": ""}, 422),
        ({"text": " \n"}, 422),
        ({"text": "x" * 1_000_000}, 422),
        ({"text": "nul \x00"}, 422),
        ({"text": "hi", "subject": "a\r\nBcc: everybody@example.org"}, 422),
        ({"text": "hi", "colour": "red"}, 422),
        ({"text": "hi", "message_class": "shouting"}, 422),
    ],
)
async def test_a_bad_message_from_an_agent_is_refused_with_a_reason(build_world, body, status):
    """Nothing of it is kept."""
    async with build_world(start=("web",)) as world:
        person = await world.known_customer("amy")
        await person.writes_mail("Hello")
        talk = await person.conversation()
        answered = await world.attempt("POST", f"/v1/conversations/{talk.id}/messages", body, key="k1")
        assert answered[0] == status and answered[1]["detail"], answered
        assert [one.content.text for one in await talk.messages()] == ["Hello"]


async def test_a_closed_conversation_takes_no_answer_and_opens_again_when_the_customer_writes(world):
    """409 with what to do; the customer's words are never refused."""
    oli = await world.known_customer("oli")
    await oli.writes_mail("Hello")
    talk = await oli.conversation()
    await talk.answer("Bye.")
    mail = await oli.mailbox.expects("Bye.")
    await world.post(f"/v1/conversations/{talk.id}/close", {})
    status, problem = await world.attempt("POST", f"/v1/conversations/{talk.id}/messages", {"text": "Oh"}, key="k9")
    assert (status, problem["reason"]) == (409, "conversation_closed")
    await oli.writes_mail("One more thing", answering=mail)
    await talk.hears("One more thing")
    assert (await talk.shown())["open"]
    await talk.answer("Go ahead.")
    await oli.mailbox.expects("Go ahead.")
    await world.ends_well()


async def test_a_message_that_no_way_leads_to_is_parked_with_its_reason_until_there_is_one(build_world):
    """The customer stopped everything: kept, visible, and sent as soon as they agree to something again."""
    async with build_world(failover={"park_s": 2.0}) as world:
        max_ = await world.known_customer("max", Channel.SMS)
        await max_.texts("Hello")
        talk = await max_.conversation()
        await talk.hears("Hello")
        await max_.texts("STOP")
        await max_.phone.expects("no more messages")
        message = await talk.answer("We found your ring.")
        parked = await talk.reaches("parked", "We found your ring.")
        assert parked.id == message and parked.reason == "no_consent" and parked.parked_until
        mailbox = Binding(Address(Channel.EMAIL, max_.mailbox.address), verified=True, order=5)
        await world.runtime.switchboard.set_binding(max_.id, mailbox)
        await max_.mailbox.expects("Example Shop", await talk.reference(), within_s=40)
        await max_.mailbox.expects("We found your ring.")
        await world.ends_well()


async def test_names_with_markup_and_line_ends_harm_no_channel(world):
    """XML in a customer's name and subject: said as it is, in a mail whose headers are whole."""
    eve = world.customer("eve")
    await eve.writes_mail("Hello", subject='<Say>"hi" & bye</Say>')
    talk = await eve.conversation()
    await talk.answer("Hello Eve & <all>.")
    mail = await eve.mailbox.expects("Hello Eve & <all>.")
    assert '<Say>"hi" & bye</Say>' in mail.subject
    await world.ends_well()


async def test_a_number_or_mailbox_that_is_none_is_refused(build_world):
    """With the field and what is wrong; nothing is bound."""
    async with build_world(start=("web",)) as world:
        for channel, value in (
            ("sms", "12"),
            ("sms", "+1999"),
            ("email", "nobody"),
            ("email", "a@b@c"),
            ("phone", "x"),
        ):
            body = {"name": "Q", "bindings": [{"address": {"channel": channel, "value": value}}]}
            status, problem = await world.attempt("POST", "/v1/customers", body)
            assert status == 422 and problem["detail"], (value, status, problem)
